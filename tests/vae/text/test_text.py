"""TextVAE: its objective, its numbers, and what travels in a checkpoint."""

import math

import lightning.pytorch as L
import numpy as np
import pytest
import torch

import zoo
from zoo.data.text.lines import SentenceSet
from zoo.data.text.vocabulary import Vocabulary
from zoo.layers.counter_rng import normal
from zoo.vae.text.evaluation import EVALUATION_SEED, unigram
from zoo.vae.text.module import TextVAE

TINY = {
    "vocab_size": 9, "latent_dim": 3, "embedding": 4, "hidden": 6, "dropout_in": 0.0,
    "dropout_out": 0.0, "init": 0.5, "embedding_init": 1.0, "log_density_samples": 20,
}  # fmt: skip


def tiny(seed=0, **options):
    torch.manual_seed(seed)
    return TextVAE(**{**TINY, **options}).eval()


def sentences(n=23, longest=9, seed=0):
    rng = np.random.default_rng(seed)
    words = [rng.integers(1, 9, rng.integers(1, longest)) for _ in range(n)]
    return SentenceSet(words, end=0)


def batch(n=5):
    return sentences().__getitems__(list(range(n)))


def padded(x, more):
    tokens = torch.nn.functional.pad(x.tokens, (0, more))
    inside = torch.arange(tokens.shape[1]) < x.lengths[:, None]
    return x._replace(tokens=tokens, real=inside.flatten().nonzero()[:, 0])


def evaluate(model, kind, size):
    loader = torch.utils.data.DataLoader(
        sentences(), batch_size=size, collate_fn=lambda x: x, sampler=range(23)
    )
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    getattr(trainer, kind)(model, loader, verbose=False)
    return {k: v.item() for k, v in trainer.callback_metrics.items()}


def test_padding_changes_nothing():
    model = tiny()
    x = batch()
    noise = torch.randn(4, 5, 3)
    for more in (0, 1, 17):
        longer = padded(x, more)
        q = model.posterior(longer)
        z, _ = q.draw(noise)
        values = model.log_likelihood(longer, z), q.kl(), model.log_density(longer).log_density
        if more == 0:
            expected = values
        for got, want in zip(values, expected, strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("free", [0.0, 0.13])
def test_objective_is_the_bound_with_the_weight_of_its_kl(free):
    model = tiny(beta=0.7, free_bits=free)
    x = batch()
    torch.manual_seed(5)
    objective = model.training_step(x, 0)
    torch.manual_seed(5)
    noise = torch.randn(1, 5, 3)
    mean, log_std = model.head(model.encoder(x.tokens, x.lengths)).mean, model.posterior(x).log_std
    kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1) - log_std
    z = mean + log_std.exp() * noise
    expected = 0.7 * kl.mean(0).clamp_min(free).sum() - model.log_likelihood(x, z).mean()
    torch.testing.assert_close(objective, expected)
    assert (kl.mean(0) < 0.13).any()
    assert (kl.mean(0) > 0.13).any()


def test_beta_follows_the_steps():
    model = tiny(beta_start=0.1, warmup_steps=10)
    assert [model.schedule(s) for s in (0, 5, 10, 50)] == pytest.approx([0.1, 0.55, 1, 1])


def test_density_is_the_integral_over_the_code():
    model = tiny(latent_dim=1)
    x = batch()
    grid = torch.linspace(-9, 9, 2001)
    prior = torch.distributions.Normal(0, 1).log_prob(grid)[:, None]
    with torch.no_grad():
        likelihood = model.log_likelihood(x, grid[:, None, None].expand(-1, 5, 1)).double()
    exact = (likelihood + prior).logsumexp(0) + math.log(grid[1] - grid[0])
    estimate = model.log_density(x, samples=4000)
    assert ((estimate.log_density - exact).abs() < 5 * estimate.standard_error + 1e-4).all()
    assert (estimate.standard_error < 0.05).all()
    bound = -(estimate.elbo - exact)
    assert (bound > -0.01).all()


def test_a_language_model_knows_its_density():
    model = tiny(posterior="none")
    x = batch()
    logged = evaluate(model, "test", 5)
    whole = sentences().__getitems__(list(range(23)))
    expected = model.log_likelihood(whole, model.codes(whole))[0].mean().item()
    assert logged["test/log_density"] == pytest.approx(expected, rel=1e-5)
    assert logged["test/perplexity"] == pytest.approx(
        math.exp(-expected / whole.lengths.double().mean()), rel=1e-5
    )
    assert not hasattr(model, "encoder")
    assert "exact" in model.protocol()["test/log_density"]
    with pytest.raises(ValueError, match="log_likelihood"):
        model.log_density(x)


@pytest.mark.parametrize("kind", ["validate", "test"])
def test_numbers_do_not_depend_on_the_batches(kind):
    model = tiny()
    logged = [evaluate(model, kind, size) for size in (23, 5, 1)]
    for name in logged[0]:
        if "mutual" not in name:
            assert logged[1][name] == pytest.approx(logged[0][name], rel=1e-4), name
            assert logged[2][name] == pytest.approx(logged[0][name], rel=1e-4), name


def test_validation_is_the_bound_with_each_sentences_own_noise():
    model = tiny()
    whole = sentences().__getitems__(list(range(23)))
    q = model.posterior(whole)
    z, _ = q.draw(normal(EVALUATION_SEED, whole.index, 2**20, (3,))[None])
    elbo = (model.log_likelihood(whole, z)[0] - q.kl()).mean().item()
    logged = evaluate(model, "validate", 4)
    assert logged["val/loss"] == pytest.approx(-elbo, rel=1e-5)
    words = whole.lengths.double().mean().item()
    assert logged["val/perplexity_bound"] == pytest.approx(math.exp(-elbo / words), rel=1e-5)
    assert logged["val/reconstruction"] == pytest.approx(elbo + q.kl().mean().item(), rel=1e-5)


def test_test_logs_the_density_estimate():
    model = tiny()
    whole = sentences().__getitems__(list(range(23)))
    estimate = model.log_density(whole, samples=20, seed=EVALUATION_SEED)
    logged = evaluate(model, "test", 6)
    for name in ("log_density", "elbo", "ess", "standard_error"):
        assert logged[f"test/{name}"] == pytest.approx(getattr(estimate, name).mean().item())
    assert logged["test/log_density"] > logged["test/elbo"]
    assert "20 samples" in model.protocol()["test/log_density"]
    assert "batches of 6" in model.protocol()["test/mutual_information"]


def test_words_are_dropped_as_often_as_asked(monkeypatch):
    model = tiny(word_dropout=0.3).train()
    seen = []
    original = model.decoder.log_prob

    def watch(targets, inputs, real, z):
        seen.append((targets, inputs))
        return original(targets, inputs, real, z)

    monkeypatch.setattr(model.decoder, "log_prob", watch)
    x = SentenceSet([np.full(40, 5)] * 100, end=0).__getitems__(list(range(100)))
    model.training_step(x, 0)
    targets, inputs = seen[0]
    assert (targets == x.tokens).all()
    assert (inputs[:, 0] == 0).all()
    dropped = inputs[:, 1:] == 1
    assert (inputs[:, 1:][~dropped] == 5).all()
    assert abs(dropped.float().mean() - 0.3) < 4 * (0.3 * 0.7 / 4000) ** 0.5
    model.eval().log_likelihood(x, torch.zeros(1, 100, 3))
    assert (seen[1][1][:, 1:] == 5).all()


@pytest.mark.parametrize("init", [1.0, 0.01])
@pytest.mark.parametrize(("mode", "square"), [("paper", 0.9**2), ("su", 0.7)])
def test_batch_norm_keeps_the_kl_of_every_batch(init, mode, square):
    """Also from the smallest weights of the recipe, whose means hardly differ."""
    model = tiny(batch_norm=mode, bn_gamma=0.9, bn_tau=0.7, init=init, embedding_init=0.1).train()
    x = sentences(500).__getitems__(list(range(500)))
    for _ in range(3):
        kl = model.posterior(x).kl().mean()
        assert kl >= 0.99 * 3 * square / 2
        torch.nn.init.normal_(model.head.scale.weight, std=0.1)


def test_unigram_baseline():
    train, test = torch.tensor([0, 0, 1, 3]), torch.tensor([0, 2])
    expected = -(math.log(3 / 8) + math.log(1 / 8)) / 2  # counts 3, 2, 1, 2 of 8
    assert unigram(train, test, 4) == pytest.approx(expected)


# Words and checkpoints


def test_the_words_travel_with_the_weights(tmp_path):
    words = Vocabulary("word", ["</s>", "<unk>", *"abcdefg"])
    model = tiny()
    with pytest.raises(ValueError, match="no words yet"):
        model.generate_text(1)
    model.use_vocabulary(words)
    zoo.save_pretrained(model, tmp_path / "out")
    again = zoo.load(tmp_path / "out")
    assert again.vocabulary == words
    assert again.generate_text(5) == model.generate_text(5)
    with pytest.raises(ValueError, match="other words"):
        again.use_vocabulary(Vocabulary("word", ["</s>", "<unk>", *"abcdefh"]))


@pytest.mark.parametrize(
    ("options", "level", "message"),
    [({"vocab_size": 8}, "word", "--model.vocab_size=9"), ({"vocab_size": 257}, "byte", "end=256")],
)
def test_words_that_do_not_fit_name_the_flag(options, level, message):
    words = Vocabulary(level, [] if level == "byte" else ["</s>", "<unk>", *"abcdefg"])
    with pytest.raises(ValueError, match=message):
        tiny(**options).use_vocabulary(words)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"posterior": "laplace"}, "posterior='laplace': choose one of gaussian, vmf, none"),
        ({"optimizer": "lion"}, "optimizer='lion'"),
        ({"hidden": 0}, "hidden=0"),
        ({"dropout_out": 1.0}, r"dropout_out=1\.0"),
        ({"end": 9}, "end=9"),
        ({"free_bits": -1.0}, r"free_bits=-1\.0"),
        ({"bn_eps": 0.0}, r"bn_eps=0\.0"),
        ({"kappa": 3.0}, r"kappa=3\.0 has no effect on posterior=gaussian"),
        ({"concentration": "fixed"}, "concentration=fixed has no effect on posterior=gaussian"),
        ({"posterior": "vmf", "concentration": "fixed"}, "kappa=None with concentration=fixed"),
        ({"posterior": "none", "free_bits": 0.1}, r"free_bits=0\.1 has no effect"),
        ({"lr_decay": 2.0}, r"lr_decay=2\.0"),
        ({"posterior": "none", "batch_norm": "paper"}, "batch_norm=paper has no effect"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(ValueError, match=message) as error:
        tiny(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "kl"),
    [({"concentration": "target_kl", "target_kl": 2.5}, 2.5),
     ({"concentration": "fixed", "kappa": 10.0}, 1.9957323168382172)],
)  # fmt: skip
def test_a_sphere_keeps_its_kl(options, kl):
    """The KL of d = 3, kappa = 10 is known in closed form."""
    model = tiny(posterior="vmf", **options)
    logged = evaluate(model, "test", 8)
    assert logged["test/kl"] == pytest.approx(kl, rel=1e-5)
    x = batch()
    z, _ = model.posterior(x).draw(torch.randn(6, 5, model.head.noise_dim))
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(6, 5))
