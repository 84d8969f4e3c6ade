"""The page of runs that no training made: curves, tables, grids, and what is refused."""

import csv
import io
import os
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.report.pages import METRICS, Page, make_run
from zoo.figures import Figure, read_figure, write_figure
from zoo.report.curves import charts
from zoo.report.drawing import draw
from zoo.report.run import read_curves, read_runs

TRACES = {
    ("loss", "train"): "train/loss",
    ("loss", "val"): "val/loss",
    ("loss by quarter of the steps", "quarter 1"): "train/loss_q0",
    ("wasserstein", "critic"): "wasserstein/critic",
    ("wasserstein", "exact"): "wasserstein/exact",
}


def logged(name, text=METRICS):
    """A column of a CSV without its holes, by Python's own reader; None where no number."""
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row[name]]
    values = [None if row[name] == "nan" else float(row[name]) for row in rows]
    return [int(row["step"]) for row in rows], values


def test_the_curves_of_the_page_are_those_of_the_csv(zoo_cli):
    make_run("runs/one")
    code, out, err = zoo_cli("report", "runs/one")
    assert code == 0, err
    assert out == "written to runs/one/report.html\n"
    charts = Page("runs/one/report.html").charts
    found = {
        (title, trace["name"]): (trace["x"], trace["y"])
        for title, [chart] in charts.items()
        for trace in chart["data"]
    }
    assert found == {key: logged(name) for key, name in TRACES.items()}


def test_the_page_says_what_the_run_did_and_loads_nothing(zoo_cli):
    make_run("runs/one")
    assert zoo_cli("report", "runs/one", "--out", "p/page.html")[0] == 0
    page = Page("p/page.html")
    said = "\n".join(page.texts)
    for text in ("2.125", "3.5", "1,234,567", "1 min 2 s", "1,024 MiB", "train: 1,257 images"):
        assert text in said
    assert "by an honest protocol <b>" in said
    assert "zoo sample runs/one" in said
    assert "zoo fit --run_dir runs/one --ckpt_path last --trainer.max_steps N" in said
    assert all(source.startswith("data:") for source in page.sources())
    assert "@import" not in page.html
    assert "url(" not in page.html.split("<body>")[0]


@pytest.mark.parametrize("name", ["</script><script>alert(1)", '"><img src=x onerror=alert(1)>'])
def test_what_a_run_says_is_text(zoo_cli, name):
    name = name.replace("/", "⁄")  # no part of a file's name
    make_run(f"runs/{name}", note="</script><script>alert(2)</script>{{7*7}}")
    assert zoo_cli("report", f"runs/{name}", "-o", "page.html")[0] == 0
    page = Page("page.html")
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert name in page.texts
    assert "</script><script>alert(2)</script>{{7*7}}" in page.texts


def test_several_runs_share_charts_and_tell_their_differences(zoo_cli):
    make_run("a/run", lr=0.5)
    make_run("b/run", lr=0.25, metrics=METRICS.replace("0.375", "0.4375"))
    code, out, err = zoo_cli("report", "a/run", "b/run")
    assert (code, out) == (0, "written to report.html\n"), err
    page = Page("report.html")
    [chart] = page.charts["loss"]
    curves = {trace["name"]: trace["y"] for trace in chart["data"]}
    assert set(curves) == {f"{r} · {s}" for r in ("a/run", "b/run") for s in ("train", "val")}
    assert curves["a/run · val"] == [0.625, 0.375]
    assert curves["b/run · val"] == [0.625, 0.4375]
    colours = {trace["name"][0]: trace["line"]["color"] for trace in chart["data"]}
    assert colours == {"a": "@0", "b": "@1"}
    differing = page.html.split("What differs:")[1].split("<details>")[0]
    assert "model.lr" in differing
    assert "0.25" in differing
    assert "model.channels" not in differing
    assert "run_dir" not in differing


def test_options_of_one_class_do_not_differ_from_those_of_another(zoo_cli):
    for name, lr in (("one", 0.5), ("two", 0.5), ("three", 0.25)):
        make_run(name, lr=lr)
    config = Path("one/config.yaml")
    config.write_text(config.read_text().replace("zoo.DDPM", "zoo.VAE").replace("note", "hidden"))
    differing = {}
    for runs in (("one", "two", "three"), ("two", "three")):
        assert zoo_cli("report", *runs)[0] == 0
        part = Page("report.html").html.split("What differs:")[1].split("<details>")[0]
        differing[runs] = set(re.findall(r"<code>(model[^<]*)</code></td><td>", part))
    assert list(differing.values()) == [{"model.class_path", "model.lr"}, {"model.lr"}]


def test_curves_that_lie_upon_each_other_are_one(tmp_path):
    twice = "step,g/f_real,g/hat_real,g/f_fake\n1,1.5,1.5,1.5\n2,2.5,2.5,2\n"
    runs = read_runs([str(make_run(tmp_path / name, metrics=twice)) for name in ("a", "b")])
    assert [line.label for line in charts(runs[:1])["g"]] == ["f real = hat real", "f fake"]
    labels = ["f real = hat real", "f fake"]
    both = [f"{run} · {label}" for label in labels for run in "ab"]
    assert sorted(line.label for line in charts(runs)["g"]) == sorted(both)


def test_the_mean_of_one_set_and_the_set_are_one_chart(tmp_path):
    one = "step,val/spearman,val/spearman_stsb\n1,0.5,0.5\n2,0.75,0.75\n"
    two = "step,val/spearman,val/spearman_stsb,val/spearman_bq\n1,0.375,0.5,0.25\n"
    titles = []
    for name, rows in (("one", one), ("two", two)):
        runs = read_runs([str(make_run(tmp_path / name, metrics=rows))])
        titles.append(list(charts(runs)))
    assert titles[0] == ["spearman = spearman stsb"]
    assert titles[1] == ["spearman", "spearman stsb", "spearman bq"]


def test_a_resumed_run_has_one_curve(tmp_path):
    """Killed at 30, gone on from 10, and a last line that was cut off."""
    rows = ["step,train/loss,val/loss", "10,3.0,", "10,,9.0", "20,2.0,", "30,1.0,5.0", "20,2.5,"]
    file = tmp_path / "metrics.csv"
    file.write_text("\n".join([*rows, "25,2.25,", "30,"]))
    assert read_curves(file) == {
        "train/loss": ([10, 20, 25], [3.0, 2.5, 2.25]),
        "val/loss": ([10], [9.0]),
    }


def test_sample_grids_have_a_slider(zoo_cli):
    folder = make_run("runs/one") / "samples"
    folder.mkdir()
    for step in range(60):
        Image.fromarray(np.full((4, 4), step, np.uint8)).save(folder / f"step-{step:07d}.png")
    assert zoo_cli("report", "runs/one")[0] == 0
    page = Page("runs/one/report.html")
    images = [step["image"] for step in page.charts["Samples"]]
    assert 12 < len(images) <= 25
    [slider] = [attributes for _, attributes in page.tags if attributes.get("type") == "range"]
    assert slider["data-steps"].split(",")[-1] == "59"
    assert len(slider["data-steps"].split(",")) == len(images)


def test_what_a_model_wrote_has_a_slider(zoo_cli):
    folder = make_run("runs/one") / "samples"
    folder.mkdir()
    for step in (5, 10):
        text = f"sentence\tsimilarity\n<b>打不开\t0.{step:02d}1234567\n\t-1.5e-07\n"
        (folder / f"step-{step:07d}.tsv").write_text(text, "utf-8")
    assert zoo_cli("report", "runs/one")[0] == 0
    page = Page("runs/one/report.html")
    first, last = (step["table"] for step in page.charts["Samples"])
    assert first == [["sentence", "similarity"], ["<b>打不开", "0.0512"], ["", "0.0000"]]
    assert last[1] == ["<b>打不开", "0.1012"]
    [slider] = [attributes for _, attributes in page.tags if attributes.get("type") == "range"]
    assert slider["data-steps"] == "5,10"


def test_lengths_stand_whole_below_their_axis():
    lengths = Figure("lines", "by length", {"x": np.array([256.0, 16384]), "loss": np.ones(2)})
    axis = draw(replace(lengths, words={"log": ["x"]}))["layout"]["xaxis"]
    assert (axis["tickvals"], axis["ticktext"]) == ([256, 16384], ["256", "16,384"])


def test_figures_are_files_without_pickles(tmp_path):
    made = Figure("bars", "KL", {"values": np.arange(3.0)}, "a note", {"names": ["a", "b", "c"]})
    write_figure(made, tmp_path / "kl.npz")
    found = read_figure(tmp_path / "kl.npz")
    assert (found.kind, found.title, found.note, found.words) == (
        made.kind,
        made.title,
        made.note,
        made.words,
    )
    assert found.arrays["values"].dtype == np.float32
    np.testing.assert_array_equal(found.arrays["values"], made.arrays["values"])
    np.savez(tmp_path / "bad.npz", about=np.array([{}], object))
    with pytest.raises(ValueError, match=r"bad.npz is no figure of a run"):
        read_figure(tmp_path / "bad.npz")


DAMAGED = {
    "metrics.csv": [
        ("step,a\n1,2\nx,3\n", "metrics.csv, line 3: invalid literal for int"),
        ("step,a\n1,2,3\n", "metrics.csv, line 2: 3 cells in 2 columns"),
        ("a,b\n1,2\n", "metrics.csv, line 1: its first line must name the columns, step among"),
        ("step,a\n1,\0\n", "metrics.csv, line 2: a NUL"),
        ('step,a\n1,"2\n', "metrics.csv, line 2"),
        (f"step,a\n{'9' * 400},1\n", "metrics.csv, line 2: its step is negative or too large"),
        ("step,a\n-5,1\n", "metrics.csv, line 2: its step is negative or too large"),
    ],
    "config.yaml": [
        ("- 1\n", "config.yaml is no config: it holds no keys"),
        ("a: &b {c: *b}\n", "config.yaml is no config"),
        ("a: [\n", "config.yaml is no config"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
            + "".join(
                f"{y}: &{y} [{','.join(10 * [f'*{x}'])}]\n" for x, y in pairwise("abcdefghi")
            ),
            "config.yaml is no config: it is nested too deeply or too large",
        ),
    ],
    "results.json": [
        ("{", "results.json is not JSON"),
        ('{"metrics": 1}', "metrics must be a dict"),
        (
            f'{{"metrics": {{"test/a": 1{"0" * 400}}}, "protocol": {{}}}}',
            "results.json holds a number of 1329 bits",
        ),
    ],
    "report/run.json": [
        ('{"data": [], "verbs": [], "sessions": [{"from": "x"}]}', "is no session"),
        (
            '{"data": [], "verbs": [], "sessions": '
            '[{"from": 0, "to": Infinity, "seconds": 1, "memory": 1}]}',
            "is no session",
        ),
        (
            '{"data": [], "verbs": [], "sessions": [], "parameters": NaN}',
            "run.json: parameters is no number",
        ),
    ],
    "samples/step-0000010.png": [("no picture", "step-0000010.png is no PNG: remove it")],
    "samples/step-0000010.tsv": [
        ("a\tb\n1\n", "step-0000010.tsv is no table of rows of one length: remove it"),
        ("", "step-0000010.tsv is no table of rows of one length: remove it"),
        ("a\n" * 2**20, "step-0000010.tsv is too large for a page: remove it"),
    ],
    "report/kl.step-0000010.npz": [("x", "kl.step-0000010.npz is no figure of a run")],
}


@pytest.mark.parametrize(
    ("name", "text", "said"), [(n, t, s) for n, each in DAMAGED.items() for t, s in each]
)
def test_a_damaged_file_is_one_line(mistake, name, text, said):
    file = make_run("runs/one") / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    assert said in mistake("report", "runs/one")


@pytest.mark.parametrize(
    "name", ["samples/step-0000020.png", "samples/step-0000020.tsv", "report/kl.test.npz"]
)
def test_a_pipe_is_not_waited_for(mistake, name):
    file = make_run("runs/one") / name
    file.parent.mkdir(exist_ok=True)
    os.mkfifo(file)
    assert name in mistake("report", "runs/one")


def test_a_picture_that_cannot_be_drawn_names_its_file(mistake):
    figure = Figure("images", "a title", {"other": np.zeros(3)})
    write_figure(figure, make_run("runs/one") / "report/odd.test.npz")
    assert "report/odd.*.npz cannot be drawn (ValueError: a title: no images can" in mistake(
        "report", "runs/one"
    )


NEGATIVE = "step,val/bound,val/loss\n1,-2,2\n2,-1,1\n"


def test_a_plot_says_what_it_cannot_show(zoo_cli, monkeypatch):
    """A value of 0 or less has no logarithm; a name is no formula, and none is hidden."""
    for name in ("_a$x_1$", "\u8fd0\u884c"):
        make_run(name, metrics=NEGATIVE)
    asked = ("plot", "_a$x_1$", "\u8fd0\u884c", "--out", "curves.svg", "--log", "true")
    monkeypatch.setattr("zoo.report.plot._more_fonts", lambda: [])
    code, _, err = zoo_cli(*asked)
    assert code == 0, err
    assert err.splitlines() == [
        "zoo: not logarithmic, since not all is positive: bound",
        "zoo: no font here has \u8fd0\u884c: install one, such as Noto Sans CJK SC",
    ]
    drawn = Path("curves.svg").read_text("utf-8")
    for label in ("_a$x_1$ · val", "\u8fd0\u884c · val"):
        assert drawn.count(f">{label}<") == 2


def test_what_runs_logged_in_one_group_can_be_told_apart(tmp_path):
    names = [str(make_run(tmp_path / name)) for name in ("a", "b")]
    [one, both] = (charts(read_runs(of)) for of in (names[:1], names))
    for found in (one, both):
        for lines in found.values():
            drawn = [(line.colour, line.dash, line.kind) for line in lines]
            assert len(set(drawn)) == len(drawn)
    groups = both["wasserstein"]
    assert {(line.label[0], line.colour, line.dash) for line in groups} == {
        (run, colour, dash) for run, colour in (("a", 0), ("b", 1)) for dash in (0, 1)
    }


def test_more_charts_than_a_figure_holds_are_refused(mistake, tmp_path):
    names = [f"m{i}" for i in range(49)]
    (make_run("runs/one") / "metrics.csv").write_text(
        f"step,{','.join(names)}\n1{',2' * len(names)}\n"
    )
    assert "--metrics *: 49 charts, and a figure holds 48" in mistake("plot", "runs/one")


def test_what_is_no_run_is_one_line(mistake, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    make_run("runs/one")
    assert "nowhere is not there: give a folder that `zoo fit` wrote" in mistake(
        "report", "nowhere"
    )
    assert "file is a file, not a run directory" in mistake("report", "runs/one", "file")
    assert "empty holds no run: no metrics.csv" in mistake("report", "empty")
    assert "the same run twice" in mistake("report", "runs/one", "runs/../runs/one")
    assert "needs RUNS" in mistake("report")
    (tmp_path / "runs/one/metrics.csv").write_text("")
    assert "metrics.csv, line 1: its first line" in mistake("report", "runs/one")


def test_without_the_extra_one_line_names_it(mistake, monkeypatch):
    make_run("runs/one")
    monkeypatch.setattr("zoo.report.page.find_spec", lambda name: None)
    for verb in ("report", "plot"):
        line = mistake(verb, "runs/one")
        assert "pip install 'lightning-model-zoo[report]'" in line


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_plots_for_papers(zoo_cli, mistake, suffix, tmp_path):
    make_run("runs/one")
    make_run("runs/two")
    out = tmp_path / f"curves.{suffix}"
    code, _, err = zoo_cli("plot", "runs/one", "runs/two", "--out", out, "--metrics", "*loss")
    assert code == 0, err
    begins = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix]
    content = out.read_bytes()
    assert content.startswith(begins)
    if suffix == "svg":
        assert b"two \xc2\xb7 val" in content
        assert b"wasserstein" not in content
    assert "--metrics vall/loss: did you mean val/loss?" in mistake(
        "plot", "runs/one", "--metrics", "vall/loss"
    )
    assert "the name ends in one of .png, .pdf, .svg" in mistake(
        "plot", "runs/one", "--out", "curves.jpg"
    )
