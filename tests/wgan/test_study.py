import json
import math
import statistics
import sys

import pytest
import torch

from zoo.studies.wasserstein.batches import centres, compare, distance_to_point, gaussian
from zoo.studies.wasserstein.batches import findings as batch_findings
from zoo.studies.wasserstein.command import write_part
from zoo.studies.wasserstein.data import load_population
from zoo.studies.wasserstein.report import Part, how_many, markdown_table, mean, spread, with_spread
from zoo.studies.wasserstein.static import CRITICS, fit_critic, fixed_samples, translation
from zoo.studies.wasserstein.static import findings as static_findings
from zoo.wgan.transport import exact_w1


@pytest.fixture(scope="module")
def digits():
    return load_population("digits")


# Populations


def test_digits_are_parted_into_items_that_share_none(digits):
    assert digits.train.shape == (1257, 1, 8, 8)
    assert digits.held_out.shape == (540, 1, 8, 8)
    assert digits.train.min() == -1
    assert digits.train.max() == 1
    items = torch.cat([digits.train, digits.held_out]).flatten(1)
    assert len(items.unique(dim=0)) == 1797


def test_a_gaussian_population_is_standard_normal():
    population = load_population("gaussian-7", limit=4000)
    for part in (population.train, population.held_out):
        assert part.shape == (4000, 7)
        assert part.mean(0).abs().max() < 5 / math.sqrt(4000)
        assert (torch.cov(part.T) - torch.eye(7)).abs().max() < 5 * math.sqrt(2 / 4000)
    assert not torch.equal(population.train, population.held_out)


def test_a_folder_of_images_is_a_population(tmp_path):
    from PIL import Image

    for i in range(40):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 255)).save(tmp_path / f"pictures/{i}.png")
    population = load_population(str(tmp_path / "pictures"), side=4)
    assert population.train.shape[1:] == (3, 4, 4)
    assert (population.train[:, 0] < 0).all()
    assert (population.train[:, 2] == 1).all()


def test_a_batch_is_a_function_of_the_seed_without_repetition(digits):
    a, b, c = (digits.batch("train", 300, seed) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert len(a.flatten(1).unique(dim=0)) == 300
    with pytest.raises(ValueError, match="540 held_out items, which makes no batch of 541"):
        digits.batch("held_out", 541, 0)


def test_unknown_data_are_named():
    with pytest.raises(ValueError, match=r"no data 'digit': choose digits, mnist"):
        load_population("digit")


# Batches


def test_centres_of_clusters_are_their_means():
    g = torch.Generator().manual_seed(0)
    middles = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    groups = middles[:, None] + torch.randn(3, 20, 2, generator=g)
    found = centres(groups.reshape(60, 1, 2), 3, seed=1)
    assert found.shape == (3, 1, 2)
    expected = sorted(groups.mean(1).tolist())
    torch.testing.assert_close(torch.tensor(sorted(found[:, 0].tolist())), torch.tensor(expected))
    assert torch.equal(found, centres(groups.reshape(60, 1, 2), 3, seed=1))


def test_distance_to_a_point_is_w1_to_copies_of_it():
    x = torch.randn(30, 2, 3, generator=torch.Generator().manual_seed(0))
    point = torch.full((2, 3), 0.3)
    assert distance_to_point(x, point) == pytest.approx(exact_w1(x, point.expand(30, 2, 3)).item())


def test_blurry_digits_are_as_the_post_says_but_for_the_mean(digits):
    # Measured once independently, held-out digits: real 3.68, centres 3.02, mean 4.31.
    row = compare(digits, 64, [0, 1])
    assert mean(row["real"]) == pytest.approx(3.68, abs=0.15)
    assert mean(row["centres"]) == pytest.approx(3.02, abs=0.15)
    assert mean(row["mean"]) == pytest.approx(4.31, abs=0.15)
    centres_said, mean_said = batch_findings([row])
    assert centres_said == "digits: k-means centres nearer than a real batch: holds at 64 " + (
        f"({mean(row['centres']) / mean(row['real']):.2f} times)."
    )
    assert "copies of the mean nearer than a real batch: does not hold at 64" in mean_said


@pytest.mark.parametrize("d", [256, 1024])
def test_in_many_dimensions_the_mean_is_nearer_by_the_square_root_of_two(d):
    row = gaussian(d, [0, 1])
    assert mean(row["mean"]) == pytest.approx(math.sqrt(d), rel=0.02)
    # The best matching is nearer than a random pair, by less as d grows.
    assert 0.9 * math.sqrt(2 * d) < mean(row["real"]) < math.sqrt(2 * d)
    assert (row["limit_real"], row["limit_mean"]) == (math.sqrt(2 * d), math.sqrt(d))


def test_in_few_dimensions_the_mean_is_farther():
    row = gaussian(4, [0, 1])
    assert mean(row["mean"]) > mean(row["real"])


# Static


def test_a_moved_gaussian_moves_by_one():
    problem = translation(3)
    draws = [problem.draw(5, step) for step in range(200)]
    x, y = (torch.cat(parts) for parts in zip(*draws, strict=True))
    error = 5 / math.sqrt(len(x))
    assert (x.mean(0)).abs().max() < error
    assert (y.mean(0) - torch.tensor([1.0, 0, 0])).abs().max() < error
    assert torch.equal(problem.draw(5, 7)[1], draws[7][1])
    assert not torch.equal(problem.draw(6, 7)[1], draws[7][1])


def test_fixed_samples_are_disjoint_and_their_distance_is_exact(digits):
    problem = fixed_samples(digits, 64, 3)
    x, y = problem.draw(0, 0)  # a batch is the whole sample
    assert exact_w1(x, y).item() == pytest.approx(problem.truth)
    assert len(torch.cat([x, y]).unique(dim=0)) == 128
    other = fixed_samples(digits, 200, 3)
    assert other.truth < problem.truth  # larger samples of one distribution are nearer


def test_a_penalised_critic_finds_the_distributions_and_a_transform_the_batches():
    problem = translation(20)
    lp = fit_critic("LP", problem, steps=150, seed=0)
    c = fit_critic("c-transform", problem, steps=30, seed=0)
    assert lp["exact"] == c["exact"]  # the same batches
    assert 4.4 < c["exact"] < 5.0
    assert 0.75 < lp["critic"] < 1.25
    assert 0.9 * c["exact"] < c["critic"] < c["exact"]
    assert c["nearest"] < c["exact"]


def test_a_fit_is_deterministic_and_leaves_the_global_stream_alone():
    before = torch.random.get_rng_state()
    fits = [fit_critic("GP", translation(2), steps=3, seed=s) for s in (4, 4, 5)]
    assert fits[0] == fits[1] != fits[2]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_clipping_and_spectral_norms_bound_the_slope():
    # Three layers: the product of three spectral norms of 1.
    assert fit_critic("SN", translation(2), steps=30, seed=0)["slope"] < 1.05
    assert fit_critic("GN", translation(2), steps=30, seed=0)["slope"] <= 1


def test_static_findings_say_which_distance_a_critic_is_near_to():
    def row(name, value, problem, truth):
        return {
            "problem": problem,
            "critic_name": name,
            "truth": [truth, truth],
            "exact": [4.0, 4.2],
            "nearest": [3.0, 3.0],
            "critic": [value, value],
        }

    values = [("A", 1.1), ("B", 3.9), ("C", 2.0)]
    rows = [
        row(name, value, problem, t)
        for problem, t in (("P", 1.0), ("Q", 4.0))
        for name, value in values
    ]
    assert static_findings(rows) == [
        "P: W1 is 1.00 of the distributions and 4.10 of the batches of 64. Within 15 %, near the "
        "first: A (1.10); near the second: B (3.90); near neither: C (2.00). Without any training, "
        "the c-transform of φ = 0 gives 3.00.",
        "Q: W1 is 4.00 of the distributions and 4.10 of the batches of 64. Within 15 %, near both: "
        "B (3.90); near neither: A (1.10), C (2.00). Without any training, the c-transform of φ = "
        "0 gives 3.00.",
    ]


# Report


def test_mean_and_spread_are_those_of_the_standard_library():
    values = [1.0, 4.0, 4.5]
    assert mean(values) == pytest.approx(statistics.mean(values))
    assert spread(values) == pytest.approx(statistics.stdev(values))
    assert with_spread(values) == "3.17 ± 1.89"
    assert with_spread([2.0]) == "2.00"


@pytest.mark.parametrize(
    ("true", "said"),
    [
        ([True, True], "holds"),
        ([False], "does not hold"),
        ([True, False, True], "holds in 2 of 3 runs"),
    ],
)
def test_a_claim_holds_in_all_runs_in_none_or_in_some(true, said):
    assert how_many(true) == said


def test_a_table_is_aligned():
    assert markdown_table(["a", "long"], [["row", "1"]]) == (
        "| a   | long |\n|-----|-----:|\n| row |    1 |"
    )


def test_parts_of_several_commands_are_kept_together(tmp_path):
    parts = {
        name: Part(name, "how", [{"x": 1}], "| t |", ["said"]) for name in ("static", "batches")
    }
    for name, part in parts.items():
        write_part(tmp_path, name, part, figures=False)
    written = json.loads((tmp_path / "study.json").read_text())
    assert list(written) == ["batches", "static"]
    assert written["static"] == parts["static"]._asdict()
    text = (tmp_path / "study.md").read_text()
    assert text.index("## batches") < text.index("## static")


# The command


def test_the_command_writes_numbers_table_and_figure(zoo_cli, tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    arguments = ["study", "wasserstein", "--part", "batches", "--data", "digits"]
    options = ["--batch_sizes", "32", "--seeds", "[0,1]", "--run_dir"]
    code, out, err = zoo_cli(*arguments, *options, tmp_path / "a")
    assert code == 0, err
    assert "| digits |    32 |" in out
    rows = json.loads((tmp_path / "a/study.json").read_text())["batches"]["rows"]
    assert rows[0] == compare(load_population("digits"), 32, [0, 1])
    with Image.open(tmp_path / "a/batches.png") as image:
        assert image.size[0] > 500
    zoo_cli(*arguments, *options, tmp_path / "b")
    for name in ("study.json", "study.md", "batches.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--part", "statics"], "statics"),
        (["--data", "digit"], "no data 'digit'"),
        (["--seeds", "[1,1]"], "--seeds [1, 1]: give different numbers"),
        (["--batch_sizes", "1"], "--batch_sizes [1]: give sizes of 2 or more"),
        (["--samples", "63"], "--samples [63]: a step draws 64 of them"),
        (["--steps", "0"], "--steps=0: must be 1 or more"),
        (["--iterations", "0"], "--iterations=0: must be 1 or more"),
        (["--batch_sizes", "600", "--data", "digits"], "no data set has so many"),
        (["--limit", "0"], "--limit=0: must be 1 or more"),
        (["--samples", "[]"], "--samples []"),
        (
            ["--part", "static", "--samples", "1000", "--data", "digits", "--steps", "1"],
            "--samples [1000]: no data set has twice as many training items (digits: 1257",
        ),
        (
            ["--part", "static", "--data", "gaussian-4"],
            "--data gaussian-4: the static part takes sets of images",
        ),
        (
            ["--data", "mnist", "--root", "nowhere"],
            "no MNIST in nowhere/MNIST/raw: set --root to the folder that holds MNIST/raw, or "
            "fetch it with zoo fit's --data.download true",
        ),
    ],
)
def test_mistakes_are_one_line(mistake, arguments, message):
    assert message in mistake("study", "wasserstein", *arguments)


def test_without_matplotlib_the_remedy_is_named(mistake, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = mistake("study", "wasserstein", "--data", "digits")
    assert "pip install 'lightning-model-zoo[study]', or --figures false" in line


def test_figures_show_every_critic():
    pytest.importorskip("matplotlib")
    from zoo.studies.wasserstein.figures import _COLOURS, _MARKERS

    assert len(CRITICS) <= len(_COLOURS) == len(_MARKERS)
