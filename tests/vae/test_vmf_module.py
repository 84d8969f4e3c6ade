import math

import lightning.pytorch as L
import pytest
import torch
from torch.distributions import Bernoulli, Independent, kl_divergence

from zoo import VMFVAE
from zoo.data import Digits
from zoo.vae.density.importance import sample_noise
from zoo.vae.von_mises_fisher import HypersphericalUniform

SMALL = {"image_size": [4, 5], "channels": 1, "spheres": [3, 4], "hidden": [12, 8]}


def small(seed=0, **options):
    torch.manual_seed(seed)
    return VMFVAE(**{**SMALL, **options})


def images(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 4, 5, generator=g) * 2 - 1


def test_the_posts_demo_has_its_constant_kl():
    """kexue.fm/archives/8404: d = 4, kappa = 20; the loss is the reconstruction and a constant."""
    model = small(spheres=[4], concentration="fixed", kappa=20.0)
    x = images(6)
    kl = model.posterior(x).kl()
    torch.testing.assert_close(kl, torch.full((6,), 3.258385442132396))
    terms = model.terms(x, torch.randn(1, 6, model.noise_dim))
    torch.testing.assert_close(
        model.loss(terms), 3.258385442132396 - terms.log_likelihood.mean(), rtol=1e-6, atol=1e-5
    )
    assert not kl.requires_grad


def test_a_kl_can_be_asked_for():
    model = small(concentration="target_kl", target_kl=2.5)
    q = model.posterior(images(2))
    torch.testing.assert_close(q.kl_per_dimension(), torch.full((2, 2), 2.5), rtol=1e-5, atol=0)
    # Both spheres are as informative, so their concentrations differ.
    assert (q.concentrations[:, 0] > q.concentrations[:, 1] * 1.1).all()


def test_learned_concentrations_are_softplus_plus_one():
    model = small()
    x = images(5)
    h = model.encoder((x + 1) / 2)
    kappa = torch.nn.functional.softplus(model.head.concentration(h)) + 1
    q = model.posterior(x)
    torch.testing.assert_close(q.concentrations, kappa)
    raw = model.head.direction(h)
    torch.testing.assert_close(
        q.factors[0].mean_direction, raw[:, :3] / raw[:, :3].norm(dim=1)[:, None]
    )


@pytest.mark.parametrize("objective", ["elbo", "iwae", "dreg", "stl"])
def test_bounds_are_those_of_the_distributions(objective):
    model = small(objective=objective, samples=4, analytic_kl=False)
    x = torch.where(images(6) > 0, 1.0, -1.0)
    terms = model.terms(x, torch.randn(4, 6, model.noise_dim))
    q, parts = terms.posterior, torch.split(terms.z, [3, 4], dim=-1)
    logits = torch.stack([model.decoder(part) for part in terms.z])
    log_w = Independent(Bernoulli(logits=logits, validate_args=False), 3).log_prob((x + 1) / 2)
    for factor, part in zip(q.factors, parts, strict=True):
        log_w = log_w - factor.log_prob(part) + HypersphericalUniform(factor.dim).log_prob(part)
    expected = log_w.mean(0) if objective == "elbo" else log_w.logsumexp(0) - math.log(4)
    torch.testing.assert_close(model.bound(terms), expected)
    torch.testing.assert_close(model.loss(terms), -expected.mean())
    kl = sum(kl_divergence(f, HypersphericalUniform(f.dim)) for f in q.factors)
    torch.testing.assert_close(q.kl(), kl)


def test_every_parameter_learns_by_every_estimator():
    for objective in ("elbo", "iwae", "dreg", "stl"):
        model = small(objective=objective, samples=3)
        model.loss(model.terms(images(6), torch.randn(3, 6, model.noise_dim))).backward()
        for name, p in model.named_parameters():
            assert p.grad.abs().max() > 0, (objective, name)


def test_iwae_gradient_in_kappa_is_that_of_finite_differences():
    """Common noise makes the bound a smooth function of the head's bias."""
    model = small(objective="iwae", samples=5, spheres=[5]).double()
    x, noise = images(4).double(), torch.randn(5, 4, 6, dtype=torch.float64)
    bias = model.head.concentration.bias
    (gradient,) = torch.autograd.grad(model.loss(model.terms(x, noise)), bias)
    values = []
    for step in (1e-3, -1e-3):
        with torch.no_grad():
            bias += step
            values.append(model.loss(model.terms(x, noise)).item())
            bias -= step
    assert gradient.item() == pytest.approx((values[0] - values[1]) / 2e-3, rel=1e-3, abs=1e-6)


def test_codes_and_prior_lie_on_their_spheres():
    model = small()
    z = model.terms(images(6), torch.randn(2, 6, model.noise_dim)).z
    drawn = model.prior_sample(torch.randn(5000, 7))
    for part in (*torch.split(z, [3, 4], -1), *torch.split(drawn, [3, 4], -1)):
        torch.testing.assert_close(part.norm(dim=-1), torch.ones(part.shape[:-1]))
    assert drawn.mean(0).abs().max() < 4 / (3 * 5000) ** 0.5
    torch.testing.assert_close(model.encode(images(2)).norm(dim=-1), torch.full((2,), 2**0.5))


def test_state_dict_has_no_tables():
    names = set(small(concentration="fixed", kappa=3.0).state_dict())
    assert {name.split(".")[0] for name in names} == {"encoder", "decoder", "head"}
    assert not any("kappa" in name for name in names)


def test_density_of_a_decoder_that_ignores_its_code():
    """Then p(x) is p(x|z), whatever the posterior; the weights say how far it is from uniform."""
    model = small(concentration="fixed", kappa=2.0, binarization="threshold")
    model.decoder.out.weight.data.zero_()
    x = model.prepare(images(3))
    exact = model.log_likelihood(x, torch.zeros(1, 3, 7))[0].double()
    estimate = model.log_density(images(3), samples=4000, refine=0)
    assert ((estimate.log_density - exact).abs() < 5 * estimate.standard_error).all()
    torch.testing.assert_close(
        estimate.elbo, exact - model.posterior(x).kl().double(), rtol=0, atol=0.1
    )


def test_validation_and_test_numbers(tmp_path):
    model = VMFVAE(
        image_size=8, levels=17, spheres=[3], hidden=[16], binarization="dynamic",
        log_density_samples=30,
    )  # fmt: skip
    run = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    data = Digits(val_batch_size=180)
    run.validate(model, data, verbose=False)
    batch = data.on_after_batch_transfer(data.split("val").__getitems__(list(range(180))))
    x = model.prepare(batch.images, batch.index)
    terms = model.terms(x, sample_noise(8791, batch.index, 0, 1, 4))
    expected = -model.bound(terms).mean().item()
    assert run.callback_metrics["val/loss"].item() == pytest.approx(expected, rel=1e-4)
    (logged,) = run.test(model, data, verbose=False)
    assert "cosine" in model.protocol()["test/knn_N"]
    assert {"test/log_density", "test/knn_1000", "test/active_units"} <= set(logged)
    arrays = model.arrays()
    assert sum(arrays["test/log10_kappa"]) == 360
    assert len(arrays["test/kl_per_dimension"]) == 1
    assert len(arrays["test/variances"]) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spheres": []}, r"spheres=\[\]"),
        ({"spheres": [1]}, r"spheres=\[1\]"),
        ({"concentration": "free"}, "concentration='free'"),
        ({"concentration": "fixed"}, "give it for concentration=fixed"),
        ({"kappa": 3.0}, "give it for concentration=fixed"),
        ({"concentration": "target_kl"}, "give it for concentration=target_kl"),
        ({"concentration": "fixed", "kappa": -1.0}, "kappa=-1.0"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)
