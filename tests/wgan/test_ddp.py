"""Two processes do what one does on the same global batch, whatever the constraint."""

import copy
from unittest import mock

import lightning.pytorch as L
import pytest
import torch
import torch.distributed as dist

from zoo.data import Digits
from zoo.training import StepRNG
from zoo.wgan import WGAN
from zoo.wgan.constraints.by_name import CONSTRAINTS

# Per process; a global critic batch is 8, and the generator's is 16.
SMALL = {
    "network": "dcgan",
    "image_size": 8,
    "channels": 1,
    "latent_dim": 4,
    "num_classes": 10,
    "generator_widths": [8, 4],
    "critic_widths": [4, 8],
    "init": "kaiming",
    "n_critic": 2,
    # An SGD step of rate 1 is the gradient itself, but Adam's would be its sign.
    "lr_generator": 1.0,
    "lr_critic": 0.05,
}


class GlobalDraws(WGAN):
    """Draws for the global batch, of which each process takes its rows as it does of the data."""

    def rows(self, draw, n):
        world = dist.get_world_size() if dist.is_initialized() else 1
        rank = dist.get_rank() if dist.is_initialized() else 0
        self.count = getattr(self, "count", 0) + 1
        with torch.random.fork_rng():
            torch.manual_seed(1000 + self.count)
            return draw(n * world)[rank::world]

    def draw_latent(self, n):
        return self.rows(super().draw_latent, n)

    def draw_labels(self, n):
        return self.rows(super().draw_labels, n)

    def draw_noise(self, real):
        """The constraint's own, out of uniform numbers that are rows of the global batch's."""
        rand = torch.rand

        def sliced(shape, **options):
            return self.rows(lambda count: rand(count, *shape[1:], **options), shape[0])

        with (
            mock.patch.object(torch, "rand", sliced),
            mock.patch.object(torch, "rand_like", lambda x: sliced(x.shape)),
        ):
            return super().draw_noise(real)

    def configure_optimizers(self):
        return [
            torch.optim.SGD(m.parameters(), self.hparams[f"lr_{name}"])
            for name, m in (("generator", self.generator), ("critic", self.critic))
        ]


def fit(model, processes, **options):
    trainer = L.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
        callbacks=[StepRNG(seed=1)],
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        max_epochs=-1,
        max_steps=1,
        **options,
    )
    trainer.fit(model, Digits(batch_size=16 // processes, limit=128))


CASES = [(name, "wasserstein", None) for name in CONSTRAINTS]
# The (c, eps)-transform multiplies the rounding of the costs by 1 / eps.
CASES += [("none", "c_transform", None), ("none", "c_eps_transform", 0.5)]


@pytest.mark.slow
@pytest.mark.parametrize(("lipschitz", "objective", "epsilon"), CASES)
def test_two_processes_equal_one(lipschitz, objective, epsilon):
    """Data, noise and labels alike; statistics of the generator's batch norm over both."""
    trained, start = {}, None
    for processes in (1, 2):
        torch.manual_seed(0)
        model = GlobalDraws(
            **SMALL,
            lipschitz=lipschitz,
            objective=objective,
            c_epsilon=epsilon,
            critic_batch=8 // processes,
            penalty=0.1 if lipschitz in ("gp", "lp", "div", "r1", "dragan") else None,
        )
        start = copy.deepcopy(model.state_dict())
        fit(model, processes)
        trained[processes] = {k: v.clone() for k, v in model.state_dict().items()}
    for name, value in trained[1].items():
        torch.testing.assert_close(value, trained[2][name], rtol=0, atol=1e-6, msg=name)
    for part in ("generator", "critic"):
        moved = [(v - start[k]).abs().max() for k, v in trained[1].items() if k.startswith(part)]
        assert max(moved) > 1e-3


@pytest.mark.slow
def test_processes_draw_different_noise(tmp_path):
    """A public fault: one seed for all ranks makes their fakes the same."""

    class Seen(WGAN):
        def draw_latent(self, n):
            z = super().draw_latent(n)
            torch.save(z, tmp_path / f"z-{self.global_rank}.pt")
            return z

        def draw_noise(self, real):
            alpha = super().draw_noise(real)
            torch.save(alpha, tmp_path / f"alpha-{self.global_rank}.pt")
            return alpha

    torch.manual_seed(0)
    fit(Seen(**SMALL, critic_batch=4), 2)
    for name in ("z", "alpha"):
        a, b = (torch.load(tmp_path / f"{name}-{rank}.pt") for rank in (0, 1))
        assert (a - b).abs().min() > 1e-6


@pytest.mark.slow
def test_plain_ddp_by_the_command(zoo_cli):
    """No unused-parameter error: the overlay's DDP strategy as it is."""
    flags = ["--trainer.devices", 2, "--trainer.accelerator", "cpu", "--trainer.max_steps", 2]
    flags += ["--trainer.strategy", "ddp_fork", "--trainer.val_check_interval", 2]
    code, _, err = zoo_cli("fit", "-c", "wgan/8gaussians-gn", *flags, "--run_dir", "run")
    assert code == 0, err
    weights = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert weights["global_step"] == 2
