"""Two processes do what one does on the same global batch; nobody needs a GPU to see it."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.nn import functional as F

from zoo import DDPM
from zoo.data import Digits
from zoo.data.loader import epoch_loader
from zoo.layers.counter_rng import integers, normal
from zoo.training import StepRNG, gather_with_grad
from zoo.training.distributed import token_mean
from zoo.training.told import ToldData

SMALL = {"image_size": 8, "channels": 1, "levels": 17, "timesteps": 20, "width": 8}
SMALL |= {"multipliers": [1, 2], "blocks": 1, "attention_levels": [1], "groups": 4, "dropout": 0.0}


def trainer(processes, *callbacks, **kwargs):
    return Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
        callbacks=[StepRNG(seed=1), *callbacks],
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **kwargs,
    )


class FixedDraws(DDPM):
    """A DDPM whose noise and times are functions of the image, so one process can repeat two."""

    def training_step(self, batch, batch_idx):
        images, _, index = batch
        noise = normal(5, index, batch_idx, tuple(images.shape[1:]))
        t = integers(6, index, batch_idx, high=self.hparams.timesteps)
        return self.loss(images, t=t, noise=noise)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


@pytest.mark.parametrize(("steps", "atol"), [(1, 1e-6), (3, 1e-5)])
def test_ddpm_on_two_processes_equals_one(tmp_path, steps, atol):
    torch.manual_seed(0)
    model = FixedDraws(**SMALL)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    trained = {}
    for processes in (1, 2):
        model.load_state_dict(start)
        data = Digits(batch_size=32 // processes, limit=128)
        trainer(processes, max_steps=steps, limit_val_batches=0).fit(model, data)
        trained[processes] = {k: v.clone() for k, v in model.state_dict().items()}
    moved = 0.0
    for name, value in trained[1].items():
        # A step of SGD with rate 1 is the gradient itself.
        torch.testing.assert_close(value, trained[2][name], rtol=0, atol=atol)
        moved = max(moved, float((value - start[name]).abs().max()))
    assert moved > 1e-3


def test_ranks_draw_different_noise_and_repeat_it(tmp_path):
    class Draw(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            drawn = gather_with_grad(torch.rand(1)).tolist()
            if trainer.is_global_zero:
                with (tmp_path / "drawn.jsonl").open("a") as file:
                    file.write(json.dumps(drawn) + "\n")

    for _ in range(2):
        data = Digits(batch_size=16, limit=64)
        trainer(2, Draw(), max_steps=2, limit_val_batches=0).fit(DDPM(**SMALL), data)
    lines = [json.loads(line) for line in (tmp_path / "drawn.jsonl").read_text().splitlines()]
    assert lines[:2] == lines[2:]
    assert len({value for line in lines[:2] for value in line}) == 4


def test_evaluation_counts_every_item_once(tmp_path):
    """180 validation and 360 test images in batches of 77: uneven shards, no padded duplicates."""
    torch.manual_seed(0)
    model = DDPM(**SMALL)
    nn.init.normal_(model.net.conv_out.weight, std=0.1)
    found = {}
    for processes in (1, 2):
        run = trainer(processes, max_steps=1)
        data = Digits(batch_size=16, val_batch_size=77)
        run.validate(model, data, verbose=False)
        values = dict(run.callback_metrics)
        run.test(model, data, verbose=False)
        found[processes] = {**values, **run.callback_metrics}
    assert {"val/loss", "test/bits_per_dim"} <= set(found[1])
    for name, value in found[1].items():
        torch.testing.assert_close(value, found[2][name], rtol=1e-5, atol=1e-6, msg=name)


class Contrast(LightningModule):
    """InfoNCE over the batch of all processes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(6, 4)

    def training_step(self, batch, batch_idx):
        z = F.normalize(self.net(torch.stack([batch, batch.roll(1, 1)])), dim=-1)
        a, b = (gather_with_grad(part.contiguous()) for part in z)
        return F.cross_entropy(10 * a @ b.T, torch.arange(len(a)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


class OfItsOwnMachine(Digits):
    """Of the second process there is less to train on."""

    def setup(self, stage=None):
        self.limit = 200 - 50 * self.trainer.global_rank
        super().setup(stage)


class OfOtherOptions(Digits):
    """The second process was started with another batch."""

    def setup(self, stage=None):
        self.hparams["batch_size"] = 16 * (1 + self.trainer.global_rank)
        super().setup(stage)


def test_processes_with_other_options_are_refused_by_all_of_them():
    with pytest.raises(
        Exception, match=r"process 1 was given --data.batch_size=32 and the first 16: give all"
    ):
        trainer(2, ToldData(), max_steps=1).fit(
            DDPM(**SMALL), datamodule=OfOtherOptions(batch_size=16)
        )


def test_processes_with_other_data_are_refused_by_all_of_them():
    with pytest.raises(
        Exception, match=r"process 1 reads other data .*train: 150 .*not train: 200"
    ):
        trainer(2, ToldData(), max_steps=1).fit(
            DDPM(**SMALL), datamodule=OfItsOwnMachine(batch_size=10)
        )


def test_gather_with_grad_has_the_gradient_of_one_process():
    data = torch.randn(32, 6, generator=torch.Generator().manual_seed(3))
    weights = []
    for processes in (1, 2):
        module = Contrast()
        loader = _Sharded(list(data), 16 // processes, processes)
        trainer(processes, max_steps=2).fit(module, datamodule=loader)
        weights.append(module.net.weight.detach().clone())
    torch.testing.assert_close(*weights, rtol=1e-6, atol=1e-6)
    assert (weights[0] - Contrast().net.weight).abs().max() > 1e-3


class Tokens(LightningModule):
    """A mean over the entries of a batch that count, which are not equally many on each process."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        scored = batch > 0.5
        squares = (self.net(batch[..., None])[..., 0] - batch).square()
        return token_mean(squares[scored].sum(), scored.sum())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


def test_a_mean_over_tokens_is_over_those_of_all_processes():
    data = torch.randn(32, 6, generator=torch.Generator().manual_seed(3))
    weights = []
    for processes in (1, 2):
        module = Tokens()
        loader = _Sharded(list(data), 16 // processes, processes)
        trainer(processes, max_steps=2).fit(module, datamodule=loader)
        weights.append(module.net.weight.detach().clone())
    torch.testing.assert_close(*weights, rtol=1e-6, atol=1e-6)
    assert (weights[0] - Tokens().net.weight).abs().max() > 1e-3


class _Sharded(LightningDataModule):
    def __init__(self, data, batch_size, processes):
        super().__init__()
        self.data, self.batch_size, self.processes = data, batch_size, processes

    def train_dataloader(self):
        return epoch_loader(
            self.data,
            self.batch_size,
            train=True,
            rank=self.trainer.global_rank,
            world_size=self.processes,
        )


def test_samples_are_shared_among_the_ranks(tiny, zoo_cli):
    """The grid of two processes is the grid of one."""
    grids = []
    for processes in (1, 2):
        flags = ["--trainer.devices", processes, "--run_dir", f"run{processes}", "--samples.n", 5]
        flags += ["--trainer.strategy", "ddp_fork" if processes > 1 else "auto"]
        flags += ["--trainer.max_steps", 1, "--trainer.val_check_interval", 1, "--model.lr", 1e-30]
        code, _, err = zoo_cli("fit", "-c", tiny, *flags)
        assert code == 0, err
        grids.append(Path(f"run{processes}/samples/step-0000001.png").read_bytes())
    assert grids[0] == grids[1]
