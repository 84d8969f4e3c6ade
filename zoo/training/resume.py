"""A run that goes on from a checkpoint, with the options of its own command line."""

import copy
from collections import OrderedDict, defaultdict
from itertools import groupby
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Options = list[dict[str, Any]]
"""What each of an optimiser's groups has beside its parameters: learning rate, betas, decay, ..."""

# What a parameter's state holds that has not the parameter's shape.
_NUMBERS = ("step", "eta", "mu", "mu_product")
_FACTORS = ("row_var", "col_var", "variance")  # by a parameter's rank
_NOT = EarlyStoppingReason.NOT_STOPPED


class Resume(Callback):
    """Gives restored optimisers and schedules the options that this run was started with.

    PyTorch saves an optimiser's options with its state. Loading it brings back the learning rates,
    betas and decays of the run that wrote the file, and tensors in the memory layout that they had
    there. Here an option that has another value now wins over the file's, a schedule goes on as
    the function of the step that it is now, and each state is laid out as its parameter, beside
    which a fused optimiser walks through it. What has not changed is left as it was restored.

    Its place is after the callbacks that set learning rates in `on_fit_start`.
    """

    def __init__(self) -> None:
        self._kinds: list[str] = []
        self._asked: list[Options] = []
        self._patience: list[tuple[EarlyStopping, int]] = []
        self._file: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the weights their precision before a file's are put in, which Lightning does after.

        A float64 number would go through float32.
        """
        trainer.precision_plugin.convert_module(pl_module)
        watchers = [c for c in trainer.early_stopping_callbacks if isinstance(c, EarlyStopping)]
        self._patience = [(watcher, watcher.patience) for watcher in watchers]

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Notes what the file says of the run so far, without its tensors."""
        if not self._kinds and checkpoint.get("optimizer_kinds") == []:
            return  # a LearningRateFinder's, which it makes and reads before this run begins
        self._file = {
            "kinds": checkpoint.get("optimizer_kinds"),
            "options": checkpoint.get("optimizer_options"),
            "thresholds": checkpoint.get("stopping_thresholds", {}),
            "schedules": len(checkpoint.get("lr_schedulers", [])),
            "sizes": [
                [len(group["params"]) for group in state["param_groups"]]
                for state in checkpoint.get("optimizer_states", [])
                if "param_groups" in state
            ],
        }

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes what the optimisers were made with; their states are restored after this."""
        self._kinds = [type(optimizer).__name__ for optimizer in trainer.optimizers]
        self._asked = [options(optimizer) for optimizer in trainer.optimizers]
        if self._file is not None:
            _check(self._file, trainer.optimizers, self._kinds)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds to the file what the optimisers were made with."""
        checkpoint["optimizer_kinds"] = self._kinds
        checkpoint["optimizer_options"] = self._asked
        checkpoint["stopping_thresholds"] = {w.state_key: _thresholds(w) for w, _ in self._patience}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets what has changed; all states are restored by now."""
        if self._file is None:
            return
        for watcher, patience in self._patience:  # which its own state brings back
            if watcher.patience != patience:
                rank_zero_info(
                    f"EarlyStopping's patience is {patience}; the checkpoint was made with "
                    f"{watcher.patience}"
                )
                watcher.patience = patience
            if not _holds(watcher, self._file["thresholds"].get(watcher.state_key)):
                watcher.stopping_reason, watcher.stopping_reason_message = _NOT, None
            trainer.should_stop |= watcher.stopping_reason is not _NOT
        file, self._file = self._file, None
        for optimizer in trainer.optimizers:
            if trainer.global_step and "betas" in optimizer.defaults and not optimizer.state:
                raise ValueError(
                    f"{trainer.ckpt_path}: optimizer_states: no parameter has a state after "
                    f"{trainer.global_step} steps"
                )
            if why := wrong_state(optimizer):
                raise ValueError(f"{trainer.ckpt_path}: optimizer_states: {why}")
        before = file["options"] or [options(optimizer) for optimizer in trainer.optimizers]
        for optimizer, old, new in zip(trainer.optimizers, before, self._asked, strict=True):
            set_options(optimizer, old, new)
            lay_out(optimizer)
        for i, config in enumerate(trainer.lr_scheduler_configs):
            if isinstance(config.scheduler, LambdaLR):
                by_step = config.interval == "step" or not pl_module.automatic_optimization
                count = trainer.global_step if by_step else trainer.current_epoch
                go_on(config.scheduler, None if i < file["schedules"] else count)


def _check(file: dict[str, Any], optimizers: list[Optimizer], kinds: list[str]) -> None:
    if file["kinds"] not in (None, kinds):
        theirs, own = (", ".join(names) or "no optimiser" for names in (file["kinds"], kinds))
        raise ValueError(
            f"the checkpoint has the state of {theirs}, from which {own} cannot go on: keep the "
            "optimizer, or begin a new run"
        )
    sizes = [[len(group["params"]) for group in o.param_groups] for o in optimizers]
    if file["sizes"] and file["sizes"] != sizes:
        raise ValueError(
            f"the checkpoint's optimiser trains {file['sizes']} parameters and this run's {sizes}: "
            "keep the options that choose what is trained, or begin a new run"
        )


def options(optimizer: Optimizer) -> Options:
    """What each group of an optimiser has beside its parameters."""
    return [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]


def set_options(optimizer: Optimizer, old: Options, new: Options) -> None:
    """Changes the options that differ between two runs.

    A learning rate that has fallen meanwhile, to half say, is half of the new one. The old options
    are those with which the restored state was made.
    """
    for group, was, now in zip(optimizer.param_groups, old, new, strict=True):
        rate = group["lr"]
        if ("initial_lr" in was) != ("initial_lr" in now):  # a schedule came or went
            rate = now["lr"]
        elif _first_rate(was) != _first_rate(now):
            first = _first_rate(was)  # from a rate of 0 nothing has fallen
            rate = _first_rate(now) * (rate / first if first else 1.0)
        for name in was.keys() | now.keys():
            if name not in now:
                group.pop(name, None)
            elif name not in was or was[name] != now[name]:
                group[name] = now[name]
        group["lr"] = rate


def _first_rate(group: dict[str, Any]) -> Any:
    """The learning rate before a schedule."""
    return group.get("initial_lr", group["lr"])


def wrong_state(optimizer: Optimizer) -> str | None:
    """Why a restored state cannot be this optimiser's; None if it can, or is of an unknown kind.

    A fused step believes the shapes: with others it writes to memory that is not its own.
    """
    if type(optimizer).__module__.split(".")[0] not in ("torch", "zoo"):
        return None
    for group in optimizer.param_groups:
        held = [(p, optimizer.state[p]) for p in group["params"] if optimizer.state.get(p)]
        for parameter, state in held:
            for name, value in state.items():
                shape = getattr(value, "shape", torch.Size())
                if name in _NUMBERS:
                    fits = shape.numel() == 1 and value is not None
                else:
                    fits = value is None or shape == parameter.shape or name in _FACTORS
                if not fits:
                    known = list(parameter.shape)
                    return f"{name} of shape {list(shape)} beside a parameter of shape {known}"
        if len({frozenset(state) - {*_FACTORS} for _, state in held}) > 1:
            return "parameters of one group have states of several kinds"
        by_rank = sorted(held, key=lambda pair: (pair[0].ndim, pair[0].numel()))
        for _, pairs in groupby(by_rank, key=lambda pair: pair[0].ndim):
            if why := _fails(optimizer, group, *next(pairs)):
                return why
    return None


def _fails(
    optimizer: Optimizer, group: dict[str, Any], parameter: Tensor, state: dict[str, Any]
) -> str | None:
    """Why a step of a copy of a parameter, beside a copy of its state, fails."""
    if type(parameter) is not nn.Parameter:  # a part of one, as of FSDP
        return None
    mine = nn.Parameter(parameter.detach().clone())
    mine.grad = torch.zeros_like(mine)
    trial = copy.copy(optimizer)
    trial.__dict__ = {
        **optimizer.__dict__,
        "_optimizer_step_pre_hooks": OrderedDict(),
        "_optimizer_step_post_hooks": OrderedDict(),
        "param_groups": [{**group, "params": [mine]}],
        "state": defaultdict(dict, {mine: copy.deepcopy(state)}),
    }
    try:
        type(optimizer).step(trial)
    except Exception as error:  # whatever a state of other parts leads to
        return f"a step fails: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return None


def lay_out(optimizer: Optimizer) -> None:
    """Gives each tensor of an optimiser's state the memory layout of its parameter.

    A fused optimiser on a CPU takes the i-th number in memory of weight, gradient and state for
    one and the same: with another layout it is silently wrong.
    """
    for group in optimizer.param_groups:
        on_device = group.get("fused") or group.get("capturable")
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            for name, value in state.items():
                if not isinstance(value, Tensor):
                    continue
                if value.shape == parameter.shape and value.stride() != parameter.stride():
                    state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
                elif name == "step":  # where this kind of step looks for its number
                    state[name] = value.to(parameter.device if on_device else "cpu")


def go_on(schedule: LambdaLR, count: int | None) -> None:
    """Goes on with a schedule as it is now, from its own step or, if there is one, from `count`."""
    if count is not None:
        schedule.last_epoch, schedule._step_count = count, count + 1
    groups = schedule.optimizer.param_groups
    schedule.base_lrs = [group["initial_lr"] for group in groups]
    for group, base, multiplier in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = base * multiplier(schedule.last_epoch)
    schedule._last_lr = [group["lr"] for group in groups]


def _thresholds(watcher: EarlyStopping) -> list[Any]:
    return [watcher.stopping_threshold, watcher.divergence_threshold, watcher.check_finite]


def _holds(watcher: EarlyStopping, before: list[Any] | None) -> bool:
    """Whether what ended the run still would: it may have more patience, or other thresholds."""
    if watcher.stopping_reason is EarlyStoppingReason.PATIENCE_EXHAUSTED:
        return watcher.wait_count >= watcher.patience
    return before is None or before == _thresholds(watcher)
