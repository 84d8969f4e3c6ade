import copy

import lightning.pytorch as L
import pytest
import torch
from torch.utils.data import DataLoader

from tests.wgan.naive import iteration
from zoo.data import Digits
from zoo.data.toy2d import PointBatch, Toy2D
from zoo.training import EMA
from zoo.wgan import WGAN
from zoo.wgan.constraints.by_name import CONSTRAINTS
from zoo.wgan.transport import exact_w1

TOY = {
    "network": "mlp",
    "latent_dim": 2,
    "generator_widths": [16, 16],
    "critic_widths": [16, 16],
    "n_critic": 2,
    "critic_batch": 8,
    "lr_generator": 0.01,
    "lr_critic": 0.01,
}
IMAGES = {
    "network": "dcgan",
    "image_size": 8,
    "channels": 1,
    "levels": 17,
    "latent_dim": 4,
    "generator_widths": [8, 4],
    "critic_widths": [4, 8],
    "n_critic": 2,
    "critic_batch": 8,
    "init": "kaiming",
}


def wgan(options, seed=0, **more):
    torch.manual_seed(seed)
    return WGAN(**{**options, **more})


def trainer(**options):
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        "max_epochs": -1,
        "limit_val_batches": 0,
    }
    return L.Trainer(**{**defaults, **options})


# Training


RATE = 0.02


class Recording(WGAN):
    """Remembers what it drew."""

    def __init__(self, **options):
        super().__init__(**options)
        self.recorded = {"z": [], "alpha": []}

    def draw_latent(self, n):
        z = super().draw_latent(n)
        self.recorded["z"].append(z)
        return z

    def draw_noise(self, real):
        noise = super().draw_noise(real)
        self.recorded["alpha"].append(noise)
        return noise

    def configure_optimizers(self):
        # Adam would turn gradients that are rounding errors into steps.
        return [torch.optim.SGD(m.parameters(), RATE) for m in (self.generator, self.critic)]


CASES = [(name, "wasserstein", 0) for name in CONSTRAINTS if name != "spectral_norm"]
CASES += [("gn", "hinge", 3), ("gran", "ns", 0), ("r1", "ns", 0), ("gp", "hinge", 3)]


@pytest.mark.parametrize(("name", "objective", "classes"), CASES)
def test_training_equals_the_naive_loop(name, objective, classes):
    """Three iterations through the Trainer, against double backward and three forwards."""
    torch.manual_seed(0)
    options = {"clip_value": 0.2} if name == "clip" else {}
    model = Recording(**IMAGES, **options, lipschitz=name, objective=objective, num_classes=classes)
    for key, p in model.critic.named_parameters():
        if "bias" in key:
            torch.nn.init.normal_(p, std=0.1)
    naive, start = copy.deepcopy(model), [p.detach().clone() for p in model.parameters()]
    torch.manual_seed(2)
    data = torch.rand(3 * 16, 1, 8, 8) * 2 - 1
    labels = torch.arange(48) % max(classes, 1)
    model.draw_labels = lambda n: torch.arange(n) % classes if classes else None
    batches = [(data[i : i + 16], labels[i : i + 16]) for i in range(0, 48, 16)]
    trainer(max_steps=3).fit(model, DataLoader(batches, batch_size=None))

    networks = naive.generator, naive.critic
    optimizers = [torch.optim.SGD(network.parameters(), RATE) for network in networks]
    draws = {key: iter(value) for key, value in model.recorded.items()}
    clip = options.get("clip_value")
    for x, y in batches:
        given = [*y.chunk(2), torch.arange(16) % classes] if classes else None
        iteration(name, objective, *networks, optimizers, x, draws, 2, clip, given)
    moved = {"generator": 0.0, "critic": 0.0}
    for (key, p), q, first in zip(model.named_parameters(), naive.parameters(), start, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6, msg=key)
        part = key.split(".")[0]
        moved[part] = max(moved[part], float((p - first).detach().abs().max()))
    assert min(moved.values()) > 1e-3


def test_c_transform_moves_fakes_towards_their_nearest_real_points():
    """The generator's gradient is that of the assigned pairs."""
    model = wgan(TOY, lipschitz="none", objective="c_transform")
    real, fake = torch.randn(8, 2), torch.randn(16, 2)
    value, upstream = model.objective.generator_gradient(
        model.constraint.generator_gradient, model.critic, fake, None, real, None
    )
    phi = model.critic(real).detach()
    cost = torch.cdist(fake, real)
    pick = (cost - phi).argmin(1)
    expected = (fake - real[pick]) / cost.gather(1, pick[:, None]) / 16
    torch.testing.assert_close(upstream, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(value, phi.mean() + (cost - phi).amin(1).mean())


@pytest.mark.parametrize("objective", ["c_transform", "c_eps_transform"])
def test_c_transform_critic_approaches_the_exact_distance(objective):
    epsilon = {"c_epsilon": 0.01} if objective == "c_eps_transform" else {}
    model = wgan(TOY, lipschitz="none", objective=objective, **epsilon)
    real, fake = torch.randn(8, 2), torch.randn(8, 2) + 1
    optimizer = torch.optim.Adam(model.critic.parameters(), lr=0.01)
    for _ in range(300):
        loss, _ = model._critic_loss(model.critic, real, fake, None, None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    exact = exact_w1(real, fake)
    # From below, but for the softness of epsilon.
    assert 0.93 * exact < -loss.item() < exact + 0.01


def test_steps_are_generator_iterations(tmp_path):
    """max_steps, val_check_interval, the schedule and the cadence of callbacks, with n_critic=2."""
    seen = {"step": [], "val": [], "lr": []}

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, module, *args):
            seen["step"].append(trainer.global_step)

        def on_train_batch_start(self, trainer, module, *args):
            seen["lr"].append([o.param_groups[0]["lr"] for o in trainer.optimizers])

        def on_validation_start(self, trainer, module):
            seen["val"].append(trainer.global_step)

    model = wgan(TOY, lr_critic=0.02, lr_schedule={0: 1.0, 10: 0.0})
    data = Toy2D(batch_size=16, epoch_size=1024, val_size=64)
    run = trainer(
        max_steps=7,
        limit_val_batches=1,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        callbacks=[Watch()],
    )
    run.fit(model, data)
    assert seen["step"] == [1, 2, 3, 4, 5, 6, 7]
    assert seen["val"] == [3, 6]
    assert run.global_step == 7
    assert [a for a, _ in seen["lr"]] == pytest.approx([0.01 * (1 - k / 10) for k in range(7)])
    assert [b for _, b in seen["lr"]] == pytest.approx([0.02 * (1 - k / 10) for k in range(7)])


def test_only_the_generator_is_averaged():
    model, ema = wgan(TOY), EMA(0.5, warmup=False)
    start = copy.deepcopy(dict(model.named_parameters()))
    raw = {}

    class Watch(L.Callback):
        def on_train_end(self, trainer, module):
            raw.update({k: v.detach().clone() for k, v in module.named_parameters()})

    trainer(max_steps=1, callbacks=[ema, Watch()]).fit(model, Toy2D(batch_size=16))
    for name, value in model.named_parameters():
        average = (start[name] + raw[name]) / 2 if name.startswith("generator") else raw[name]
        torch.testing.assert_close(value, average, msg=name)
        if name != "critic.linear.bias":  # which a difference of means does not depend on
            assert not torch.equal(raw[name], start[name]), name


@pytest.mark.parametrize("lipschitz", ["gp", "gn", "spectral_norm"])
def test_the_generator_step_leaves_the_critic_alone(lipschitz):
    from tests.wgan.test_double_backward import Kernels

    model = wgan(IMAGES, lipschitz=lipschitz)
    before = copy.deepcopy(model.critic.state_dict())
    optimizer = torch.optim.SGD(model.generator.parameters(), lr=1.0)
    moved = copy.deepcopy(model.generator.state_dict())
    with Kernels() as kernels:
        model._generator_step(optimizer, torch.randn(8, 1, 8, 8), None)
    for name, value in model.critic.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in model.critic.parameters())
    assert any(not torch.equal(v, moved[k]) for k, v in model.generator.state_dict().items())
    # Weight gradients of the generator's convolutions only: no work for a frozen critic.
    convolutions = [m for m in model.generator.modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    assert kernels.weight_gradients == len(convolutions)


def test_critic_steps_make_no_graph_of_the_generator(monkeypatch):
    model = wgan(TOY)
    seen = []
    inner = model._critic_loss

    def look(critic, real, fake, *args):
        seen.append(fake.requires_grad)
        return inner(critic, real, fake, *args)

    model._critic_loss = look
    trainer(max_steps=2).fit(model, Toy2D(batch_size=16))
    assert seen == [False] * 4


def test_all_fakes_at_once_are_the_same_without_batch_norm():
    models = [wgan(TOY, fakes_at_once=at_once) for at_once in (False, True)]
    for model in models:
        torch.manual_seed(1)
        model.fakes = torch.cat(model._fakes([None, None]))
    torch.testing.assert_close(models[0].fakes, models[1].fakes)


def test_dequantized_images_fill_their_grey_level():
    model = wgan(IMAGES, dequantize=True)
    v = torch.arange(17.0).repeat(1000)
    x = model._dequantized(2 * v / 16 - 1)
    level = (x + 1) * 17 / 2
    assert (level >= v - 1e-4).all()
    assert (level <= v + 1 + 1e-4).all()
    assert abs(float((level - v).mean()) - 0.5) < 0.01


@pytest.mark.parametrize("lipschitz", ["gp", "gn", "r1"])
def test_inner_gradients_are_float32_under_bf16(lipschitz):
    model = wgan(IMAGES, lipschitz=lipschitz)
    real, fake = torch.randn(8, 1, 8, 8), torch.randn(8, 1, 8, 8)
    noise = model.draw_noise(real)

    def gradients(module, autocast):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), module.critic_precision():
            loss, _ = module._critic_loss(module.critic, real, fake, None, noise)
        assert loss.dtype == torch.float32
        return torch.cat(
            [g.flatten() for g in torch.autograd.grad(loss, list(module.critic.parameters()))]
        )

    exact = gradients(model, False)
    torch.testing.assert_close(gradients(model, True), exact, rtol=0, atol=0)
    half = wgan(IMAGES, lipschitz=lipschitz, critic_bf16=True)
    error = (gradients(half, True) - exact).norm() / exact.norm()
    assert 1e-4 < error < 0.2


def test_bf16_training_runs_and_stays_finite():
    model = wgan(IMAGES, lipschitz="gn")
    start = copy.deepcopy(model.state_dict())
    trainer(max_steps=2, precision="bf16-mixed").fit(model, Digits(batch_size=16))
    for name, p in model.named_parameters():
        assert p.dtype == torch.float32
        assert torch.isfinite(p).all()
        assert not torch.equal(p, start[name]), name


def test_channels_last_changes_no_number():
    a, b = (wgan(IMAGES, lipschitz="gn", channels_last=last) for last in (False, True))
    x, z = torch.randn(8, 1, 8, 8), torch.randn(5, 4)
    torch.testing.assert_close(a.critic_values(x), b.critic_values(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a(z), b(z), rtol=1e-4, atol=1e-5)
    assert b.critic.layers[0].weight.is_contiguous(memory_format=torch.channels_last)


# Logging and evaluation


def test_monitors():
    model = wgan(TOY, lipschitz="gn")
    batch = PointBatch(torch.randn(16, 2), torch.zeros(16), torch.arange(16))
    run = trainer(max_steps=1, log_every_n_steps=1)
    seen = {}
    inner = model._critic_loss

    def look(critic, real, fake, *args):
        loss, values = inner(critic, real, fake, *args)
        seen.update(real=real, fake=fake, on_real=values.real.detach())
        seen.update(on_fake=values.fake.detach())
        return loss, values

    model._critic_loss = look
    run.fit(model, DataLoader([batch], batch_size=None))
    logged = {k: v.item() for k, v in run.callback_metrics.items()}
    assert logged["wasserstein/exact"] == pytest.approx(float(exact_w1(seen["real"], seen["fake"])))
    estimate = seen["on_real"].mean() - seen["on_fake"].mean()
    assert logged["wasserstein/critic"] == pytest.approx(float(estimate))
    assert logged["train/critic_loss"] == pytest.approx(-float(estimate), rel=1e-5)
    _, n, n_hat = model.critic_values(seen["real"])
    assert logged["gradient/f_real"] == pytest.approx(float(n.mean()), rel=1e-5)
    assert logged["gradient/f_hat_real"] == pytest.approx(float(n_hat.mean()), rel=1e-5)
    names = {f"gradient/{f}_{x}" for f in ("f", "f_hat") for x in ("real", "fake", "between")}
    others = {"wasserstein/exact", "wasserstein/critic", "train/critic_loss"}
    assert set(logged) == names | others | {"train/generator_loss"}


def test_samples_are_functions_of_seed_and_number():
    for options in (TOY, {**IMAGES, "num_classes": 3}):
        model = wgan(options).train()
        whole = model.sample(6, seed=4)
        parts = torch.cat([model.sample(2, seed=4), model.sample(4, seed=4, first=2)])
        torch.testing.assert_close(whole, parts)
        assert model.generator.training
        assert (whole - model.sample(6, seed=5)).abs().max() > 1e-3
    torch.testing.assert_close(model.sample(3), model.sample(3, labels=[0, 1, 2]))
    torch.testing.assert_close(model.sample(3, labels=1)[1], model.sample(3)[1])


def test_sampling_does_not_touch_running_statistics():
    """A public fault: samples for an evaluation drawn in training mode."""
    model = wgan(IMAGES).train()
    before = copy.deepcopy(model.state_dict())
    model.sample(4)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("lipschitz", ["gn", "gp"])
def test_the_critic_s_estimate_of_a_split(lipschitz):
    """In inference mode, which has no gradients; batches of any size."""
    model = wgan(IMAGES, lipschitz=lipschitz)
    found = []
    for size in (77, 180):
        run = trainer(limit_val_batches=1.0)
        run.validate(model, Digits(batch_size=16, val_batch_size=size), verbose=False)
        found.append(run.callback_metrics["val/wasserstein_critic"].item())
    assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-6)
    data = Digits()
    data.setup()
    batch = data.on_after_batch_transfer(data.split("val").__getitems__(list(range(180))))
    real = model.critic_values(batch.images)[0].mean()
    fake = model.critic_values(model.sample(180, seed=8244))[0].mean()
    assert found[0] == pytest.approx(float(real - fake), rel=1e-4, abs=1e-6)


def test_the_estimate_of_a_split_by_a_transform():
    """The dual value of each batch, as in training, and not a difference of means."""
    model = wgan(TOY, lipschitz="none", objective="c_transform")
    run = trainer(limit_val_batches=1)
    data = Toy2D(batch_size=16, val_batch_size=50)
    run.validate(model, data, verbose=False)
    x = next(iter(data.val_dataloader())).points
    phi, fake = model.critic_values(x)[0], model.sample(50, seed=8244)
    dual = phi.mean() + (torch.cdist(x, fake) - phi[:, None]).amin(0).mean()
    found = run.callback_metrics["val/wasserstein_critic"].item()
    assert found == pytest.approx(dual.item(), rel=1e-4)
    assert dual < exact_w1(x, fake)


def test_numbers_of_a_toy():
    model = wgan(TOY)
    run = trainer()
    run.test(model, Toy2D(batch_size=16, val_batch_size=500), verbose=False)
    metrics = run.callback_metrics
    assert metrics["baseline/modes"] == 8
    assert metrics["baseline/w1"] < metrics["test/w1"]
    assert metrics["baseline/w1_ratio"] == pytest.approx(1, abs=0.3)
    assert set(model.protocol()) == {"test/wasserstein_critic", "test/w1"}
    assert "2500 items" in model.protocol()["test/wasserstein_critic"]


def test_exact_distance_of_images():
    model = wgan(IMAGES)
    data, run = Digits(batch_size=16), trainer()
    run.test(model, data, verbose=False)
    metrics = run.callback_metrics
    real = data.reference_images("test").float() / 127.5 - 1
    fake = model.sample(len(real), seed=8244)
    assert metrics["test/wasserstein_exact"] == pytest.approx(float(exact_w1(real, fake)), rel=1e-5)
    assert metrics["baseline/wasserstein_exact"] < metrics["test/wasserstein_exact"]


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_critic": 0}, "n_critic=0"),
        ({"lr_critic": 0.0}, "lr_critic=0.0"),
        ({"optimizer": "lamb"}, "optimizer='lamb'"),
        ({"objective": "js"}, "objective='js'"),
        ({"objective": "c_transform"}, "set lipschitz=none"),
        ({"objective": "c_eps_transform", "lipschitz": "none"}, "needs c_epsilon > 0"),
        (
            {"objective": "c_eps_transform", "lipschitz": "none", "c_epsilon": 0.0},
            "c_epsilon=0.0: must be above 0",
        ),
        ({"c_epsilon": 0.1}, "no other objective takes it"),
        ({"c_penalty": 0.1}, "c_penalty=0.1: for c_transform and c_eps_transform"),
        ({"dequantize": True}, "network=mlp takes points"),
        ({"lipschitz": "clip", "critic_bf16": True}, "critic_bf16 has no effect"),
        ({"generator_batch": 0}, "generator_batch=0"),
        ({"lr_generator": float("nan")}, "lr_generator=nan"),
        ({"penalty": float("nan")}, "penalty=nan"),
        ({"lipschitz": "gn", "critic_activation": "silu"}, r"critic\.layers\.1 is a SiLU"),
        ({"lr_schedule": {-1: 1.0}}, "lr_schedule"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        wgan(TOY, **options)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trainer.gradient_clip_val", 1], "--trainer.gradient_clip_val=1"),
        (["--trainer.accumulate_grad_batches", 2], "--trainer.accumulate_grad_batches=2"),
        (["--trainer.precision", "bf16-true"], "--trainer.precision=bf16-true"),
        (["--trainer.precision", "64-true"], "--trainer.precision=64-true"),
        (["--data.batch_size", 101], r"n_critic \* critic_batch = 5 \* 128.*--model.critic_batch"),
        (["--model.features", 3], "data of shape 2 for a model of 3"),
    ],
)
def test_wrong_runs_are_refused_in_one_line(flags, message, mistake):
    import re

    assert re.search(message, mistake("fit", "-c", "wgan/8gaussians-gp", *flags))


def test_a_batch_of_another_size_is_refused():
    loader = DataLoader(torch.randn(36, 2), 18, collate_fn=lambda rows: (torch.stack(rows),))
    with pytest.raises(ValueError, match=r"a batch of 18 items.* 2 \* 8"):
        trainer(max_steps=1).fit(wgan(TOY), loader)


def test_labels_are_checked():
    with pytest.raises(ValueError, match="no classes"):
        wgan(TOY).sample(2, labels=1)
    model = wgan(IMAGES, num_classes=3)
    with pytest.raises(ValueError, match=r"0 \.\.\. 2"):
        model.sample(2, labels=[0, 3])
    with pytest.raises(ValueError, match="1 labels for 2"):
        model.sample(2, labels=[0])
    with pytest.raises(ValueError, match="n=0"):
        model.sample(0)
