"""What the site says is so: links lead somewhere, pages are of today's code, and its code runs."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from zoo.recipes import list_configs
from zoo.registry import MODELS

ROOT = Path(__file__).parents[2]
CARDS = sorted(ROOT.glob("zoo/*/README.md"))
PAGES = [*ROOT.glob("*.md"), *CARDS, ROOT / "benchmarks" / "README.md", *ROOT.glob("docs/**/*.md")]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
TUTORIALS = sorted(path.stem for path in ROOT.glob("docs/tutorials/*.py"))
MADE_OF = {"docs/recipes.md", *(f"docs/tutorials/{name}.md" for name in TUTORIALS)}


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def prose(path):
    """A page without its code; of a script the cells of text."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("# "))
    return re.sub(r"(?ms)^```.*?^```$", "", text)


def anchors(path):
    """The marks of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"(?m)^#+ (.*)$", prose(path))
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize(
    "page", [*PAGES, *ROOT.glob("docs/tutorials/*.py")], ids=lambda p: str(p.relative_to(ROOT))
)
def test_links_lead_somewhere(page):
    for target in LINK.findall(prose(page)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        if goal.relative_to(ROOT).as_posix() in MADE_OF:
            continue
        assert goal.exists(), target
        assert not anchor or anchor in anchors(goal), target


@pytest.mark.parametrize("card", CARDS, ids=lambda p: p.parent.name)
def test_cards_are_short(card):
    assert len(card.read_text("utf-8").splitlines()) <= 120


def test_the_page_of_recipes_has_all():
    page = tool("recipes").page()
    for name in [*MODELS, *(n.removeprefix("overlays/") for n in list_configs())]:
        assert f"| `{name}` |" in page


@pytest.mark.parametrize("name", TUTORIALS)
def test_shown_output_is_of_the_script_as_it_stands(name):
    made = tool("tutorial").kept(name)
    pictures = [picture for cell in made["cells"] for picture in cell["pictures"]]
    assert pictures
    for picture in pictures:
        assert picture["alt"]
        assert (ROOT / "docs/tutorials/output" / picture["file"]).stat().st_size < 100_000


def run(command, cwd, **environment):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "docs" / "add_a_model")])
    # A command that ran in this process has set them for processes of its own.
    clean = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "ZOO_RUN_DIR")}
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**clean, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorials_run(name, tmp_path):
    run([sys.executable, ROOT / "docs/tools/tutorial.py", "--check", name], tmp_path)


@pytest.mark.slow
def test_the_code_of_the_page_on_python_runs(tmp_path):
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```$", (ROOT / "docs/python.md").read_text())
    blocks = [block.replace("max_steps=500", "max_steps=3") for block in blocks[1:]]  # 0: a run's
    assert len(blocks) == 4
    printed = 'print(f"{kl:.4f}", model.sample(2).shape)'
    out = run([sys.executable, "-c", "\n".join([*blocks, printed])], tmp_path)
    assert out.splitlines()[-1] == "3.2584 torch.Size([2, 1, 8, 8])"


@pytest.mark.slow
def test_the_walked_model_trains_and_resumes(tmp_path):
    folder = ROOT / "docs" / "add_a_model"
    run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder], tmp_path)
    zoo = [sys.executable, "-m", "zoo.cli"]
    trusted = {"ZOO_TRUST": "mymodels"}
    fit = [*zoo, "fit", "-c", folder / "made.yaml", "--run_dir", "made", "--trainer.max_steps"]
    bits = []
    for steps in ("60", "120"):  # the second goes on from the first
        run([*fit, steps, "--ckpt_path", "last"], tmp_path, **trusted)
        run([*zoo, "test", "--ckpt_path", "made"], tmp_path, **trusted)
        results = json.loads((tmp_path / "made" / "results.json").read_text())
        bits.append(results["metrics"]["test/bits_per_dim"])
    assert bits[1] < bits[0] < 4.09  # log2 of 17 levels
    code = "import sys, mymodels; print(mymodels.MADE.load_from_checkpoint(sys.argv[1]).levels)"
    assert run([sys.executable, "-c", code, "made/checkpoints/last.ckpt"], tmp_path) == "17\n"


@pytest.mark.slow
def test_torchrun_of_the_page_on_scaling(tiny, tmp_path):
    command = "import sys; from torch.distributed.run import main; main(sys.argv[1:])"
    launched = ["--standalone", "--nproc_per_node", "2", "--no-python"]
    launched += [sys.executable, "-m", "zoo.cli"]
    flags = ["fit", "-c", tiny, "-c", "ddp", "--trainer.accelerator", "cpu", "--run_dir", "two"]
    flags += ["--trainer.max_steps", "5"]  # and no --trainer.devices: torchrun has said how many
    run([sys.executable, "-c", command, *map(str, [*launched, *flags])], tmp_path)
    last = torch.load(tmp_path / "two" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["surroundings"]["number of processes"] == 2
