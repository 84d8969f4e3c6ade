import json

import pytest

from zoo.studies.wasserstein.data import load_population
from zoo.studies.wasserstein.training import (
    CONFIGS,
    OBJECTIVES,
    findings,
    read_curves,
    real_distance,
    summary,
    table,
)

CSV = """\
step,wasserstein/critic,wasserstein/exact,val/frechet_distance,val/precision,val/recall,\
baseline/frechet_distance,baseline/precision,baseline/recall
4,1.0,4.0,,,,,,
9,2.0,4.0,,,,,,
9,,,30.0,0.1,0.2,1.5,0.9,0.8
14,3.0,4.0,,,,,,
19,3.0,6.0,12.0,0.3,0.4,1.5,0.9,0.8
"""


@pytest.fixture
def curves(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(CSV)
    return read_curves(path)


def row(objective, critic, exact, frechet):
    curves = {f"baseline_{key}": [1.5] for key in ("frechet_distance", "precision", "recall")}
    quality = {"frechet_distance": frechet, "precision": 0.5, "recall": 0.5}
    gap = abs(critic - exact) / exact
    return {"data": "digits", "objective": objective, "critic": critic, "exact": exact} | (
        {"gap": gap, "real": [3.6, 3.8], "curves": curves, **quality}
    )


def test_curves_are_read_where_they_were_logged(curves):
    assert curves["step"] == [4, 9, 14, 19]
    assert curves["critic"] == [1, 2, 3, 3]
    assert curves["exact"] == [4, 4, 4, 6]
    assert curves["quality_step"] == [9, 19]
    assert curves["frechet_distance"] == [30, 12]
    assert curves["baseline_recall"] == [0.8, 0.8]


def test_the_summary_is_of_the_last_quarter_and_the_last_validation(curves):
    assert summary(curves) == {
        "critic": 3.0,
        "exact": 6.0,
        "gap": 0.5,
        "frechet_distance": 12.0,
        "precision": 0.3,
        "recall": 0.4,
    }


def test_findings_compare_runs_of_one_seed():
    rows = [row("GP", 1.0, 4.0, 10.0), row("GP", 1.0, 4.0, 10.0)]
    rows += [row("c-transform", 3.0, 3.5, 20.0), row("c-transform", 3.0, 3.9, 9.0)]
    rows += [row(list(OBJECTIVES)[3], 0.1, 4.0, 5.0)] * 2
    rows += [row("GN", 0.1, 4.0, 5.0)] * 2
    c, c_eps = findings(rows)
    assert c == (
        "digits, c-transform against GP: the critic is nearer to the exact W1: holds; the samples "
        "have the larger Fréchet distance: holds in 1 of 2 runs. Its batches are nearer in W1 to "
        "real ones than real ones are: holds in 1 of 2 runs."
    )
    assert c_eps.count("does not hold") == 3
    assert "| digits, GP           | 1.00 ± 0.00 | 4.00 ± 0.00 | 75 ± 0 % |" in table(rows)
    assert "| digits, real images  |             | 3.70 ± 0.14 |" in table(rows)


def test_real_digits_are_as_far_apart_as_measured():
    values = real_distance(load_population("digits"), pairs=4)
    assert len(set(values)) == 4
    assert all(3.4 < value < 4.0 for value in values)


def test_data_without_a_recipe_are_named(mistake, zoo_cli, tmp_path):
    arguments = ["study", "wasserstein", "--data", "gaussian-4", "--limit", "70"]
    line = mistake(*arguments, "--part", "training")
    assert "--data gaussian-4: the training part has recipes for digits, mnist only" in line
    options = ["--steps", "1", "--seeds", "0", "--batch_sizes", "8", "--figures", "false"]
    code, out, err = zoo_cli(*arguments, *options, "--run_dir", tmp_path / "run")
    assert code == 0, err
    assert "the training part is left out" in out
    assert list(json.loads((tmp_path / "run/study.json").read_text())) == ["batches", "static"]


@pytest.mark.slow
def test_a_study_trains_every_objective_and_goes_on_where_it_was(zoo_cli, tmp_path):
    arguments = ["study", "wasserstein", "--part", "training", "--data", "digits", "--seeds", "3"]
    options = ["--figures", "false", "--run_dir", tmp_path / "run", "--iterations"]
    for iterations in (12, 18):
        code, out, err = zoo_cli(*arguments, *options, iterations)
        assert code == 0, err
        rows = json.loads((tmp_path / "run/study.json").read_text())["training"]["rows"]
        assert [row["objective"] for row in rows] == list(OBJECTIVES)
        assert all(row["curves"]["step"][-1] == iterations - 1 for row in rows)
        study = (tmp_path / "run/study.md").read_text()
        assert f"{iterations} generator iterations" in study
        for name in OBJECTIVES:
            assert f"digits, {name}" in out
    code, _, err = zoo_cli(*arguments, *options, 6)
    assert code == 2
    assert "has 18 iterations already, more than --iterations 6" in err
    # The transform's value is a lower bound of the distance of the same batch.
    c = rows[2]["curves"]
    assert all(v <= e + 1e-4 for v, e in zip(c["critic"], c["exact"], strict=True))


@pytest.mark.parametrize("config", CONFIGS.values())
def test_the_recipes_batch_is_the_baselines(config):
    import yaml

    from zoo.recipes import config_root
    from zoo.studies.wasserstein.training import _BATCH

    settings = yaml.safe_load((config_root() / f"{config}.yaml").read_text())
    model = settings["model"]["init_args"]
    assert model["critic_batch"] == _BATCH
    assert settings["data"]["init_args"]["batch_size"] == _BATCH * model["n_critic"]
