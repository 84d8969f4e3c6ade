import copy
import os

import lightning.pytorch as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.processes import in_new_process
from zoo.data import Digits
from zoo.data.images.base import ImageBatch
from zoo.data.loader import epoch_loader
from zoo.ddpm import DDPM
from zoo.ddpm.generation import EVALUATION_SEED
from zoo.ddpm.likelihood import histogram_bits_per_dim
from zoo.layers.counter_rng import integers, normal

TINY = {
    "image_size": [8, 4],
    "channels": 2,
    "levels": 17,
    "timesteps": 20,
    "beta_end": 0.5,
    "width": 8,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention_levels": [1],
    "groups": 4,
    "sampler": "ancestral",
}


def tiny(seed=0, **options):
    torch.manual_seed(seed)
    model = DDPM(**{**TINY, **options})
    # Ho's initialisation makes the network almost zero: give its last layers a say.
    for name, p in model.net.named_parameters():
        if p.ndim > 1 and p.abs().max() < 1e-3:
            torch.nn.init.normal_(p, std=0.1)
        elif "class_embedding" in name:
            torch.nn.init.normal_(p, std=3.0)
    return model.eval()


def images(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 17, (n, 2, 8, 4), generator=g) / 8 - 1


def fit(model, loader, **options):
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "max_epochs": -1,
        "limit_val_batches": 0,
    }
    trainer = L.Trainer(**{**defaults, **options})
    trainer.fit(model.train(), loader, loader)
    return trainer


def evaluate(model, loader, kind="test", **options):
    trainer = L.Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            **options,
        }
    )
    getattr(trainer, kind)(model, loader, **({} if kind == "predict" else {"verbose": False}))
    return {k: v.item() for k, v in trainer.callback_metrics.items()}


class Numbered(torch.utils.data.Dataset):
    """Images with labels and numbers, indexed by batch."""

    def __init__(self, n):
        self.x = images(n)

    def __len__(self):
        return len(self.x)

    def __getitems__(self, i):
        i = torch.tensor(i)
        return ImageBatch(self.x[i], i % 10, i)


# Training


def test_loss_is_the_mean_squared_error_of_the_noise():
    model = tiny()
    x0 = images(6)
    t, noise = torch.tensor([0, 3, 7, 12, 18, 19]), torch.randn(x0.shape)
    ab = model.diffusion.chain.alpha_bar.float()[t].reshape(-1, 1, 1, 1)
    output = model.net(ab.sqrt() * x0 + (1 - ab).sqrt() * noise, t)
    torch.testing.assert_close(model.loss(x0, t, noise), ((output - noise) ** 2).mean())


def test_draws_come_from_the_global_stream():
    model = tiny()
    x0 = images(6)
    torch.manual_seed(3)
    loss = model.loss(x0)
    torch.manual_seed(3)
    t, noise = torch.randint(20, (6,)), torch.randn_like(x0)
    torch.testing.assert_close(loss, model.loss(x0, t, noise))


def test_loss_is_float32_under_autocast():
    model = tiny(variance="learned_range")
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.losses(images(4), torch.arange(4), torch.randn(4, 2, 8, 4))
    assert loss.dtype == torch.float32
    exact = model.losses(images(4), torch.arange(4), torch.randn(4, 2, 8, 4))
    assert loss.shape == exact.shape == (4,)


def test_labels_are_dropped_as_often_as_asked(monkeypatch):
    model = tiny(num_classes=10, label_dropout=0.3)
    seen = []
    monkeypatch.setattr(
        model.net, "forward", lambda x, t, labels: (seen.append(labels), x * 1.0)[1]
    )
    n = 5000
    model.training_step((torch.zeros(n, 2, 8, 4), torch.arange(n) % 10), 0)
    kept = seen[0] == torch.arange(n) % 10
    assert (seen[0][~kept] == 10).all()
    assert abs((~kept).float().mean() - 0.3) < 4 * (0.3 * 0.7 / n) ** 0.5


def test_learning_rate_follows_the_schedule_through_a_resume(tmp_path):
    def rates(steps, checkpoint=None):
        seen = []

        class Watch(L.Callback):
            def on_train_batch_start(self, trainer, module, *args):
                seen.append(trainer.optimizers[0].param_groups[0]["lr"])

        model = tiny(lr=0.1, lr_schedule={4: 1.0, 8: 0.5})
        loader = epoch_loader(Numbered(24), 2, train=True)
        trainer = L.Trainer(
            accelerator="cpu",
            max_steps=steps,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            callbacks=[Watch()],
        )
        trainer.fit(model.train(), loader, loader, ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return seen

    expected = [0, 0.025, 0.05, 0.075, 0.1, 0.0875, 0.075, 0.0625, 0.05, 0.05]
    assert rates(10) == pytest.approx(expected)
    assert rates(6) + rates(10, tmp_path / "last.ckpt") == pytest.approx(expected)


def test_adam_is_fused_and_equals_adam():
    model = tiny(lr=0.01)
    optimizer = model.configure_optimizers()
    assert optimizer.defaults["fused"]
    other = copy.deepcopy(model)
    plain = torch.optim.Adam(other.parameters(), lr=0.01)
    for _ in range(3):
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        optimizer.step()
        plain.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_quarters_of_the_steps_are_logged():
    model = tiny()
    trainer = fit(
        model, epoch_loader(Numbered(64), 64, train=True), max_steps=1, log_every_n_steps=1
    )
    logged = {k: v.item() for k, v in trainer.callback_metrics.items()}
    assert set(logged) == {"train/loss", *(f"train/loss_q{i}" for i in range(4))}
    assert min(logged.values()) <= logged["train/loss"] <= max(logged.values())


def test_quarters_under_autocast_are_not_rounded(monkeypatch):
    """A product of losses and quarters would be one of bfloat16: 8 bits of each number."""
    model, losses, t = tiny(), torch.linspace(0.1, 0.9, 64), torch.arange(64) % 20
    monkeypatch.setattr(model, "losses", lambda *_: losses.clone().requires_grad_())
    monkeypatch.setattr(model, "_drawn", lambda x0: (t, x0))
    loader = epoch_loader(Numbered(64), 64, train=True)
    trainer = fit(model, loader, max_steps=1, log_every_n_steps=1, precision="bf16-mixed")
    for i in range(4):
        logged = trainer.callback_metrics[f"train/loss_q{i}"].item()
        assert logged == pytest.approx(losses[t // 5 == i].mean().item(), rel=1e-6)


# Checkpoints


def test_checkpoint_holds_the_network_and_primitives(tmp_path):
    model = tiny(lr_schedule={5: 1.0})
    assert all(name.startswith("net.") for name in model.state_dict())
    trainer = fit(model, epoch_loader(Numbered(8), 4, train=True), max_steps=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert checkpoint["zoo_class"] == "zoo.DDPM"
    assert checkpoint["hyper_parameters"]["lr_schedule"] == {5: 1.0}
    again = DDPM.load_from_checkpoint(tmp_path / "a.ckpt").eval()
    x = images(3)
    assert torch.equal(again.net(x, torch.arange(3)), model.eval().net(x, torch.arange(3)))
    # Another schedule takes the same weights.
    DDPM.load_from_checkpoint(tmp_path / "a.ckpt", schedule="cosine", beta_end=0.02, timesteps=50)


def test_schedule_keys_may_be_strings():
    model = tiny(lr_schedule={"4": 1.0})
    assert model.lr_points == {4: 1.0}


# Evaluation


def test_validation_meets_the_same_noise_whatever_the_batches():
    model = tiny()
    losses = [
        evaluate(model, epoch_loader(Numbered(23), size, train=False), "validate")["val/loss"]
        for size in (23, 5, 1)
    ]
    x0, index = Numbered(23).x, torch.arange(23)
    t = integers(EVALUATION_SEED, index, 0, high=20)
    expected = model.loss(x0, t, normal(EVALUATION_SEED, index, 1, (2, 8, 4))).item()
    assert losses == pytest.approx([expected] * 3, rel=1e-5)


def test_bits_per_dim_is_the_mean_over_items():
    model = tiny(variance="learned_range", num_classes=10)
    data = Numbered(23)
    bits = model.bits_per_dim(data.x, labels=torch.arange(23) % 10)
    parts = model.bits_per_dim(data.x, labels=torch.arange(23) % 10, return_parts=True)
    torch.testing.assert_close(parts.total, bits)
    logged = evaluate(model, epoch_loader(data, 5, train=False))
    assert logged == pytest.approx(
        {
            "test/bits_per_dim": bits.mean().item(),
            "test/bits_prior": parts.prior.mean().item(),
            "test/bits_kl": parts.steps[:, 1:].sum(1).mean().item(),
            "test/bits_decoder": parts.decoder.mean().item(),
        },
        rel=1e-5,
    )
    assert "23 items" in model.protocol()["test/bits_per_dim"]
    assert "learned_range" in model.protocol()["test/bits_per_dim"]


def test_greedy_model_is_evaluated_with_a_density():
    greedy, small = tiny(variance="zero"), tiny(variance="fixed_small")
    logged = [
        evaluate(model, epoch_loader(Numbered(5), 5, train=False)) for model in (greedy, small)
    ]
    assert logged[0] == pytest.approx(logged[1])
    assert "variance fixed_small" in greedy.protocol()["test/bits_per_dim"]


def test_baseline_is_the_histogram_of_the_training_set():
    data = Digits(batch_size=200, val_batch_size=360)
    model = tiny(image_size=8, channels=1, timesteps=3)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    (logged,) = trainer.test(model, data, verbose=False)
    train, test = data.reference_images("train"), data.reference_images("test")
    expected = histogram_bits_per_dim(train, test, 17)
    assert logged["baseline/bits_per_dim"] == pytest.approx(expected)
    assert 2 < expected < 3  # of log2(17) = 4.09


def test_plain_loaders_are_numbered_by_batch():
    model = tiny()
    loader = DataLoader(TensorDataset(images(6), torch.zeros(6)), batch_size=3)
    expected = model.bits_per_dim(images(6)).mean().item()
    assert evaluate(model, loader)["test/bits_per_dim"] == pytest.approx(expected, rel=1e-5)


def test_bits_on_fewer_steps():
    model = tiny(variance="fixed_small")
    x = images(3)
    whole = model.bits_per_dim(x)
    torch.testing.assert_close(model.bits_per_dim(x, steps=20), whole)
    assert model.bits_per_dim(x, steps=5, return_parts=True).steps.shape == (3, 5)
    assert not torch.allclose(model.bits_per_dim(x, variance="fixed_large"), whole)


def test_prediction_is_a_sample_for_each_item():
    model = tiny(num_classes=10, label_dropout=0.0)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    numbers = torch.tensor([4, 0, 9, 2, 2])
    data = TensorDataset(images(5), torch.tensor([1, 1, 5, 3, 0]), numbers)
    batches = trainer.predict(model, DataLoader(data, batch_size=3))
    for number, label, got in zip(numbers, data.tensors[1], torch.cat(batches), strict=True):
        expected = model.sample(1, first=int(number), labels=int(label))[0]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


# Sampling


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"steps": 7, "sampler": "ddim", "eta": 0.5, "spacing": "linspace"},
        {"variance": "zero"},
        {"seed": 2**40},
    ],
)
def test_samples_do_not_depend_on_the_batch_split(options):
    model = tiny()
    whole = model.sample(5, **options)
    parts = torch.cat([model.sample(2, **options), model.sample(3, first=2, **options)])
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    assert whole.shape == (5, 2, 8, 4)
    assert whole.dtype == torch.float32
    assert whole.abs().max() <= 1
    assert not torch.allclose(whole[0], whole[1])


def test_trajectory_ends_in_the_sample():
    model = tiny()
    states = model.sample(2, return_trajectory=True, steps=6)
    assert states.shape == (7, 2, 2, 8, 4)
    assert torch.equal(states[0], normal(0, torch.arange(2), 20, (2, 8, 4)))
    assert torch.equal(states[-1].clamp(-1, 1), model.sample(2, steps=6))


def test_sampling_in_the_middle_of_a_fit_has_no_dropout():
    model = tiny(dropout=0.5)
    expected = model.sample(2)
    model.train()
    assert torch.equal(model.sample(2), expected)
    assert model.net.training
    assert model.net.mid_block.training
    assert not expected.requires_grad


def test_state_stays_float32():
    model = tiny()
    dtypes = []
    model.net.register_forward_pre_hook(lambda net, args: dtypes.append(args[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert model.sample(2).dtype == torch.float32
    assert set(dtypes) == {torch.float32}
    # And so it does for weights in bfloat16, where the tables would not survive.
    exact, rough = tiny().sample(2, sampler="ddim"), tiny().bfloat16().sample(2, sampler="ddim")
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("variance", ["fixed_large", "learned_range"])
def test_guidance(batch, variance):
    """lucidrains' is wrong at scale 1: it crashes, or for a batch of two mixes up the outputs."""
    model = tiny(num_classes=10, variance=variance, timesteps=2, beta_start=0.3, clip=False)
    labels = torch.arange(batch)
    free = torch.full((batch,), 10)
    for w in (0.0, 1.0, 2.5):
        states = model.sample(batch, labels=labels, guidance=w, return_trajectory=True)
        x, t = states[0], torch.ones(batch, dtype=torch.long)
        conditional, unconditional = model.net(x, t, labels), model.net(x, t, free)
        output = unconditional + w * (conditional - unconditional)
        output[:, 2:] = conditional[:, 2:]
        mean, log_variance = model.diffusion.reverse(output, x, t, clip=False)
        noise = normal(0, torch.arange(batch), 1, (2, 8, 4))
        expected = mean + (log_variance / 2).exp() * noise
        torch.testing.assert_close(states[1], expected, rtol=1e-4, atol=1e-4)


def test_labels():
    model = tiny(num_classes=3)
    assert torch.equal(model.sample(5), model.sample(5, labels=[0, 1, 2, 0, 1]))
    assert torch.equal(model.sample(2, labels=1), model.sample(2, labels=torch.tensor([1, 1])))
    # Number 3 is "no label", the network's output without one.
    assert torch.equal(
        model.net(images(2), torch.arange(2)),
        model.net(images(2), torch.arange(2), torch.tensor([3, 3])),
    )
    assert not torch.allclose(model.sample(2, labels=3), model.sample(2, labels=0))


def test_interpolation_ends_at_the_images():
    model = tiny()
    a, b = images(2), images(2, seed=1)
    for lam, x in [(0.0, a), (1.0, b)]:
        got = model.interpolate(a, b, lam, t=10, seed=4)
        torch.testing.assert_close(
            got, model.interpolate(x, x, 0.5, t=10, seed=4), atol=1e-5, rtol=0
        )
    each = model.interpolate(a, b, torch.tensor([0.0, 1.0]), t=10)
    torch.testing.assert_close(each[0], model.interpolate(a, b, 0.0, t=10)[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(each[1], model.interpolate(a, b, 1.0, t=10)[1], atol=1e-5, rtol=0)
    assert not torch.allclose(each[0], model.interpolate(a, b, 0.5, t=10)[0], atol=1e-3)


@pytest.mark.parametrize("t", [0, 7, 19])
def test_interpolation_denoises_from_the_step_it_noised_to(t, monkeypatch):
    """With a network that knows the image, the image comes back; others start one step lower."""
    model = tiny(variance="zero", clip=False)
    x = images(2)
    told = []

    def oracle(x_t, step, labels=None):
        told.append(int(step[0]))
        ab = model.diffusion.chain.alpha_bar.float()[step].reshape(-1, 1, 1, 1)
        return (x_t - ab.sqrt() * x) / (1 - ab).sqrt()

    monkeypatch.setattr(model.net, "forward", oracle)
    got = model.interpolate(x, x, 0.3, t=t)
    torch.testing.assert_close(got, x, rtol=0, atol=1e-4)
    assert told == list(range(t, -1, -1))


def test_channels_last_is_the_same_network():
    model, other = tiny(), tiny(channels_last=True)
    other.load_state_dict(model.state_dict())
    x, t = images(3), torch.arange(3)
    torch.testing.assert_close(other(x, t), model(x, t), rtol=1e-4, atol=1e-5)
    assert other(x, t).is_contiguous(memory_format=torch.channels_last)


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 7}, "7x7"),
        ({"image_size": [8]}, r"image_size=\[8\]"),
        ({"sampler": "euler"}, "sampler='euler': choose one of ancestral, ddim"),
        ({"optimizer": "sgd"}, "optimizer='sgd': choose one of adam, lamb"),
        ({"lr": 0.0}, r"lr=0\.0"),
        ({"label_dropout": 1.0}, r"label_dropout=1\.0"),
        ({"lr_schedule": {-5: 1.0}}, "lr_schedule={-5: 1.0}"),
        ({"eta": 0.5}, r"eta=0\.5 has no effect on sampler=ancestral"),
        ({"eta": 2.0, "sampler": "ddim"}, r"eta=2\.0"),
        ({"sample_steps": 21}, "steps=21: sample in 1 to 20 steps"),
        ({"guidance": 2.0}, r"guidance=2\.0: this model has no classes"),
        ({"guidance": 2.0, "num_classes": 5, "label_dropout": 0.0}, "label_dropout > 0"),
        ({"levels": 1}, "levels=1"),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(ValueError, match=message) as error:
        tiny(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.sample(0), "n=0"),
        (lambda m: m.sample(2, labels=1), "no classes"),
        (lambda m: m.sample(2, guidance=3.0), r"guidance=3\.0"),
        (lambda m: m.sample(2, sampler="ddim", variance="zero"), "variance=zero has no effect"),
        (lambda m: m.sample(2, eta=0.3), r"eta=0\.3 has no effect"),
        (lambda m: m.sample(2, variance="learned_range"), "was trained with fixed_large"),
        (lambda m: m.interpolate(images(2), images(2), 0.5, t=20), "t=20"),
        (lambda m: m.interpolate(images(2), images(3), 0.5, t=2), "images of shapes"),
        (lambda m: m.bits_per_dim(images(2), variance="zero"), "variance=zero"),
        (lambda m: m.bits_per_dim(images(2), cdf="normal"), "cdf='normal'"),
    ],
)
def test_bad_requests_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(tiny())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], "3 labels for 2 images"),
        (11, "labels must be in 0 ... 9"),
        ([-1, 0], "got"),
        ([0.5, 1], "whole numbers"),
        (torch.tensor([float("nan"), 1]), "whole numbers"),
    ],
)
def test_bad_labels_are_named(labels, message):
    with pytest.raises(ValueError, match=message):
        tiny(num_classes=10).sample(2, labels=labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 8}, "--model.channels=1 --model.image_size=[8, 8]"),
        ({"image_size": 16, "channels": 1}, "--model.channels=1 --model.image_size=[8, 8]"),
        ({"image_size": 8, "channels": 1, "levels": 256}, "--model.levels=17"),
        ({"image_size": 8, "channels": 1, "num_classes": 3}, "--model.num_classes=10"),
    ],
)
def test_data_that_does_not_fit_names_the_flag(options, message):
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, max_steps=1,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="set ") as error:
        trainer.fit(tiny(**options), Digits(batch_size=8))
    assert message in str(error.value)


def test_batch_that_does_not_fit_names_the_flag():
    with pytest.raises(ValueError, match=r"--model\.channels=3"):
        tiny().training_step((torch.zeros(2, 3, 8, 8), torch.zeros(2)), 0)


# Processes and compilers


class Drawn(DDPM):
    """Draws a training item's noise by its number, to compare one process with two."""

    def training_step(self, batch, batch_idx):
        t = integers(1, batch[2], 0, high=20)
        return self.loss(batch[0], t, normal(1, batch[2], 1, self.shape))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Shards(L.LightningDataModule):
    """Strided shards, uneven in evaluation."""

    def loader(self, batch, train):
        rank, world = self.trainer.global_rank, self.trainer.world_size
        data = Numbered(16 if train else 23)
        return epoch_loader(data, batch // world, train=train, rank=rank, world_size=world)

    def train_dataloader(self):
        return self.loader(8, True)

    def val_dataloader(self):
        return self.loader(8, False)

    def test_dataloader(self):
        return self.loader(8, False)


@pytest.fixture
def environment():
    saved = dict(os.environ)
    torch.set_num_threads(1)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(saved)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_equal_one(environment):
    results = []
    for devices in (1, 2):
        torch.manual_seed(0)
        model = Drawn(**TINY)
        strategy = "ddp_fork" if devices == 2 else "auto"
        trainer = L.Trainer(
            accelerator="cpu", devices=devices, strategy=strategy, max_steps=4, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False, val_check_interval=2,
        )  # fmt: skip
        trainer.fit(model, datamodule=Shards())
        metrics = {k: v.item() for k, v in trainer.callback_metrics.items()}
        (tested,) = trainer.test(model, datamodule=Shards(), verbose=False)
        results.append((dict(model.state_dict()), {**metrics, **tested}))
    (one, one_metrics), (two, two_metrics) = results
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-6)
    assert two_metrics == pytest.approx(one_metrics, rel=1e-5)
    assert set(one_metrics) >= {"val/loss", "test/bits_per_dim"}


@pytest.mark.slow
def test_compiled_model_is_the_same():
    in_new_process(compile_the_model)


def compile_the_model():
    model, other = tiny(), tiny(compile=True)
    keys = list(other.state_dict())
    trainer = fit(other, epoch_loader(Numbered(8), 4, train=True), max_steps=1)
    assert trainer.global_step == 1
    assert list(other.state_dict()) == keys
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(
        other.eval().sample(3, steps=5), model.sample(3, steps=5), rtol=1e-3, atol=1e-3
    )
