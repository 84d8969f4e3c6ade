from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from zoo import DDPM
from zoo.data import Digits
from zoo.training import Changes
from zoo.training.changes import changed_options, check_options, check_weights, digest

SMALL = {"image_size": 8, "channels": 1, "levels": 17, "timesteps": 20, "width": 8}
SMALL |= {"multipliers": [1, 2], "blocks": 1, "attention_levels": [1], "groups": 4}


def test_options_by_their_names():
    old = {
        "seed_everything": 0,
        "model": {"class_path": "zoo.DDPM", "init_args": {"lr": 1e-3, "points": {"5": 1.0}}},
        "data": {"class_path": "zoo.data.Digits", "init_args": {"batch_size": 64}},
        "trainer": {"precision": "32-true", "max_steps": 4, "limit_val_batches": None},
        "ema": {"decay": 0.9},
    }
    new = {
        "seed_everything": 1,
        "model": {"class_path": "zoo.ddpm.DDPM", "init_args": {"lr": 2e-3, "points": {5: 1.0}}},
        "data": {"class_path": "MNIST", "init_args": {"batch_size": 32, "download": True}},
        "trainer": {"precision": "bf16-mixed", "max_steps": 8, "limit_val_batches": 3},
        "ema": {"decay": 0.99},
        "run_dir": "elsewhere",
    }
    assert changed_options(old, new) == {
        "seed_everything": (0, 1),
        "model.lr": (1e-3, 2e-3),
        "data": ("Digits", "MNIST"),
        "data.batch_size": (64, 32),
        "trainer.precision": ("32-true", "bf16-mixed"),
        "trainer.limit_val_batches": (None, 3),
        "ema.decay": (0.9, 0.99),
    }
    assert changed_options(old, old) == {}
    assert changed_options({}, new) == {}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("model.optimizer", ("adam", "lamb")),
        ("model.init", ("kaiming", "normal")),
        ("model.init_std", (0.02, 0.1)),
        ("model.data_bias", (True, False)),
        ("model.pretrained", ("a", "b")),
    ],
)
def test_what_cannot_change_is_refused_by_its_name(name, values):
    with pytest.raises(ValueError, match=f"--{name}={values[1]}"):
        check_options({name: values})


def test_what_can_change_is_not_refused():
    check_options({"model.lr": (1, 2), "data.init": (1, 2), "model.init": ("gone.ckpt", None)})


def test_other_shapes_are_refused_by_the_option_at_fault():
    weights = DDPM(**SMALL).state_dict()
    changed = {"model.width": (8, 16), "model.lr": (1e-3, 1e-4), "data.limit": (1, 2)}
    with pytest.raises(ValueError, match=r"model\.width is 16 and was 8") as e:
        check_weights(DDPM(**{**SMALL, "width": 16, "lr": 1e-4}), weights, changed, "last.ckpt")
    assert str(e.value).endswith("give --model.width 8, or begin a new run")
    assert "lr" not in str(e.value)
    check_weights(DDPM(**{**SMALL, "dropout": 0.5}), weights, changed, "last.ckpt")


def test_an_option_without_which_weights_are_too_many_is_named():
    weights = DDPM(**SMALL, num_classes=3).state_dict()
    changed = {"model.num_classes": (3, None), "model.lr": (1e-3, 1e-4)}
    with pytest.raises(ValueError, match=r"give --model.num_classes 3, or begin a new run"):
        check_weights(DDPM(**SMALL, lr=1e-4), weights, changed, "last.ckpt")
    other = {"model.lr": (1e-3, 1e-4)}  # is not at fault, whatever is
    check_weights(DDPM(**SMALL, lr=1e-4), weights, other, "last.ckpt")


@pytest.mark.parametrize("attribute", ["images", "labels", "names", "nested", "length"])
def test_the_digest_is_of_the_content(attribute):
    def dataset(**other):
        generator = torch.Generator().manual_seed(0)
        content = {
            "images": torch.randint(256, (50, 1, 8, 8), generator=generator, dtype=torch.uint8),
            "labels": np.arange(50),
            "names": [f"{i}.png" for i in range(50)],
            "nested": [("a", "b"), ("c", "d", 1.5)],
            "length": [3, 4],
            "_drawn": [torch.rand(3)],
            "read": lambda name: name,
        }
        return SimpleNamespace(**{**content, **other})

    changed = {
        "images": dataset().images.clone().index_fill_(0, torch.tensor([7]), 3),
        "labels": np.arange(50)[::-1],
        "names": [f"{i}.png" for i in range(49)] + ["50.png"],
        "nested": [("a", "b"), ("c", "e", 1.5)],
        "length": [3, 5],
    }
    assert digest(dataset()) == digest(dataset())
    assert digest(dataset()) != digest(dataset(**{attribute: changed[attribute]}))


def test_files_that_are_read_later_count_by_their_sizes(tmp_path):
    dataset = SimpleNamespace(names=["a.png", "b.png"])
    for name in dataset.names:
        Path(tmp_path, name).write_bytes(b"1234")
    before = digest(dataset, str(tmp_path))
    assert digest(dataset, str(tmp_path)) == before
    Path(tmp_path, "b.png").write_bytes(b"12345")
    assert digest(dataset, str(tmp_path)) != before


def test_other_data_and_processes_are_told(monkeypatch):
    told = []
    monkeypatch.setattr("zoo.training.changes.rank_zero_info", told.append)
    module = SimpleNamespace(device=torch.device("cpu"))

    def start(file, processes=1, limit=100):
        data = Digits(limit=limit)
        trainer = SimpleNamespace(
            world_size=processes,
            is_global_zero=True,
            datamodule=data,
            train_dataloader=SimpleNamespace(dataset=data.split("train")),
        )
        told.clear()
        changes = Changes()
        changes.on_load_checkpoint(trainer, module, file)
        changes.on_train_start(trainer, module)
        saved = {}
        changes.on_save_checkpoint(trainer, module, saved)
        return saved

    saved = start({})
    assert told == []
    start(saved)
    assert told == []
    start(saved, processes=2)
    assert told == ["the number of processes is 2; the checkpoint was made with 1"]
    start(saved, limit=99)
    assert told == [
        "the number of training items is 99; the checkpoint was made with 100",
        "the content of the training data is another than the checkpoint's",
    ]
