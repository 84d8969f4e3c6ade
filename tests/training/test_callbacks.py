"""EMA, seeds, the guard against NaN and the checkpoint files, on a small module."""

import contextlib
import copy
import math
import os
import signal

import pytest
import torch
from lightning.fabric.strategies.launchers import subprocess_script
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from tests.test_resume import differences
from zoo.data.loader import epoch_loader
from zoo.training import (
    EMA,
    AtomicCheckpointIO,
    Checkpoint,
    FiniteLoss,
    MetricsCSV,
    StepRNG,
    Stopped,
    TrainingDivergedError,
)


class Small(LightningModule):
    """A net with BatchNorm (buffers) and noise in its step."""

    def __init__(self, bad_from: int | None = None) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.other = nn.Linear(2, 2)
        self.bad_from = bad_from
        self.noises: list[float] = []

    def training_step(self, batch, batch_idx):
        noise = torch.randn(len(batch), 1)
        self.noises.append(float(noise[0]))
        loss = (self.net(batch) - noise).square().mean() + 0 * self.other(batch[:, :2]).sum()
        if self.bad_from is not None and self.global_step >= self.bad_from:
            loss = loss * math.nan
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.net(batch).mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)


def loader(train=True, batch=4):
    data = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    return epoch_loader(list(data), batch, train=train)


def trainer(tmp_path, *callbacks, **kwargs):
    settings = {"max_steps": 12, "val_check_interval": 5, "check_val_every_n_epoch": None}
    settings["logger"] = False
    return Trainer(
        accelerator="cpu",
        devices=1,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[StepRNG(seed=1), *callbacks],
        plugins=[AtomicCheckpointIO()],
        **{**settings, **kwargs},
    )


class Trace(Callback):
    """Keeps the weights after every step."""

    def __init__(self):
        self.weights = []

    def on_train_batch_end(self, trainer, module, *args):
        self.weights.append({k: v.detach().clone() for k, v in module.named_parameters()})


@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_ema_equals_the_recursion_in_float64(tmp_path, warmup, accumulate):
    torch.manual_seed(0)
    module, trace = Small(), Trace()
    start = {k: v.detach().clone() for k, v in module.named_parameters()}
    run = trainer(
        tmp_path,
        trace,
        EMA(0.9, warmup),
        Checkpoint(),
        accumulate_grad_batches=accumulate,
        val_check_interval=5 * accumulate,
    )
    run.fit(module, loader(), loader(train=False))
    expected = {k: v.double() for k, v in start.items()}
    # 5 batches an epoch: with 2 accumulated, the last batch of an epoch steps alone.
    ends = [
        i for i in range(len(trace.weights)) if (i % 5) % accumulate == accumulate - 1 or i % 5 == 4
    ]
    for n, i in enumerate(ends):
        weights = trace.weights[i]
        d = min(0.9, (1 + n) / (10 + n)) if warmup else 0.9
        expected = {k: d * v + (1 - d) * weights[k].double() for k, v in expected.items()}
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["ema_updates"] == len(ends) == 12
    for name, value in expected.items():
        torch.testing.assert_close(
            checkpoint["state_dict"][name].double(), value, rtol=0, atol=1e-6
        )
        torch.testing.assert_close(
            checkpoint["current_model_state"][name], trace.weights[-1][name], rtol=0, atol=0
        )
    for name, buffer in module.net.named_buffers():  # never averaged
        assert torch.equal(checkpoint["state_dict"][f"net.{name}"], buffer)
        assert torch.equal(checkpoint["current_model_state"][f"net.{name}"], buffer)
    for name, value in module.named_parameters():  # and the module holds the average after the fit
        assert torch.equal(value, checkpoint["state_dict"][name])


def test_ema_of_named_modules_only(tmp_path):
    module = Small()
    module.averaged_modules = ("net",)
    run = trainer(tmp_path, EMA(0.9), Checkpoint())
    run.fit(module, loader())
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    differ = {
        name
        for name, value in checkpoint["current_model_state"].items()
        if not torch.equal(value, checkpoint["state_dict"][name])
    }
    assert differ
    assert all(name.startswith("net.") for name in differ)


def test_validation_sees_the_average_and_training_the_raw_weights(tmp_path):
    module, ema = Small(), EMA(0.9)

    class Look(Callback):
        seen = 0

        def on_validation_batch_start(self, trainer, module, *args):
            for name, average in ema.averages().items():
                assert torch.equal(module.get_parameter(name), average)
            assert any(not torch.equal(a, b) for a, b in zip(*self.sides(), strict=True))
            self.seen += 1

        @staticmethod
        def sides():
            return ema._parameters, ema._averages

    look = Look()
    trainer(tmp_path, ema, look, Trace()).fit(module, loader(), loader(train=False))
    assert look.seen > 0


def test_a_checkpoint_saved_while_validating_is_not_mixed_up(tmp_path):
    """The best checkpoint is written with the averages still in the module."""
    module, ema = Small(), EMA(0.9)

    class SaveInside(Callback):
        def on_validation_epoch_end(self, trainer, module):
            self.raw = [p.clone() for p in ema._averages]  # swapped: these are the raw weights
            trainer.save_checkpoint(tmp_path / "inside.ckpt")

    inside = SaveInside()
    run = trainer(tmp_path, ema, inside, max_steps=5)
    run.fit(module, loader(), loader(train=False))
    checkpoint = torch.load(tmp_path / "inside.ckpt", weights_only=True)
    for name, raw in zip(dict(Small().named_parameters()), inside.raw, strict=True):
        assert torch.equal(checkpoint["current_model_state"][name], raw)
        assert not torch.equal(checkpoint["state_dict"][name], raw) or name.startswith("other")


@pytest.mark.parametrize("bad", [-0.1, 1.0, 3])
def test_ema_refuses_a_decay_out_of_range(bad):
    with pytest.raises(ValueError, match=r"ema\.decay"):
        EMA(bad)


def test_noise_is_a_function_of_seed_rank_and_step(tmp_path):
    runs = []
    for val in (None, loader(train=False)):  # validation in between changes nothing
        module = Small()
        trainer(tmp_path).fit(module, loader(), val)
        runs.append(module.noises)
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 12


def test_nan_stops_with_the_step_and_keeps_the_good_checkpoint(tmp_path):
    module = Small(bad_from=9)
    run = trainer(tmp_path, FiniteLoss(), Checkpoint(every_n_train_steps=2))
    with pytest.raises(
        TrainingDivergedError, match=r"not finite \(nan\) at step 10.*learning rate"
    ):
        run.fit(module, loader())
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 8
    assert all(v.isfinite().all() for v in checkpoint["state_dict"].values())


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    """A finite loss can have a NaN gradient: then only the weights show it."""

    class Poison(Callback):
        def on_train_batch_end(self, trainer, module, *args):
            if trainer.global_step == 4:
                with torch.no_grad():
                    module.other.weight.fill_(math.nan)

    run = trainer(tmp_path, Poison(), Checkpoint(every_n_train_steps=2))
    with pytest.raises(TrainingDivergedError, match=r"weights are not finite at step 4"):
        run.fit(Small(), loader())
    assert torch.load(tmp_path / "checkpoints/last.ckpt")["global_step"] == 2


def test_a_write_that_is_cut_off_leaves_the_good_file(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint({"state_dict": {}, "n": 1}, path)

    def cut_off(obj, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", cut_off)
    with pytest.raises(OSError, match="No space") as error:
        io.save_checkpoint({"state_dict": {}, "n": 2}, path)
    assert error.value.filename == str(path)
    assert torch.load(path)["n"] == 1
    assert os.listdir(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_after_the_step_and_stops(tmp_path, number):
    class Send(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == 6:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped:
        trainer(tmp_path, Send(), Checkpoint(every_n_train_steps=5)).fit(Small(), loader())
    assert stopped.value.exit_code == 128 + number
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 7
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("verb", ["validate", "test", "predict", "fit"])
def test_a_signal_ends_at_once_what_does_not_train(tmp_path, verb, number):
    """Lightning 2.6 goes on with the batch, or with all; before a training nothing is to save."""

    class Evaluated(Small):
        batches = 0

        def validation_step(self, batch, batch_idx):
            self.batches += 1
            if self.batches == 2:
                os.kill(os.getpid(), number)
            return self.net(batch)

        test_step = predict_step = validation_step

    module, before = Evaluated(), signal.getsignal(number)
    loaders = [loader()] if verb == "fit" else []
    running = trainer(tmp_path, Checkpoint(every_n_train_steps=5))
    running.num_sanity_val_steps = 3
    with pytest.raises(Stopped) as stopped:
        getattr(running, verb)(module, *loaders, loader(train=False))
    assert stopped.value.exit_code == 128 + number
    assert not stopped.value.saved
    assert module.batches == 2
    assert signal.getsignal(number) == before


def test_a_second_signal_stops_at_once(tmp_path):
    class Send(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == 6:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped):
        trainer(tmp_path, Send(), Checkpoint(every_n_train_steps=5)).fit(Small(), loader())
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 5


def test_best_and_kept_checkpoints(tmp_path):
    class Score(Small):
        scores = iter([3.0, 1.0, 2.0])

        def validation_step(self, batch, batch_idx):
            if batch_idx == 0:
                self.log("val/score", next(self.scores))

    checkpoint = Checkpoint(
        every_n_train_steps=0, keep_every_n_train_steps=6, monitor="val/score", mode="min"
    )
    trainer(tmp_path, checkpoint, max_steps=15).fit(
        Score(), loader(), loader(train=False, batch=20)
    )
    steps = {
        path.name: torch.load(path, weights_only=True)["global_step"]
        for path in (tmp_path / "checkpoints").glob("*.ckpt")
    }
    assert steps == {"best.ckpt": 10, "last.ckpt": 15, "step=6.ckpt": 6, "step=12.ckpt": 12}
    assert checkpoint.best == 1.0


@pytest.mark.parametrize(
    ("monitor", "mode", "best"), [("a", "min", 0.3), ("a", "max", None), ("b", "min", None)]
)
def test_the_best_value_is_of_one_metric_and_mode(monitor, mode, best):
    first, then = Checkpoint(monitor="a", mode="min"), Checkpoint(monitor=monitor, mode=mode)
    first.best = 0.3
    then.load_state_dict(first.state_dict())
    assert then.best == best


def test_a_run_without_its_best_checkpoint_keeps_another(tmp_path):
    """A run that goes on in another folder had no best.ckpt unless it became better."""

    class Score(Small):
        def validation_step(self, batch, batch_idx):
            if batch_idx == 0:
                self.log("val/score", {5: 1.0, 10: 3.0, 15: 2.0}[self.global_step])

    for folder, steps, file in (("a", 5, None), ("b", 15, tmp_path / "a/checkpoints/last.ckpt")):
        checkpoint = Checkpoint(every_n_train_steps=5, monitor="val/score")
        run = trainer(tmp_path / folder, checkpoint, max_steps=steps)
        run.fit(Score(), loader(), loader(train=False, batch=20), ckpt_path=file)
    assert checkpoint.best == 2.0
    best = torch.load(tmp_path / "b/checkpoints/best.ckpt", weights_only=True)
    assert best["global_step"] == 15


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_metric_that_is_not_finite_is_never_the_best(tmp_path, bad, mode):
    class Score(Small):
        def validation_step(self, batch, batch_idx):
            if batch_idx == 0:
                self.log("val/score", {5: bad, 10: 2.0, 15: bad}[self.global_step])

    checkpoint = Checkpoint(every_n_train_steps=5, monitor="val/score", mode=mode)
    run = trainer(tmp_path, checkpoint, max_steps=15)
    run.fit(Score(), loader(), loader(train=False, batch=20))
    best = torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)
    assert best["global_step"] == 10
    assert checkpoint.best == 2.0


def test_a_best_value_of_an_older_run_that_is_no_number_is_forgotten():
    checkpoint = Checkpoint(monitor="val/score")
    for best in (math.nan, -math.inf, None):
        checkpoint.load_state_dict({"best": best, "monitor": "val/score"})
        assert checkpoint.best is None
    checkpoint.load_state_dict({"best": 3.0, "monitor": "val/score"})
    assert checkpoint.best == 3.0
    checkpoint.load_state_dict({"best": 3.0, "monitor": "val/score", "mode": "max"})
    assert checkpoint.best is None


def test_a_validation_in_the_middle_of_an_accumulation_waits_for_the_step(tmp_path):
    class Look(Callback):
        def __init__(self):
            self.seen = []

        def on_validation_start(self, trainer, module):
            loop = trainer.fit_loop.epoch_loop
            self.seen.append((loop.total_batch_idx + 1, loop._should_accumulate()))

    look = Look()
    settings = {"accumulate_grad_batches": 2, "val_check_interval": 3, "max_steps": 9}
    run = trainer(tmp_path, look, Checkpoint(), **settings)
    run.fit(Small(), loader(), loader(train=False))
    # Of 5 batches an epoch, whose last one steps alone: steps after batches 2, 4, 5, 7, 9, 10, ...
    assert look.seen == [(4, False), (7, False), (9, False), (12, False), (15, False)]


class _KilledError(BaseException):
    pass


class Kill(Callback):
    """Ends the process where `hook` comes by for the n-th time."""

    def __init__(self, hook, count):
        self.count = count
        setattr(self, hook, self.strike)

    def strike(self, *args):
        self.count -= 1
        if self.count == 0:
            raise _KilledError


HOOKS = ("on_train_batch_start", "on_train_batch_end", "on_train_epoch_end", "on_train_epoch_start")
HOOKS += ("on_validation_start", "on_validation_end")


class Logged(Small):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss)
        return loss


@pytest.mark.parametrize(
    ("every", "count"),
    [(5, 3), *(pytest.param(e, c, marks=pytest.mark.slow) for e in (2, 5) for c in (2, 7))],
)
@pytest.mark.parametrize(
    "settings",
    [
        {"val_check_interval": 5},
        {"val_check_interval": 3, "accumulate_grad_batches": 2},
        {"val_check_interval": 1.0, "check_val_every_n_epoch": 1},
        {"max_epochs": 3, "max_steps": -1, "check_val_every_n_epoch": 1, "val_check_interval": 2},
    ],
)
def test_killed_at_every_kind_of_place_and_resumed(tmp_path, every, count, settings):
    """Weights, averages, optimiser, best value and metrics.csv are those of the whole run."""

    def fit(folder, *kill, resume=False):
        torch.manual_seed(0)
        checkpoint = Checkpoint(every, monitor="val/loss")
        logger = MetricsCSV(folder, resume=resume)
        more = {"logger": logger, "log_every_n_steps": 1, **settings}
        run = trainer(folder, EMA(0.9), *kill, checkpoint, **more)
        last = folder / "checkpoints/last.ckpt"
        start = last if resume and last.is_file() else None
        run.fit(Logged(), loader(), loader(train=False), ckpt_path=start, weights_only=True)

    def contents(folder):
        found = {"metrics": (folder / "metrics.csv").read_bytes()}
        for name in ("last", "best"):
            file = torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)
            keys = ("state_dict", "current_model_state", "optimizer_states", "global_step", "epoch")
            found[name] = {key: file[key] for key in keys} | {"callbacks": file["callbacks"]}
        return found

    fit(tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    for hook in HOOKS:
        folder = tmp_path / hook
        with contextlib.suppress(_KilledError):
            fit(folder, Kill(hook, count))
        fit(folder, resume=True)
        assert differences(contents(folder), whole) == [], hook


def test_a_monitor_that_nobody_logs_is_named(tmp_path):
    run = trainer(tmp_path, Checkpoint(monitor="val/fid"))
    with pytest.raises(ValueError, match=r"val/fid is not logged: known: val/loss"):
        run.fit(Small(), loader(), loader(train=False))


@pytest.mark.parametrize("stop", [5, 7, 10, 12])  # epoch end, mid epoch, validation and both
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_finished_run_goes_on_as_if_it_had_not_ended(tmp_path, stop, accumulate):
    def fit(folder, steps, module, resume=None):
        run = trainer(
            folder, EMA(0.9), Checkpoint(), max_steps=steps, accumulate_grad_batches=accumulate
        )
        run.fit(module, loader(), loader(train=False), ckpt_path=resume, weights_only=True)
        return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)

    torch.manual_seed(0)
    module = Small()
    whole = fit(tmp_path / "whole", 15, copy.deepcopy(module))
    fit(tmp_path / "parts", stop, copy.deepcopy(module))
    parts = fit(tmp_path / "parts", 15, Small(), tmp_path / "parts/checkpoints/last.ckpt")
    for key in ("state_dict", "current_model_state"):
        for name, value in whole[key].items():
            assert torch.equal(value, parts[key][name]), (key, name)
    torch.testing.assert_close(whole["optimizer_states"], parts["optimizer_states"], rtol=0, atol=0)
    assert whole["ema_updates"] == parts["ema_updates"]


def test_internals_that_the_training_package_relies_on_are_there(tmp_path):
    """Fails loudly when a new Lightning moves them."""
    run = trainer(tmp_path)
    run.fit(Small(), loader())
    assert run.fit_loop.epoch_loop._batches_that_stepped == 12
    assert run.fit_loop.epoch_loop.total_batch_idx == 11
    assert callable(run.fit_loop.epoch_loop._broadcast_sigterm_tensor)
    assert callable(subprocess_script._ChildProcessObserver._terminate_all)
    assert isinstance(run._logger_connector._callback_metrics, dict)
    assert isinstance(run.log_every_n_steps, int)


def test_evaluation_is_of_the_averages(tiny, zoo_cli, monkeypatch):
    from zoo import DDPM

    code, _, err = zoo_cli("fit", "-c", tiny, "--run_dir", "run", "--trainer.max_steps", 5)
    assert code == 0, err
    saved = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    name = "net.conv_in.weight"
    assert not torch.equal(saved["state_dict"][name], saved["current_model_state"][name])
    seen = {}

    def look(verb, original):
        def step(self, batch, batch_idx):
            seen[verb] = self.get_parameter(name).detach().clone()
            return original(self, batch, batch_idx)

        return step

    for verb, hook in (
        ("validate", "validation_step"),
        ("test", "test_step"),
        ("predict", "predict_step"),
    ):
        monkeypatch.setattr(DDPM, hook, look(verb, getattr(DDPM, hook)))
        code, _, err = zoo_cli(verb, "--ckpt_path", "run", "--quality.samples", 0)
        assert code == 0, err
        assert torch.equal(seen[verb], saved["state_dict"][name]), verb
