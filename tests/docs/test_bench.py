"""`make bench`: its scripts take what it gives them, and its table says what they found."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load():
    spec = importlib.util.spec_from_file_location("bench_all", BENCHMARKS / "all.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_all"] = module
    spec.loader.exec_module(module)
    return module


bench = load()


@pytest.mark.parametrize("script", bench.SCRIPTS, ids=lambda script: script.name)
def test_a_script_takes_its_flags(script):
    name, *flags = script.command.split()
    source = (BENCHMARKS / name).read_text(encoding="utf-8")
    for flag in [*flags, "--json"]:
        if flag.startswith("--"):
            assert f'"{flag.partition("=")[0]}"' in source


def test_all_of_it_takes_at_most_forty_minutes():
    assert sum(script.minutes for script in bench.SCRIPTS) <= 40


def test_a_ratio_is_the_peers_time_over_ours_with_the_seconds_of_both():
    sides = {"zoo": {"ratio": 1.0, "median_s": 2.0}}
    sides["peer"] = {"ratio": 1.5, "ratio_min": 1.2, "ratio_max": 1.7, "median_s": 3.1}
    read = bench.over("rows", {"dim": 10}, "sides", bench.PEER, peer="peer", ours="zoo")
    content = {"rows": [{"dim": 2}, {"dim": 10, "sides": sides}]}
    found = read(content)
    assert found == (1.5, 1.2, 1.7, 2.0, 3.1)
    assert bench.inverse(read)(content)[:3] == pytest.approx((1 / 1.5, 1 / 1.7, 1 / 1.2))
    both = bench.over("a")({"a": {"ratio": 4.0, "ours_s": 1.0, "peer_s": 4.1}})
    assert both == (4.0, 4.0, 4.0, 1.0, 4.1)
    rows = [{"n": 1, "contender": "flash", "ratio": 1.0, "seconds": 2.0, "bytes": 10}]
    rows += [{"n": 1, "contender": "b", "ratio": 3.0, "least": 2.0, "most": 4.0, "seconds": 6.1}]
    rows[1]["bytes"] = 15
    assert bench.trained(1, "b", "flash")({"training": rows}) == (3.0, 2.0, 4.0, 2.0, 6.1)
    assert bench.memory("b", 1)({"training": rows})[:3] == (1.5, 1.5, 1.5)


def test_few_evaluations_are_compared_seed_by_seed():
    content = {"ddim:trailing:100": [[1.2, 10.0], [1.4, 12.0]]}
    content["dpmpp:logsnr:10"] = [[1.0, 100.0], [1.6, 90.0]]
    (script,) = (s for s in bench.SCRIPTS if s.name == "steps")
    distance, speed = (row.read(content) for row in script.rows)
    assert distance[:3] == pytest.approx((1.0, 1.4 / 1.6, 1.2))
    assert speed[:3] == pytest.approx((190 / 22, 7.5, 10.0))


def test_refined_densities_are_compared_with_those_that_are_not():
    content = {"machine": "", "bracket": []}
    content["encoder, 500"] = {"rmse": 4.0, "ratio": 0.5, "range": [0.4, 0.6]}
    content["refined, 500"] = {"rmse": 0.5, "ratio": 1.0, "range": [1, 1], "unreliable": 0.02}
    content["equal time, 900"] = {"rmse": 3.0, "ratio": 1.0, "range": [0.9, 1.1]}
    content["pythae, 5000"] = {"rmse": 2.0, "ratio": 9.0, "range": [8.0, 9.5]}
    (script,) = (s for s in bench.SCRIPTS if s.name == "densities-vmf")
    found = [row.read(content)[:3] for row in script.rows]
    assert found == [(0.98,) * 3, (6.0,) * 3, (0.5, 0.4, 0.6), (4.0,) * 3, (9.0, 8.0, 9.5)]


def test_the_table_says_what_is_met(monkeypatch):
    script = bench.Script("s", "s.py", 1, (
        bench.Row("fast", "a", bench.over("x"), 1.5, 1.0),
        bench.Row("slow", "b", bench.over("y"), 2.0),
    ))  # fmt: skip
    content = {"x": {"ratio": 1.2, "ours_s": 0.5, "peer_s": 0.6}, "y": {"ratio": 1.9}}
    report = {"machine": "M", "versions": {"torch": "2"}, "failed": {"z": "why"}}
    report["peak_mib"] = {"s": 1234}
    tables = {}
    for name in ("an EPYC", "a Xeon with amx_bf16"):
        monkeypatch.setattr(bench, "processor", lambda name=name: name)
        report["rows"] = bench.rows_of(script, content)
        json.dumps(report)
        tables[name] = bench.table(report).splitlines()
    assert "| fast | a | 0.5 | 0.6 | 1.20 (1.20 to 1.20) | 1 | met | 1,234 |" in tables["an EPYC"]
    assert any(
        line.startswith("| fast") and "missed" in line for line in tables["a Xeon with amx_bf16"]
    )
    assert "| slow | b |  |  | 1.90 (1.90 to 1.90) | 2 | missed | 1,234 |" in tables["an EPYC"]
    assert tables["an EPYC"][-1] == "failed: z: why"
