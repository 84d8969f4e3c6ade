"""metrics.csv keeps what is done, and only that, across resumes."""

import csv

import pytest

from zoo.training import MetricsCSV


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_metrics_of_one_step_share_a_row_and_new_columns_are_added(tmp_path):
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"train/loss": 1.0}, step=4)
    logger.log_metrics({"train/loss": 0.5}, step=9)
    logger.log_metrics({"val/loss": 0.7}, step=9)
    logger.log_metrics({"train/loss": 0.25}, step=14)
    logger.finalize("success")
    assert rows(tmp_path) == [
        {"step": "4", "train/loss": "1.0", "val/loss": ""},
        {"step": "9", "train/loss": "0.5", "val/loss": "0.7"},
        {"step": "14", "train/loss": "0.25", "val/loss": ""},
    ]


def test_a_resumed_run_keeps_the_past_and_redoes_the_rest(tmp_path):
    first = MetricsCSV(tmp_path)
    for step in (4, 9, 14):
        first.log_metrics({"loss": step}, step=step)
    first.finalize("failed")
    resumed = MetricsCSV(tmp_path, resume=True)
    resumed.log_metrics({"loss": 90, "more": 1}, step=9)
    resumed.finalize("success")
    assert [(r["step"], r["loss"]) for r in rows(tmp_path)] == [("4", "4"), ("9", "90")]


def test_a_new_run_begins_anew(tmp_path):
    old = MetricsCSV(tmp_path)
    old.log_metrics({"loss": 1}, step=1)
    old.finalize("success")
    new = MetricsCSV(tmp_path)
    new.log_metrics({"loss": 2}, step=5)
    new.finalize("success")
    assert [r["step"] for r in rows(tmp_path)] == ["5"]


def test_a_row_that_was_cut_off_is_dropped(tmp_path):
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"a": 1, "b": 2}, step=1)
    logger.finalize("failed")
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("2,3,4,5,6")
    resumed = MetricsCSV(tmp_path, resume=True)
    resumed.log_metrics({"a": 9, "b": 9}, step=3)
    resumed.finalize("success")
    assert [r["step"] for r in rows(tmp_path)] == ["1", "3"]


def test_a_checkpoint_knows_the_rows_the_columns_and_the_row_that_is_open(tmp_path):
    """Whatever came after it, and however the process ended, the file becomes the same bytes."""

    def log(logger, steps):
        for step in steps:
            logger.log_metrics({"train/loss": step / 3}, step=step)
            if step % 4 == 0:
                logger.log_metrics({"val/loss": step / 7, "a": 0.1}, step=step)

    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = MetricsCSV(tmp_path / "whole")
    log(whole, range(1, 10))
    whole.finalize("success")
    for saved in range(1, 9):
        parts = MetricsCSV(tmp_path / "parts")
        log(parts, range(1, saved + 1))
        state = parts.state_dict()
        log(parts, range(saved + 1, 10))
        if saved % 2:  # else killed, with a row in memory
            parts.finalize("failed")
        for _ in range(2):  # the first one is killed before it logs anything
            resumed = MetricsCSV(tmp_path / "parts", resume=True)
            resumed.load_state_dict(state)
            state = resumed.state_dict()
        log(resumed, range(saved + 1, 10))
        resumed.finalize("success")
        found = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("whole", "parts")]
        assert found[0] == found[1], saved


def test_a_finished_run_that_is_resumed_and_logs_nothing_keeps_its_file(tmp_path):
    logger = MetricsCSV(tmp_path)
    for step in (1, 2):
        logger.log_metrics({"loss": step}, step=step)
    state = logger.state_dict()
    logger.finalize("success")
    before = (tmp_path / "metrics.csv").read_bytes()
    resumed = MetricsCSV(tmp_path, resume=True)
    resumed.load_state_dict(state)
    resumed.finalize("success")
    assert (tmp_path / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a,b\n1,2\n", "it has no column step"),
        (b"\xff\xfe\x00", "can't decode byte 0xff"),
        (b"step,x\n0," + 200_000 * b"1" + b"\n", "field larger than"),
    ],
)
def test_a_file_that_is_not_its_own_is_named_and_not_lost(tmp_path, content, said):
    (tmp_path / "metrics.csv").write_bytes(content)
    resumed = MetricsCSV(tmp_path, resume=True)
    resumed.load_state_dict({"columns": ["step", "x"], "rows": 1, "row": {}})
    with pytest.raises(ValueError, match=f"metrics.csv is damaged .*{said}.*: mend it or move"):
        resumed.log_metrics({"x": 1.0}, 5)
    assert (tmp_path / "metrics.csv").read_bytes() == content


def test_rows_that_are_gone_are_told(tmp_path, caplog):
    resumed = MetricsCSV(tmp_path, resume=True)
    resumed.load_state_dict({"columns": ["step", "x"], "rows": 3, "row": {}})
    with caplog.at_level("INFO"):
        resumed.log_metrics({"x": 1.0}, 5)
    assert "has 0 of the 3 rows before this step" in caplog.text
