"""What every test gets: its own folder, environment and signal handlers, one thread.

TEST_THREADS=2 in the environment asks for the sums of two threads, which have another order.
"""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

TINY = """\
seed_everything: 3
model:
  class_path: zoo.DDPM
  init_args:
    image_size: 8
    channels: 1
    levels: 17
    timesteps: 20
    width: 8
    multipliers: [1, 2]
    blocks: 1
    attention_levels: [1]
    groups: 4
    sampler: ancestral
    dropout: 0.1
    lr: 0.002
    lr_schedule: {5: 1.0, 40: 0.2}
data:
  class_path: zoo.data.Digits
  init_args: {batch_size: 16, val_batch_size: 60, flip: true, limit: 200}
trainer:
  accelerator: cpu
  devices: 1
  max_steps: 30
  gradient_clip_val: 1.0
  log_every_n_steps: 5
  val_check_interval: 10
  check_val_every_n_epoch: null
  enable_progress_bar: false
  enable_model_summary: false
ema: {decay: 0.9}
checkpoint: {every_n_train_steps: 7}
"""

# What was compiled for one instruction set does not run under another, and torch's cache of it
# knows none: each has a cache of its own.
if capability := os.environ.get("ATEN_CPU_CAPABILITY"):
    cache = Path(tempfile.gettempdir(), f"torchinductor-{os.getuid()}-{capability}")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))


THREADS = int(os.environ.get("TEST_THREADS", "1"))


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    os.environ["ZOO_CACHE"] = str(tmp_path / "cache")
    os.environ["WANDB_MODE"] = "offline"
    os.environ["WANDB_SILENT"] = "true"
    os.environ["OMP_NUM_THREADS"] = str(THREADS)  # for the processes that a test starts
    torch.set_num_threads(THREADS)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _lightning_handlers() -> list[logging.StreamHandler]:
    import lightning.pytorch  # noqa: F401  # adds them

    names = ("lightning", "lightning.pytorch", "lightning.fabric")
    loggers = [logging.getLogger(name) for name in names]
    return [h for lg in loggers for h in lg.handlers if isinstance(h, logging.StreamHandler)]


@pytest.fixture(autouse=True)
def _streams() -> Iterator[None]:
    yield
    if "lightning.pytorch" in sys.modules:
        for handler in _lightning_handlers():
            handler.stream = sys.__stderr__  # setStream would flush a stream that is closed


@pytest.fixture(scope="session")
def tiny_yaml() -> str:
    """A config of a DDPM that trains 30 steps in a few seconds."""
    return TINY


@pytest.fixture
def tiny(tmp_path: Path, tiny_yaml: str) -> Path:
    """The file of that config."""
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_yaml)
    return path


@pytest.fixture
def zoo_cli(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process: exit code, stdout, log and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        from zoo.cli import main

        capfd.readouterr()
        caplog.clear()
        for handler in _lightning_handlers():  # they keep the stderr of the first import
            handler.stream = sys.stderr
        code = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        # Lightning's messages go to pytest where its handlers were there first.
        return code, out, "".join(f"{m}\n" for m in caplog.messages) + err

    return run


@pytest.fixture
def done(zoo_cli: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """Runs a command that must go well; returns all that it says."""

    def run(*arguments: object) -> str:
        code, out, err = zoo_cli(*arguments)
        assert code == 0, err
        return out + err

    return run


@pytest.fixture
def mistake(zoo_cli: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """Runs a command that must end in one line and exit code 2; returns the line."""

    def run(*arguments: object) -> str:
        code, _, err = zoo_cli(*arguments)
        lines = [line for line in err.splitlines() if line.startswith("zoo: error:")]
        assert code == 2, err
        assert len(lines) == 1, err
        assert err.rstrip().splitlines()[-1] == lines[0], err
        assert "Traceback" not in err
        return lines[0]

    return run
