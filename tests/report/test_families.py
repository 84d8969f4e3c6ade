"""What a tiny run of each family leaves: figures with the right values, and a page of them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import zoo
from tests.report.pages import Page
from zoo.data.images.pixels import pixels_of
from zoo.figures import Figure, write_figure
from zoo.flash.figures import kind_of
from zoo.layers.counter_rng import normal
from zoo.report import run as report_run
from zoo.report.drawing import draw
from zoo.report.run import read_runs
from zoo.simbert.figures import best_f1
from zoo.training.pictures import Pictures, steps_of, thin
from zoo.vae.text.evaluation import EVALUATION_SEED

SHORT = "--trainer.max_steps 4 --trainer.val_check_interval 2 --trainer.log_every_n_steps 1"
SHORT += " --trainer.enable_progress_bar false --trainer.enable_model_summary false"
TOY = "-c wgan/8gaussians-gp --model.generator_widths [8] --model.critic_widths [8]"
VAE = "-c vae/digits --model.hidden [8] --quality.extractor null --model.log_density_samples 40"
FLASH = "-c flash/shakespeare --model.dim 16 --model.depth 1 --model.head_size 8 --model.chunk 8"
TEXT = "--data.sequence_length 16 --data.stride 16 --data.test_lengths [16,32]"
RECALL = "-c flash/recall-64 --model.dim 16 --model.depth 1 --model.head_size 8"
FEW = "--trainer.limit_val_batches 1"
SIMBERT = "-c simbert/demo --model.hidden 16 --model.layers 1 --model.heads 2"


@pytest.fixture
def fitted(zoo_cli):
    """Fits, and if asked tests: the run, its logged rows, its results and its page."""

    def run(options, test=None):
        code, _, err = zoo_cli("fit", "--run_dir", "run", *options.split(), *SHORT.split())
        assert code == 0, err
        assert "look at it: run/report.html" in err
        if test is not None:
            code, _, err = zoo_cli("test", "--ckpt_path", "run", *test.split())
            assert code == 0, err
        [found] = read_runs(["run"])
        return found, Page("run/report.html")

    return run


def last(run, name):
    """The last value of a metric in the CSV, by Python's own reader."""
    with Path("run/metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)][-1]


def results(name):
    return json.loads(Path("run/results.json").read_text())["metrics"][name]


@pytest.mark.slow
def test_a_toy_shows_the_averaged_generator_over_its_critic(fitted):
    run, page = fitted(TOY)
    plane = run.figures()["plane"]
    assert list(plane) == ["2", "4"]
    arrays, model = plane["4"].arrays, zoo.load("run")
    fake = model.sample(len(arrays["fake"]), seed=8244)
    torch.testing.assert_close(torch.from_numpy(arrays["fake"]), fake)
    i, j = 7, 31
    point = torch.tensor([[arrays["x"][j], arrays["y"][i]]])
    value = model.critic_values(point)[0]
    torch.testing.assert_close(torch.from_numpy(arrays["values"][i, j][None]), value)
    assert len(page.charts["Points and critic"]) == 2
    [chart] = page.charts["wasserstein"]
    assert [trace["name"] for trace in chart["data"]] == ["critic", "exact"]


@pytest.mark.slow
def test_a_ddpm_shows_noise_becoming_its_samples(fitted, tiny):
    run, page = fitted(f"-c {tiny} --samples.n 4", test="")
    figures = run.figures()["denoising"]
    assert list(figures) == ["4", "test"]
    images = figures["4"].arrays["images"]
    samples = zoo.load("run").sample(8, sampler="ddim", eta=0.0, steps=20, seed=0)
    assert np.abs(images[:, -1].astype(int) - pixels_of(samples)).max() <= 1  # of 255: rounding
    assert list(run.samples()) == [2, 4]
    shown = page.charts["Denoising of eight samples"]
    assert all(step["image"].startswith("data:image/png;base64,") for step in shown)
    names = [trace["name"] for trace in page.charts["loss by quarter of the steps"][0]["data"]]
    assert names == [f"quarter {i}" for i in (1, 2, 3, 4)]


@pytest.mark.slow
def test_a_vae_shows_its_manifold_kl_and_densities(fitted):
    run, page = fitted(f"{VAE} --model.latent_dim 2", test="")
    figures, model = run.figures(), zoo.load("run")
    assert list(figures["kl"]) == ["2", "4", "test"]
    assert figures["kl"]["4"].arrays["values"].sum() == pytest.approx(last(run, "val/kl"), rel=1e-5)
    manifold = figures["manifold"]["4"].arrays["images"]
    difference = manifold.astype(int) - pixels_of(model.manifold(12, 12))
    assert np.abs(difference).max() <= 1
    density = figures["density"]["test"].arrays
    assert len(density["values"]) == 360
    mean = density["values"].astype(float).mean()
    assert mean == pytest.approx(results("test/log_density"), rel=1e-5)
    unreliable = (density["shape"] > 0.7).mean()
    assert unreliable == pytest.approx(results("test/unreliable"), abs=1e-6)
    assert figures["traversals"]["4"].arrays["images"].shape == (2, 11, 1, 8, 8)
    counts = [trace for trace in draw(figures["density"]["test"])["data"] if trace["type"] == "bar"]
    total = sum(np.frombuffer(_bytes(trace["y"]), np.int32).sum() for trace in counts)
    assert total == 360
    assert {"Manifold", "Traversals", "KL by dimension"} <= set(page.charts)


@pytest.mark.slow
def test_of_more_dimensions_the_two_that_say_most_are_a_plane(fitted):
    run, page = fitted(f"{VAE} --model.latent_dim 4")
    figures, model = run.figures(), zoo.load("run")
    assert list(figures["manifold"]) == ["2", "4"]
    kl = figures["kl"]["4"].arrays["values"]
    i, j = sorted(np.argsort(kl)[-2:])
    z = torch.zeros(12, 12, 4)
    quantiles = torch.special.ndtri((torch.arange(12) + 0.5) / 12)
    for row in range(12):
        for column in range(12):
            z[row, column, i], z[row, column, j] = quantiles[column], quantiles[11 - row]
    images = figures["manifold"]["4"].arrays["images"]
    assert np.abs(images.astype(int) - pixels_of(model.images_of(z))).max() <= 1
    assert "Manifold" in page.charts


def _bytes(packed):
    import base64

    return base64.b64decode(packed["bdata"])


@pytest.mark.slow
def test_a_vae_on_the_sphere_shows_it(fitted):
    run, page = fitted(
        "-c vae/vmf-digits --model.hidden [8] --quality.extractor null --model.spheres [3]"
    )
    images = run.figures()["manifold"]["4"].arrays["images"]
    difference = images.astype(int) - pixels_of(zoo.load("run").manifold(12, 12))
    assert np.abs(difference).max() <= 1
    assert "KL by sphere" in page.charts


@pytest.mark.slow
def test_of_a_larger_sphere_that_of_three_axes_is_a_globe(fitted):
    run, page = fitted(
        "-c vae/vmf-digits --model.hidden [8] --quality.extractor null --model.spheres [4,2]"
    )
    manifold = run.figures()["manifold"]["4"]
    difference = manifold.arrays["images"].astype(int) - pixels_of(zoo.load("run").globe(12, 12))
    assert np.abs(difference).max() <= 1
    assert "on the other spheres the code stays" in str(page.html)


@pytest.mark.slow
def test_a_language_model_shows_its_loss_by_position_and_length(fitted):
    run, page = fitted(f"{FLASH} {TEXT} {FEW}", test="--trainer.limit_test_batches 2")
    positions = run.figures()["positions"]
    assert list(positions) == ["2", "4", "test"]
    arrays = positions["4"].arrays
    assert arrays["x"].tolist() == list(range(1, 17))
    assert arrays["loss"].mean() == pytest.approx(last(run, "val/loss"), rel=1e-5)
    lengths = run.figures()["lengths"]["test"].arrays
    assert lengths["x"].tolist() == [16, 32]
    both = [results("test/loss"), results("test/loss@32")]
    np.testing.assert_allclose(lengths["loss"], both, rtol=1e-6)
    tested = positions["test"].arrays
    np.testing.assert_array_equal(np.isnan(tested["windows of 16"]), tested["x"] > 16)
    assert np.nanmean(tested["windows of 16"]) == pytest.approx(both[0], rel=1e-5)
    assert not np.isnan(tested["windows of 32"]).any()
    assert len(page.charts["Loss by length"]) == 1
    assert run.record()["verbs"] == ["generate"]


@pytest.mark.slow
def test_recall_is_shown_by_question(fitted):
    run, page = fitted(f"{RECALL} {FEW}", test="--trainer.limit_test_batches 1")
    right = run.figures()["positions"]["4"].arrays["values"]
    assert right.mean() == pytest.approx(last(run, "val/accuracy"), abs=1e-6)
    assert len(page.charts["Recall by question"]) == 3
    # No symbols are counted beside what is asked for; chance is the baseline.
    assert run.results()["protocol"] == {
        "test/bits_per_symbol": "test split, what is asked for (250 predictions)",
        "baseline/accuracy": "a guess among 16 symbols",
    }
    assert results("baseline/accuracy") == pytest.approx(1 / 16)
    assert run.record()["verbs"] == []  # its numbers stand for no text


@pytest.mark.slow
def test_a_sentence_model_shows_cosines_and_a_map(fitted):
    run, page = fitted(SIMBERT, test="--model.examples 0")
    figures, model = run.figures(), zoo.load("run")
    assert list(figures["batch"]) == ["2", "4", "test"]
    data = zoo.data.SimilarGroups(max_length=32, val_share=0.1, test_share=0.1)
    data.setup("fit")
    texts = next(iter(data.val_dataloader()[0])).texts[:64]  # cut to the length of a row
    batch = torch.from_numpy(figures["batch"]["4"].arrays["values"])
    cosines = model.similarity(texts[::2], texts[1::2])
    torch.testing.assert_close(batch, cosines, atol=1e-5, rtol=0)
    points = figures["map"]["test"]
    assert len(points.arrays["xy"]) == len(points.words["texts"])
    drawn = page.charts["Map of the corpus"][0]["data"]
    assert sum(len(trace["text"]) for trace in drawn) == len(points.words["texts"])
    [mark] = page.charts["Cosines of similar and of other pairs"][-1]["layout"]["annotations"]
    assert mark["text"].startswith("F1 ")


def test_the_threshold_of_the_best_f1_is_that_of_trying_all():
    numbers = torch.tensor(np.random.default_rng(0).normal(size=(2, 40)).round(1))
    similar, other = numbers[0] + 0.7, numbers[1]
    found = {}
    for threshold in torch.cat([similar, other]).tolist():
        right, wrong = int((similar >= threshold).sum()), int((other >= threshold).sum())
        found[threshold] = 2 * right / (right + wrong + len(similar))
    threshold, f1 = best_f1(similar, other)
    assert f1 == pytest.approx(max(found.values()))
    assert found[threshold] == pytest.approx(f1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [TOY, f"{VAE} --model.latent_dim 3", f"{SIMBERT} --ema.decay 0.9"]
)
def test_pictures_change_no_bit_of_a_run(fitted, monkeypatch, options):
    fitted(options)
    Path("run").rename("with")
    monkeypatch.setattr(Pictures, "_write", lambda *_: None)
    fitted(options)
    a, b = (
        torch.load(f"{folder}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for folder in ("with", "run")
    )
    assert Path("with/metrics.csv").read_text() == Path("run/metrics.csv").read_text()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_failed_picture_or_page_costs_the_run_nothing(fitted, tiny, monkeypatch, zoo_cli):
    def fails(*_):
        raise RuntimeError("a fault\nof two lines")

    monkeypatch.setattr(zoo.DDPM, "figures", fails)
    monkeypatch.setattr("zoo.run.write_page", fails)
    code, _, err = zoo_cli("fit", "-c", tiny, "--run_dir", "run", *SHORT.split())
    assert code == 0, err
    assert "no pictures of this end, the run goes on: RuntimeError: a fault of two lines" in err
    assert "no run/report.html: a fault of two lines" in err
    assert Path("run/checkpoints/last.ckpt").is_file()


@pytest.mark.slow
def test_a_short_run_leaves_its_last_metrics_and_a_grid(zoo_cli, tiny):
    """And a run that goes on from it logs what one that never stopped does."""
    more = ["--samples.n", 4, "--trainer.log_every_n_steps", 50, "--trainer.val_check_interval", 60]
    for folder, steps in (("whole", 5), ("parts", 3), ("parts", 5)):
        args = ["--run_dir", folder, "--ckpt_path", "last", "--trainer.max_steps", steps]
        code, _, err = zoo_cli("fit", "-c", tiny, *more, *args)
        assert code == 0, err
        with Path(folder, "metrics.csv").open() as file:
            [row] = csv.DictReader(file)
        assert int(row["step"]) == steps - 1
        assert float(row["train/loss"]) > 0
        assert Path(folder, "samples", f"step-{steps:07d}.png").is_file()
    assert Path("whole/metrics.csv").read_text() == Path("parts/metrics.csv").read_text()


def test_many_steps_of_a_picture_are_thinned_evenly(tmp_path):
    for step in range(10, 2000, 10):
        (tmp_path / f"kl.step-{step:07d}.npz").touch()
        thin(tmp_path, "kl")
    steps = [step for _, step in steps_of(tmp_path, "kl")]
    assert len(steps) == 32
    assert (steps[0], steps[-1]) == (10, 1990)
    gaps = np.diff(steps)
    assert gaps.max() <= 4 * np.median(gaps)


TEXTVAE = "-c vae/text-shakespeare --model.hidden 8 --model.embedding 4 --model.latent_dim 3"
TEXTVAE += " --model.log_density_samples 8 --data.limit 64"
MLM = "-c flash/mlm-zh --data.root null --model.dim 16 --model.depth 1 --model.head_size 8"
MLM += " --model.chunk 8 --data.limit 200"


@pytest.mark.slow
def test_a_vae_of_sentences_shows_its_kl_and_its_loss_by_position(fitted):
    run, page = fitted(f"{TEXTVAE} {FEW}", test="--trainer.limit_test_batches 1")
    figures, model = run.figures(), zoo.load("run")
    assert list(figures["kl"]) == list(figures["positions"]) == ["2", "4", "test"]
    kl = figures["kl"]["4"].arrays["values"]
    assert len(kl) == 3
    assert kl.sum() == pytest.approx(last(run, "val/kl"), rel=1e-5)
    config = yaml.safe_load(Path("run/config.yaml").read_text())["data"]["init_args"]
    data = zoo.data.TextLines(**config)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    with torch.no_grad():
        q = model.eval().posterior(batch)
        noise = normal(EVALUATION_SEED, batch.index, 2**20, (q.noise_dim,))[None]
        z, _ = q.draw(noise)
        hidden, _ = model.decoder.read(
            torch.cat([torch.full_like(batch.tokens[:, :1], model.decoder.end),
                       batch.tokens[:, :-1]], 1),
            z, model.decoder.begin(z[0]),
        )  # fmt: skip
        nats = torch.nn.functional.cross_entropy(
            model.decoder.projection(hidden).flatten(0, 1), batch.tokens.flatten(), reduction="none"
        ).view_as(batch.tokens)
    inside = torch.arange(nats.shape[1]) < batch.lengths[:, None]
    expected = (nats * inside).sum(0) / inside.sum(0)
    shown = figures["positions"]["4"].arrays
    assert shown["x"].tolist() == list(range(1, nats.shape[1] + 1))
    np.testing.assert_allclose(shown["loss"], expected, rtol=1e-4)
    assert {"KL by dimension", "Loss by position"} <= set(page.charts)


@pytest.mark.slow
def test_a_masked_model_shows_its_guesses_by_position_and_kind(fitted):
    run, page = fitted(f"{MLM} {FEW}", test="--trainer.limit_test_batches 1")
    figures, model = run.figures(), zoo.load("run")
    config = yaml.safe_load(Path("run/config.yaml").read_text())["data"]["init_args"]
    data = zoo.data.MaskedSentences(**config)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    with torch.no_grad():
        logits, targets, scored = model.eval().predictions(batch)
    nats = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="none"
    )
    right = (logits.argmax(-1) == targets)[scored]
    symbols = np.array([kind_of(model.vocabulary.symbols[t]) for t in targets[scored].tolist()])
    chosen = nats.view_as(targets)[scored].numpy()
    for name, values in (("kinds", chosen), ("right_kinds", right.double().numpy())):
        figure = figures[name]["4"]
        names = [text.partition(" (")[0] for text in figure.words["names"]]
        assert set(names) == set(symbols)
        expected = [values[symbols == kind].mean() for kind in names]
        np.testing.assert_allclose(figure.arrays["values"], expected, rtol=1e-4, atol=1e-6)
    for name in ("positions", "right", "kinds", "right_kinds"):
        assert list(figures[name]) == ["2", "4", "test"]
    count = scored.sum(0).numpy()
    by_place = figures["right"]["4"].arrays["guesses"]
    assert np.nanmax(by_place) <= 1
    assert chosen.mean() == pytest.approx(last(run, "val/loss"), rel=1e-4)
    assert count.sum() == len(chosen)
    assert {"Loss by position", "Right guesses by kind of symbol"} <= set(page.charts)


@pytest.mark.parametrize(
    ("symbol", "kind"),
    [("a", "letters"), ("##ing", "letters"), ("\u0120the", "letters"), ("7", "digits"),
     ("\u4e2d", "Chinese"), ("\u3002", "punctuation"), ("+", "signs"), (" ", "space"),
     ("\n", "space"), ("</s>", "special"), ("<unk>", "special"), ("", "space")],
)  # fmt: skip
def test_kinds_of_symbols(symbol, kind):
    assert kind_of(symbol) == kind


def test_a_figure_that_a_training_puts_away_meanwhile_is_none(tmp_path, monkeypatch):
    """Those of some steps make room for later ones: between the listing and the reading, too."""
    figure = Figure("bars", "t", {"x": np.zeros(2), "y": np.zeros(2)})
    for step in (10, 20):
        write_figure(figure, tmp_path / "report" / f"kl.step-{step:07}.npz")
    read = report_run.read_figure

    def late(path):
        if path.name == "kl.step-0000010.npz":
            path.unlink()
        return read(path)

    monkeypatch.setattr(report_run, "read_figure", late)
    assert list(report_run.Run(tmp_path, "r").figures()["kl"]) == ["20"]
