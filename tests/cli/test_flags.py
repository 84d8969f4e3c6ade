"""Which flags were typed, and options of a message as flags."""

import pytest

from zoo.cli.flags import typed
from zoo.cli.naming import with_flags


def test_flags_of_a_command_line_are_found_however_they_are_written():
    spec = "{class_path: CSVLogger, init_args: {save_dir: /x, version: 3}}"
    line = "--config={a:1} --model.init_args.width 8 --data.size=[8,8] --ema.decay=0"
    more = ["--trainer.logger", spec, "--trainer.callbacks+=A", "--data", "Digits", "--x"]
    found = typed([*line.split(), *more])
    assert found == {
        "model.width": ["8"],
        "data.size": ["[8,8]"],
        "ema.decay": ["0"],
        "trainer.logger": [spec],
        "trainer.logger.class_path": ["CSVLogger"],
        "trainer.logger.save_dir": ["/x"],
        "trainer.logger.version": ["3"],
        "trainer.callbacks": ["A"],
        "data": ["Digits"],
        "x": [""],
    }


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("groups=3: no", "--model.groups=3: no"),
        ("lr=0, free_bits=1: need lr > 0", "--model.lr=0, --model.free_bits=1: need lr > 0"),
        ("free_bits needs the KL", "--model.free_bits needs the KL"),
        ("set --model.groups=2, data.lr=1", "set --model.groups=2, data.lr=1"),
        ("free_bits >= 0, x.free_bits, /free_bits", "free_bits >= 0, x.free_bits, /free_bits"),
        ("the groups of lr", "the groups of lr"),
    ],
)
def test_options_are_told_from_words(said, told):
    assert with_flags(said, ["groups", "lr", "free_bits"], "--model.") == told
