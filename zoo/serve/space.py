"""The folder of a hosted space: the page of `zoo serve` with the weights in it."""

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule

from zoo.loading import save_pretrained, zoo_name
from zoo.registry import MODELS
from zoo.serve.app import library, tabs_of
from zoo.version import zoo_version

_APP = """\
\"\"\"A page to play with a model: python app.py.\"\"\"

from pathlib import Path

import zoo
from zoo.serve.app import app, launch

page = app(zoo.load(Path(__file__).parent / "model"), {name})

if __name__ == "__main__":
    print(launch(page), flush=True)
    page.block_thread()
"""


def write_space(
    model: LightningModule,
    folder: Path,
    repo: str,
    licence: str | None = None,
    **export: Any,
) -> None:
    """Writes app.py, requirements.txt, README.md with its header, and model/.

    Args:
        model: A model that offers a page.
        folder: Made if it is not there.
        repo: OWNER/REPO of the space.
        licence: Of the weights, by its identifier on the hub.
        export: Arguments of `save_pretrained`.
    """
    tabs, kind, name = tabs_of(model), MODELS[zoo_name(model)], repo.rpartition("/")[2]
    header = {
        "title": name,
        "emoji": "🎲",
        "colorFrom": "green",
        "colorTo": "blue",
        "sdk": "gradio",
        "sdk_version": library().__version__,
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        **({"license": licence} if licence else {}),
    }
    about = f"{kind.name}: {kind.line} (arXiv {kind.paper}, kexue.fm/archives/{kind.post})."
    offers = "\n".join(f"* {tab.title}" for tab in tabs)
    text = f"---\n{yaml.safe_dump(header, allow_unicode=True, sort_keys=False)}---\n\n"
    version = zoo_version()
    exact = f"=={version}" if version.replace(".", "").isdigit() else ""  # none of a checkout
    save_pretrained(model, folder / "model", **export)
    for file, content in {
        "app.py": _APP.format(name=json.dumps(name)),
        "requirements.txt": f"lightning-model-zoo[serve]{exact}\n",
        "README.md": f"{text}# {name}\n\n{about}\n\n{offers}\n",
    }.items():
        (folder / file).write_text(content, encoding="utf-8")
