"""A resumed run goes by its own options: against one that had them changed by hand on the way."""

import copy

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR
from torch.utils.data import DataLoader

from zoo.training import EMA, Resume, StepRNG
from zoo.training.optim import LAMB, piecewise_linear
from zoo.training.resume import lay_out, wrong_state

pytestmark = pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable")

MAKERS = {
    "adamw": lambda p, **o: torch.optim.AdamW(p, fused=True, **o),
    "adam": lambda p, **o: torch.optim.Adam(p, foreach=True, **o),
    "sgd": lambda p, **o: torch.optim.SGD(p, momentum=0.9, fused=True, **o),
    "rmsprop": lambda p, **o: torch.optim.RMSprop(p, foreach=True, **o),
    "lamb": lambda p, **o: LAMB(p, **o),
}


class Net(LightningModule):
    """A convolution whose optimiser, options and schedule are given."""

    def __init__(self, kind="adamw", schedule=None, last=False, frozen=False, **options):
        super().__init__()
        self.kind, self.schedule, self.options = kind, schedule, options
        self.conv = nn.Conv2d(3, 4, 3)
        self.out = nn.Linear(4, 1).requires_grad_(not frozen)
        if last:
            self.to(memory_format=torch.channels_last)

    def training_step(self, batch, batch_idx):
        x = torch.randn(8, 3, 5, 5)
        return (self.out(self.conv(x).square().mean((2, 3))) - 1).square().mean()

    def configure_optimizers(self):
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = MAKERS[self.kind](trained, **self.options)
        if self.schedule is None:
            return optimizer
        if self.schedule == "one_cycle":
            schedule = OneCycleLR(optimizer, 0.1, total_steps=10)
        else:
            schedule = LambdaLR(optimizer, piecewise_linear(self.schedule))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class ByHand(Callback):
    """Does something to the optimiser at a step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step >= self.step:
            self.act(trainer.optimizers[0], trainer.global_step)


def fit(module, steps, *callbacks, start=None, save=None):
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[StepRNG(seed=1), *callbacks, Resume()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(range(64), 8), ckpt_path=start, weights_only=True)
    if save:
        trainer.save_checkpoint(save)
    return trainer


def make(**options):
    torch.manual_seed(0)
    return Net(**options)


def parted(first, then, start="file.ckpt"):
    """Four steps with some options, four more with others."""
    fit(make(**first), 4, save=start)
    module = make(**then)
    fit(module, 8, start=start)
    return module


def same(a, b, **tolerance):
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(x, y, **tolerance)


@pytest.mark.parametrize("schedule", [None, {3: 1.0, 8: 0.1}, "one_cycle"])
@pytest.mark.parametrize("kind", MAKERS)
def test_nothing_changes_where_no_option_does(kind, schedule):
    """To the bit, also where a schedule changes more than the learning rate."""
    if schedule == "one_cycle" and kind in ("rmsprop", "lamb"):
        schedule = {3: 1.0}
    options = {"kind": kind, "lr": 0.02, "schedule": schedule}
    whole = make(**options)
    fit(whole, 8)
    same(whole, parted(options, options), rtol=0, atol=0)


CHANGES = {
    "lr": ({}, {"lr": 0.003}),
    "weight_decay": ({}, {"weight_decay": 3.0}),
    "betas": ({"betas": (0.9, 0.99)}, {"betas": (0.5, 0.7)}),
    "eps": ({}, {"eps": 0.3}),
    "all": (
        {"betas": (0.9, 0.9)},
        {"lr": 0.1, "eps": 0.1, "weight_decay": 1.0, "betas": (0.0, 0.5)},
    ),
}


@pytest.mark.parametrize("kind", ["adamw", "lamb"])
@pytest.mark.parametrize("change", CHANGES)
def test_the_new_option_acts_from_the_first_step_on(kind, change):
    first, then = ({"kind": kind, "lr": 0.02, **options} for options in CHANGES[change])
    whole = make(**first)
    fit(whole, 8, ByHand(4, lambda o, _: o.param_groups[0].update(CHANGES[change][1])))
    resumed, kept = parted(first, then), parted(first, first)
    same(whole, resumed, rtol=0, atol=0)
    assert (resumed.conv.weight - kept.conv.weight).abs().max() > 1e-3


@pytest.mark.parametrize(("kind", "change"), [("sgd", "momentum"), ("rmsprop", "alpha")])
def test_options_of_other_optimisers(kind, change, monkeypatch):
    maker = MAKERS[kind]
    first = {"kind": kind, "lr": 0.01}
    whole = make(**first)
    fit(whole, 8, ByHand(4, lambda o, _: o.param_groups[0].update({change: 0.3})))
    fit(make(**first), 4, save="file.ckpt")

    def other(parameters, **options):
        optimizer = maker(parameters, **options)
        optimizer.param_groups[0][change] = 0.3
        return optimizer

    monkeypatch.setitem(MAKERS, kind, other)
    resumed = make(**first)
    fit(resumed, 8, start="file.ckpt")
    same(whole, resumed, rtol=0, atol=0)


SCHEDULES = {
    "another rate": ({3: 1.0, 8: 0.1}, {3: 1.0, 8: 0.1}),
    "another schedule": ({3: 1.0, 8: 0.1}, {6: 1.0, 20: 0.5}),
    "none so far": (None, {2: 1.0, 9: 0.1}),
    "none from now on": ({2: 1.0, 9: 0.1}, None),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_a_schedule_is_the_function_of_the_step_that_it_is_now(case):
    before, after = SCHEDULES[case]
    first, then = {"lr": 0.02, "schedule": before}, {"lr": 0.005, "schedule": after}
    multiplier = (lambda step: 1.0) if after is None else piecewise_linear(after)
    whole = make(**first)

    def set_rate(optimizer, step):
        optimizer.param_groups[0]["lr"] = 0.005 * multiplier(step)

    fit(whole, 8, ByHand(4, set_rate))
    same(whole, parted(first, then), rtol=0, atol=0)


def test_a_rate_that_has_fallen_falls_from_the_new_one():
    """What divides the learning rate by itself, as a plateau does, goes on from there."""
    half = ByHand(2, lambda o, step: o.param_groups[0].update(lr=0.02 / 2))
    fit(make(lr=0.02), 4, half, save="file.ckpt")
    seen = []
    look = ByHand(4, lambda o, step: seen.append(o.param_groups[0]["lr"]))
    for rate in (0.02, 0.08):
        fit(make(lr=rate), 5, look, start="file.ckpt")
    assert seen == pytest.approx([0.01, 0.04], rel=1e-12)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("kind", MAKERS)
def test_another_memory_layout_has_the_same_weights(kind, before):
    """Fused optimisers read the states in memory order; wrong ones are off by a step's length."""
    options = {"kind": kind, "lr": 0.01}
    fit(make(**options, last=before), 4, EMA(0.9), save="file.ckpt")
    modules = []
    for last in (before, not before):
        module, average = make(**options, last=last), EMA(0.9)
        trainer = fit(module, 8, average, Keep(), start="file.ckpt")
        states = trainer.optimizers[0].state
        for p in module.parameters():
            for value in states[p].values():
                if torch.is_tensor(value) and value.shape == p.shape:
                    assert value.stride() == p.stride()
        modules.append(module)
    # Other orders of summation differ by float32's rounding, relative to steps of 0.01.
    same(*modules, rtol=0, atol=2e-5)


class Keep(Callback):
    """Looks at the averages' layout."""

    def on_train_start(self, trainer, module):
        (ema,) = (c for c in trainer.callbacks if isinstance(c, EMA))
        for name, average in ema.averages().items():
            assert average.stride() == module.get_parameter(name).stride()


def test_a_kind_of_step_finds_its_count_where_it_looks():
    parameters = [nn.Parameter(torch.randn(3, 3))]
    optimizer = torch.optim.AdamW(parameters, fused=True)
    parameters[0].grad = torch.ones(3, 3)
    optimizer.step()
    count = copy.copy(optimizer.state[parameters[0]]["step"])
    lay_out(optimizer)
    assert torch.equal(optimizer.state[parameters[0]]["step"], count)
    assert optimizer.state[parameters[0]]["step"].dtype == torch.float32


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ({"kind": "lamb"}, "the state of AdamW, from which LAMB cannot go on"),
        ({"frozen": True}, r"trains \[\[4\]\] parameters and this run's \[\[2\]\]"),
    ],
)
def test_what_cannot_go_on_is_refused(then, message):
    fit(make(lr=0.01), 2, save="file.ckpt")
    with pytest.raises(ValueError, match=message):
        fit(make(lr=0.01, **then), 4, start="file.ckpt")


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd", "rmsprop", "lamb"])
@pytest.mark.parametrize(
    "hurt",
    [
        lambda state: state.update({name: torch.zeros(1) for name in state if name != "step"}),
        lambda state: state.update({name: torch.zeros(3) for name in state}),
        lambda state: state.update({name: torch.zeros(0) for name in state}),
        lambda state: state.update({"other": state.popitem()[1]}),
        lambda state: [state.popitem(), state.update(other=1)],
    ],
)
def test_a_state_of_other_shapes_or_parts_is_refused_before_the_first_step(kind, hurt):
    """A fused step with such a state writes to memory that is not its own."""
    fit(make(kind=kind, lr=0.01), 2, save="file.ckpt")
    content = torch.load("file.ckpt", weights_only=True)
    hurt(content["optimizer_states"][0]["state"][0])
    torch.save(content, "file.ckpt")
    with pytest.raises(ValueError, match=r"file\.ckpt: optimizer_states"):
        fit(make(kind=kind, lr=0.01), 4, start="file.ckpt")


@pytest.mark.parametrize(
    "kind",
    ["Adam", "AdamW", "NAdam", "RAdam", "ASGD", "Rprop", "Adadelta", "Adagrad", "Adamax",
     "Adafactor", "SGD", "RMSprop"],
)  # fmt: skip
def test_the_states_of_torch_are_taken_and_left_as_they_are(kind):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 1))
    optimizer = getattr(torch.optim, kind)(net.parameters(), lr=0.01)
    net(torch.randn(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    before = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    assert wrong_state(optimizer) is None
    after = (net.state_dict(), optimizer.state_dict())
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"betas": None}, {"lr": None}, {"eps": "x"}])
def test_options_that_no_step_takes_are_refused(options):
    fit(make(lr=0.01), 2, save="file.ckpt")
    content = torch.load("file.ckpt", weights_only=True)
    content["optimizer_states"][0]["param_groups"][0].update(options)
    torch.save(content, "file.ckpt")
    with pytest.raises(ValueError, match=r"file\.ckpt: optimizer_states: a step fails"):
        fit(make(lr=0.01), 4, start="file.ckpt")


def test_a_file_that_does_not_say_what_it_was_made_with():
    """From before the options were kept, or from a Trainer without this callback."""
    first, then = {"lr": 0.02}, {"lr": 0.003, "weight_decay": 0.5}
    fit(make(**first), 4, save="file.ckpt")
    expected = make(**then)
    fit(expected, 8, start="file.ckpt")
    content = torch.load("file.ckpt", weights_only=True)
    for key in ("optimizer_kinds", "optimizer_options"):
        del content[key]
    torch.save(content, "file.ckpt")
    module = make(**then)
    fit(module, 8, start="file.ckpt")
    same(expected, module, rtol=0, atol=0)
