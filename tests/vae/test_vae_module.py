import json
import math
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from tests.processes import in_new_process
from zoo import VAE, VMFVAE
from zoo.data import Digits
from zoo.data.images.base import ImageBatch
from zoo.data.loader import epoch_loader
from zoo.layers.counter_rng import uniform
from zoo.training import Checkpoint, StepRNG
from zoo.vae.density.importance import estimate_log_density, sample_noise
from zoo.vae.evaluation import EVALUATION_SEED
from zoo.vae.optimizer import multipliers

SMALL = {"image_size": [4, 5], "channels": 1, "latent_dim": 3, "hidden": [12, 8]}


def small(seed=0, **options):
    torch.manual_seed(seed)
    return VAE(**{**SMALL, **options}).double()


def images(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 4, 5, generator=g) * 2 - 1


class Numbered(torch.utils.data.Dataset):
    """Images with labels and numbers, indexed by batch."""

    def __init__(self, n):
        self.x = images(n)

    def __len__(self):
        return len(self.x)

    def __getitems__(self, i):
        i = torch.tensor(i)
        return ImageBatch(self.x[i], i % 10, i)


def trainer(**options):
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "max_epochs": -1,
    }
    return L.Trainer(**{**defaults, **options})


def by_hand(model, x, noise):
    """Log weights and closed-form KL by torch's distributions; x in [0, 1]."""
    q = model.head(model.encoder(x))
    law = Independent(Normal(q.mean, q.log_std.exp()), 1)
    prior = Independent(Normal(torch.zeros_like(q.mean), 1.0), 1)
    z = q.mean + q.log_std.exp() * noise
    logits = torch.stack([model.decoder(part) for part in z])
    log_p = Independent(Bernoulli(logits=logits, validate_args=False), 3).log_prob(x)
    return log_p, law.log_prob(z) - prior.log_prob(z), kl_divergence(law, prior)


# Bounds


@pytest.mark.parametrize("objective", ["elbo", "iwae", "dreg", "stl"])
def test_bounds_are_those_of_torchs_distributions(objective):
    model = small(objective=objective, samples=4, analytic_kl=False)
    x = (images(6) > 0).double() * 2 - 1
    noise = torch.randn(4, 6, 3, dtype=torch.float64)
    log_p, ratio, _ = by_hand(model, (x + 1) / 2, noise)
    log_w = log_p - ratio
    expected = log_w.mean(0) if objective == "elbo" else log_w.logsumexp(0) - math.log(4)
    terms = model.terms(x, noise)
    torch.testing.assert_close(model.bound(terms), expected)
    torch.testing.assert_close(model.loss(terms), -expected.mean())


def test_closed_form_kl_and_its_weight():
    model = small(samples=2)
    x = (images(6) > 0).double() * 2 - 1
    noise = torch.randn(2, 6, 3, dtype=torch.float64)
    log_p, _, kl = by_hand(model, (x + 1) / 2, noise)
    terms = model.terms(x, noise)
    torch.testing.assert_close(model.bound(terms), log_p.mean(0) - kl)
    torch.testing.assert_close(model.loss(terms, 0.3), (0.3 * kl - log_p.mean(0)).mean())
    # The bound that is reported knows no weights.
    torch.testing.assert_close(model.bound(terms), log_p.mean(0) - kl)


def test_free_bits_are_in_the_loss_and_not_in_the_bound():
    plain, free = small(), small(free_bits=5.0)
    x, noise = images(6).double(), torch.randn(1, 6, 3, dtype=torch.float64)
    a, b = plain.terms(x, noise), free.terms(x, noise)
    torch.testing.assert_close(plain.bound(a), free.bound(b))
    reconstruction = b.log_likelihood.mean()
    torch.testing.assert_close(free.loss(b), 15.0 - reconstruction)


def test_bound_grows_with_k_on_a_fixed_model():
    model = small(seed=3)
    for p in model.parameters():
        p.data *= 2
    x = (images(20) > 0).double() * 2 - 1
    bounds = []
    for k in (1, 5, 50):
        other = small(objective="iwae", samples=k)
        other.load_state_dict(model.state_dict())
        noise = torch.randn(400, k, 20, 3, dtype=torch.float64)
        with torch.no_grad():
            bounds.append(sum(other.bound(other.terms(x, n)).mean() for n in noise).item() / 400)
    exact = model.float().log_density(x, samples=20_000).log_density.mean().item()
    assert bounds[0] < bounds[1] < bounds[2] < exact + 1e-3


def test_training_step_draws_from_the_global_stream():
    model = small(binarization="dynamic", samples=3, analytic_kl=False)
    batch = (images(6), torch.zeros(6), torch.arange(6))
    model.double()
    torch.manual_seed(5)
    loss = model.float().training_step(batch, 0)
    torch.manual_seed(5)
    x = torch.where(torch.rand(6, 1, 4, 5) * 2 - 1 < batch[0], 1.0, -1.0)
    noise = torch.randn(3, 6, 3)
    torch.testing.assert_close(loss, -model.bound(model.terms(x, noise)).mean())


# Pixels


def test_binarisation_has_the_grey_levels_mean():
    model = small(binarization="dynamic")
    x = images(1).expand(4000, -1, -1, -1)
    drawn = model.prepare(x)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    error = (drawn.mean(0) - x[0]).abs()
    assert (error < 4.5 * ((1 - x[0] ** 2) / 4000).sqrt() + 1e-6).all()
    assert not torch.equal(drawn, model.prepare(x))


def test_binarisation_of_an_evaluation_is_a_function_of_the_item():
    model = small(binarization="dynamic")
    x, index = images(8), torch.tensor([5, 0, 9, 2, 7, 1, 3, 4])
    whole = model.prepare(x, index)
    torch.testing.assert_close(model.prepare(x[3:5], index[3:5]), whole[3:5])
    noise = uniform(EVALUATION_SEED, index, 2**31, (1, 4, 5))
    white = noise < (x + 1) / 2
    torch.testing.assert_close(whole, torch.where(white, 1.0, -1.0).to(model.dtype))


def test_threshold_and_dequantisation():
    """In the precision of the model, which is float64 here."""
    x = images(4).to(small().dtype)
    torch.testing.assert_close(
        small(binarization="threshold").prepare(x), torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
    )
    model = small(likelihood="gaussian", dequantize=True, levels=17)
    grey = (x * 8).round() / 8
    noisy = model.prepare(grey, torch.arange(4))
    assert (noisy - grey).abs().max() <= 1 / 16
    torch.testing.assert_close((noisy * 8).round() / 8, grey)
    assert torch.equal(small().prepare(x), x)


# Training


def test_learning_rate_stages():
    rate = multipliers(None, {"3": 0.5, "7": 0.1})
    assert [rate(s) for s in (0, 2, 3, 6, 7, 100)] == [1, 1, 0.5, 0.5, 0.1, 0.1]
    assert multipliers({4: 1.0}, None)(2) == 0.5
    assert multipliers(None, None) is None


def test_weight_of_the_kl_follows_the_optimiser_steps():
    model = VAE(**SMALL, warmup_steps=4, beta=2.0)
    seen = []

    class Watch(L.Callback):
        def on_train_batch_end(self, run, module, *args):
            seen.append(run.callback_metrics["train/beta"].item())

    loader = epoch_loader(Numbered(24), 4, train=True)
    run = trainer(max_steps=6, log_every_n_steps=1, callbacks=[Watch()], limit_val_batches=0)
    run.fit(model, loader)
    assert seen == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]
    metrics = {k: v.item() for k, v in run.callback_metrics.items()}
    assert metrics["train/bound"] == pytest.approx(
        metrics["train/reconstruction"] - metrics["train/kl"], rel=1e-5
    )
    assert metrics["train/objective"] == pytest.approx(
        2 * metrics["train/kl"] - metrics["train/reconstruction"], rel=1e-5
    )


def test_output_begins_with_the_mean_image():
    model = VAE(image_size=8, channels=1, levels=17, hidden=[8], data_bias=True, latent_dim=2)
    data = Digits(batch_size=20)
    with torch.no_grad():
        model.decoder.out.weight.zero_()
    model.trainer = trainer()
    model.trainer.datamodule = data
    model.setup("fit")
    mean = data.reference_images("train").float().mean(0) / 255
    torch.testing.assert_close((model.sample(1)[0] + 1) / 2, mean.clamp(0.001, 0.999))


def fit_and_resume(tmp_path, **options):
    """Weights of a whole run, and of one that was cut in the middle of a warm-up."""

    def run(steps, checkpoint=None):
        torch.manual_seed(0)
        model = VAE(**SMALL, **options)
        loader = epoch_loader(Numbered(24), 4, train=True)
        fitted = trainer(
            max_steps=steps,
            callbacks=[StepRNG(3), Checkpoint(every_n_train_steps=0)],
            limit_val_batches=0,
            default_root_dir=tmp_path,
            enable_checkpointing=True,
        )
        fitted.fit(model, loader, ckpt_path=checkpoint)
        return model.state_dict()

    whole = run(9)
    run(5)
    return whole, run(9, tmp_path / "checkpoints/last.ckpt")


@pytest.mark.parametrize(
    "options",
    [
        {"binarization": "dynamic", "warmup_steps": 7},
        {"batch_norm": "su", "bn_eps": 1e-8},
        {"objective": "dreg", "samples": 3, "lr_stages": {4: 0.1}},
    ],
)
def test_a_resumed_run_has_the_same_weights(tmp_path, options):
    whole, resumed = fit_and_resume(tmp_path, **options)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


# Evaluation


def test_validation_meets_the_same_noise_whatever_the_batches():
    model = VAE(**SMALL, objective="iwae", samples=4, binarization="dynamic")
    logged = []
    for size in (23, 5, 1):
        run = trainer()
        run.validate(model, epoch_loader(Numbered(23), size, train=False), verbose=False)
        logged.append({k: v.item() for k, v in run.callback_metrics.items()})
    for name in ("val/loss", "val/elbo", "val/kl", "val/reconstruction", "val/active_units"):
        values = [metrics[name] for metrics in logged]
        assert values == pytest.approx([values[0]] * 3, rel=1e-5), name
    index = torch.arange(23)
    x = model.prepare(Numbered(23).x, index)
    noise = sample_noise(EVALUATION_SEED, index, 0, 4, 3)
    with torch.no_grad():
        bound = model.bound(model.terms(x, noise)).mean().item()
    assert logged[0]["val/loss"] == pytest.approx(-bound, rel=1e-5)
    assert logged[0]["val/elbo"] < bound


@pytest.mark.parametrize(
    ("refine", "words"), [(0, "the encoder's posterior"), (2, "a proposal of its own (2 steps)")]
)
def test_test_reports_the_estimate_and_its_protocol(refine, words):
    model = VAE(**SMALL, binarization="dynamic", log_density_samples=37, refine=refine)
    (logged,) = trainer().test(model, epoch_loader(Numbered(23), 5, train=False), verbose=False)
    index = torch.arange(23)
    x = model.prepare(Numbered(23).x, index)
    options = {"samples": 37, "seed": EVALUATION_SEED, "refine": refine}
    estimate = estimate_log_density(model, x, index, **options)
    with torch.no_grad():  # of the posterior, whatever the proposal
        bound = model.bound(model.terms(x, sample_noise(EVALUATION_SEED, index, 0, 1, 3)))
    expected = {
        "test/log_density": estimate.log_density.mean().item(),
        "test/elbo": (bound if refine else estimate.elbo).mean().item(),
        "test/ess": estimate.ess.mean().item(),
        "test/unreliable": (estimate.pareto_k > 0.7).double().mean().item(),
        "test/kl": model.posterior(x).kl().mean().item(),
        "test/bits_per_dim": -estimate.log_density.mean().item() / 20 / math.log(2),
    }
    for name, value in expected.items():
        assert logged[name] == pytest.approx(value, rel=1e-4), name
    assert logged["test/reconstruction"] == pytest.approx(
        logged["test/elbo"] + logged["test/kl"], rel=1e-5
    )
    said = model.protocol()
    assert f"37 importance samples an item from {words}" in said["test/log_density"]
    assert "23 items" in said["test/log_density"]
    assert "batches of 5" in said["test/mutual_information"]
    assert len(model.arrays()["test/kl_per_dimension"]) == 3
    # The method is the same thing, for images as they come.
    direct = model.log_density(Numbered(23).x, samples=37)
    torch.testing.assert_close(direct.log_density, estimate.log_density)


def test_a_widened_proposal_is_not_the_posteriors_elbo():
    model = VAE(**SMALL, log_density_samples=50, widen=1.5)
    (logged,) = trainer().test(model, epoch_loader(Numbered(23), 23, train=False), verbose=False)
    index = torch.arange(23)
    with torch.no_grad():
        terms = model.terms(Numbered(23).x, sample_noise(EVALUATION_SEED, index, 0, 1, 3))
    expected = model.bound(terms).mean().item()
    assert logged["test/elbo"] == pytest.approx(expected, rel=1e-4)
    assert "1.5 times as wide" in model.protocol()["test/log_density"]


@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ({"binarization": "none"}, False),
        ({"binarization": "threshold"}, True),
        ({"likelihood": "gaussian"}, False),
        ({"likelihood": "gaussian", "dequantize": True, "levels": 17}, True),
        ({"likelihood": "discretized_logistic", "levels": 17}, True),
    ],
)
def test_code_lengths_are_of_probabilities_only(options, bits):
    model = VAE(**SMALL, **options, log_density_samples=10)
    (logged,) = trainer().test(model, epoch_loader(Numbered(6), 6, train=False), verbose=False)
    assert ("test/bits_per_dim" in logged) == bits
    assert ("likelihood" in model.protocol()) != bits


def test_dequantised_and_discrete_code_lengths_agree():
    """A Gaussian far wider than a level: its density times the level's width is its probability."""
    options = {**SMALL, "levels": 65, "log_density_samples": 10, "scale": 0.5}
    torch.manual_seed(0)
    model = VAE(**options, likelihood="gaussian", dequantize=True)
    for p in (*model.decoder.out.parameters(), *model.head.parameters()):
        p.data.zero_()
    grey = (images(200) * 32).round() / 32
    data = Numbered(200)
    data.x = grey
    (logged,) = trainer().test(model, epoch_loader(data, 200, train=False), verbose=False)
    law = Normal(0.0, 0.5)
    p = law.cdf(grey + 1 / 64) - law.cdf(grey - 1 / 64)
    assert logged["test/bits_per_dim"] == pytest.approx(-p.log2().mean().item(), abs=2e-3)


# The command


TINY_YAML = """\
seed_everything: 3
model:
  class_path: zoo.VAE
  init_args: {image_size: 8, levels: 17, latent_dim: 2, hidden: [16], binarization: dynamic,
    log_density_samples: 20, lr: 0.01}
data:
  class_path: zoo.data.Digits
  init_args: {batch_size: 50, val_batch_size: 90}
trainer: {accelerator: cpu, devices: 1, max_steps: 20, val_check_interval: 10,
  check_val_every_n_epoch: null, enable_progress_bar: false, enable_model_summary: false,
  log_every_n_steps: 5}
"""


def test_from_the_command(tmp_path, zoo_cli):
    """Train, test, embed; results.json has what is no scalar, too."""
    Path("vae.yaml").write_text(TINY_YAML)
    code, _, err = zoo_cli("fit", "-c", "vae.yaml", "--run_dir", "run")
    assert code == 0, err
    code, _, err = zoo_cli("test", "--ckpt_path", "run")
    assert code == 0, err
    results = json.loads(Path("run/results.json").read_text())
    names = {"log_density", "elbo", "kl", "reconstruction", "bits_per_dim", "ess", "unreliable"}
    names |= {"active_units", "mutual_information", "knn_100", "knn_600", "knn_1000"}
    assert {f"test/{name}" for name in names} <= set(results["metrics"])
    baselines = {name for name in results["metrics"] if name.startswith("baseline/")}
    assert baselines == {
        f"baseline/{name}"
        for name in ("log_density", "bits_per_dim", "knn_100", "knn_600", "knn_1000")
    }
    kl = results["arrays"]["test/kl_per_dimension"]
    assert sum(kl) == pytest.approx(results["metrics"]["test/kl"], rel=1e-4)
    code, _, err = zoo_cli("predict", "--ckpt_path", "run")
    assert code == 0, err
    import numpy as np

    import zoo

    with np.load("run/embeddings.npz") as file:
        embedded = dict(file)
    assert (embedded["index"] == np.arange(360)).all()
    model, data = zoo.load("run"), Digits()
    x, labels, index = data.on_after_batch_transfer(
        data.split("test").__getitems__(list(range(360)))
    )
    assert (embedded["label"] == labels.numpy()).all()
    with torch.no_grad():
        q = model.posterior(model.prepare(x, index))
    np.testing.assert_allclose(embedded["code"], q.mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(embedded["std"], q.log_std.exp(), rtol=1e-4)
    np.testing.assert_allclose(embedded["kl"], q.kl(), rtol=1e-3)


def test_early_stopping_works_beside_the_zoos_checkpoints(zoo_cli):
    stop = "lightning.pytorch.callbacks.EarlyStopping"
    stop = f"{{class_path: {stop}, init_args: {{monitor: val/loss, patience: 2}}}}"
    more = f"log_every_n_steps: 5, callbacks: [{stop}]}}\ncheckpoint: {{monitor: val/loss}}\n"
    Path("vae.yaml").write_text(TINY_YAML.replace("log_every_n_steps: 5}\n", more))
    flags = ["--model.lr", "1e-30", "--trainer.max_steps", 200]
    code, _, err = zoo_cli("fit", "-c", "vae.yaml", "--run_dir", "run", *flags)
    assert code == 0, err
    last, best = (
        torch.load(f"run/checkpoints/{name}.ckpt", weights_only=True) for name in ("last", "best")
    )
    assert last["global_step"] == 30  # the first validation, and two that are no better
    assert best["global_step"] == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "vae"}, "objective='vae'"),
        ({"samples": 0}, "samples=0"),
        ({"latent_dim": 0}, "latent_dim=0"),
        ({"hidden": []}, r"hidden=\[\]"),
        ({"free_bits": 1.0, "objective": "iwae"}, "free_bits needs"),
        ({"likelihood": "gaussian", "binarization": "dynamic"}, "binarization=dynamic"),
        ({"dequantize": True}, "dequantize=true: for"),
        ({"lr_schedule": {1: 1.0}, "lr_stages": {1: 1.0}}, "not both"),
        ({"adam_betas": [0.9]}, "adam_betas"),
        ({"image_size": [1, 2, 3]}, "image_size"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        VAE(**{**SMALL, **options})


def test_data_that_does_not_fit_names_the_flag():
    for options, flag in (
        ({"image_size": 9}, "--model.image_size=[8, 8]"),
        ({}, "--model.levels=17"),
    ):
        model = VAE(**{"image_size": 8, "hidden": [8], **options})
        with pytest.raises(ValueError, match="set --model") as error:
            trainer(max_steps=1).fit(model, Digits(batch_size=8))
        assert flag in str(error.value)


# Processes and compilers


class Fixed(VAE):
    """Draws by the item, so that one process can repeat two; in float64."""

    def prepare(self, x, index=None):
        return super().prepare(x, index).double()

    def training_step(self, batch, batch_idx):
        x = self.prepare(batch[0], batch[2])
        return self.loss(self.terms(x, sample_noise(1, batch[2], 0, 2, self.noise_dim)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    "options", [{"objective": "iwae"}, {"batch_norm": "su"}, {"free_bits": 0.3}]
)
def test_two_processes_equal_one(options):
    found = []
    for processes in (1, 2):
        torch.manual_seed(0)
        model = Fixed(
            image_size=8, levels=17, hidden=[12], latent_dim=3, samples=2, log_density_samples=10,
            binarization="dynamic", **options,
        ).double()  # fmt: skip
        strategy = "ddp_fork" if processes == 2 else "auto"
        run = trainer(devices=processes, strategy=strategy, max_steps=4, limit_val_batches=0)
        run.fit(model, Digits(batch_size=32 // processes, val_batch_size=77))
        weights = {k: v.clone() for k, v in model.state_dict().items()}
        (tested,) = run.test(model, Digits(val_batch_size=77), verbose=False)
        # Mixtures over other batches are other mixtures.
        tested.pop("test/mutual_information")
        found.append((weights, tested))
    (one, metrics), (two, other) = found
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6, msg=name)
    assert other == pytest.approx(metrics, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("sphere", [False, True])
def test_compiled_model_is_the_same(sphere):
    in_new_process(compile_the_model, sphere)


def compile_the_model(sphere):
    options = {key: value for key, value in SMALL.items() if key != "latent_dim"}
    plain, compiled = (
        VMFVAE(**options, spheres=[4, 3], compile=c) if sphere else VAE(**SMALL, compile=c)
        for c in (False, True)
    )
    run = trainer(max_steps=1, limit_val_batches=0)
    run.fit(compiled, epoch_loader(Numbered(8), 4, train=True))
    plain.load_state_dict(compiled.state_dict())
    x, noise = images(4), torch.randn(1, 4, plain.noise_dim)
    torch.testing.assert_close(
        compiled.bound(compiled.terms(x, noise)), plain.bound(plain.terms(x, noise))
    )
