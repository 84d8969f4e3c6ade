"""What the zoo's callbacks wrote into a checkpoint, where somebody else wrote it."""

from pathlib import Path

import pytest
import torch

from zoo.training.state import check_state

GOOD = {
    "global_step": 3,
    "epoch": 0,
    "pytorch-lightning_version": "2.6.0",
    "loops": {"fit_loop": {"epoch_progress": {}, "epoch_loop.batch_progress": {}}},
    "callbacks": {"Checkpoint": {"best": 1.5, "monitor": "val/loss", "mode": "min"}},
    "optimizer_states": [{"state": {}, "param_groups": [{"params": [0], "lr": 0.1}]}],
    "lr_schedulers": [],
    "state_dict": {},
    "surroundings": {"number of processes": 1, "version of torch": "2"},
    "optimizer_kinds": ["Adam"],
    "optimizer_options": [[{"lr": 0.1, "betas": (0.9, 0.999)}]],
    "metrics_csv": {"columns": ["step"], "rows": 2, "row": {"step": 1, "loss": 0.5}},
    "stopping_thresholds": {"EarlyStopping": [0.1, None, True]},
}


def test_what_was_written_is_taken():
    check_state(dict(GOOD), Path("x.ckpt"))
    notes = ("surroundings", "optimizer_kinds", "optimizer_options", "metrics_csv")
    notes += ("stopping_thresholds",)
    check_state({k: v for k, v in GOOD.items() if k not in notes}, Path("x.ckpt"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("callbacks", {"Checkpoint": {"best": "text"}}),
        ("callbacks", {"Checkpoint": {"best": torch.ones(2)}}),
        ("callbacks", {"Checkpoint": 3}),
        ("callbacks", {"EMA": None}),
        ("loops", {}),
        ("loops", {"fit_loop": {}}),
        ("loops", {"fit_loop": {"epoch_progress": {}}}),
        ("surroundings", ["x"]),
        ("surroundings", {"data": torch.ones(2)}),
        ("optimizer_kinds", 3),
        ("optimizer_kinds", [None]),
        ("optimizer_options", 3),
        ("optimizer_options", []),
        ("optimizer_options", [[]]),
        ("optimizer_options", [[{}]]),
        ("optimizer_options", [[{"lr": "x"}]]),
        ("optimizer_options", [[{"lr": torch.ones(2)}]]),
        ("optimizer_options", [[{"lr": 0.1, "betas": torch.ones(2)}]]),
        ("stopping_thresholds", None),
        ("stopping_thresholds", [0.1]),
        ("stopping_thresholds", {"EarlyStopping": 0.1}),
        ("metrics_csv", None),
        ("metrics_csv", {"columns": ["step"], "rows": -1, "row": {}}),
        ("metrics_csv", {"columns": ["step"], "rows": "x", "row": {}}),
        ("metrics_csv", {"columns": [3], "rows": 0, "row": {}}),
        ("metrics_csv", {"columns": ["step", "step"], "rows": 0, "row": {}}),
        ("metrics_csv", {"columns": ["step"], "rows": 0, "row": {"loss": 1.0}}),
    ],
)
def test_notes_of_another_type_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"x\.ckpt: {key}"):
        check_state({**GOOD, key: value}, Path("x.ckpt"))
