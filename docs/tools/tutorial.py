"""The tutorials: scripts in the percent format, run cell by cell, and shown with what they made.

    python docs/tools/tutorial.py           runs all and keeps their output for the site
    python docs/tools/tutorial.py ddpm      runs one
    python docs/tools/tutorial.py --check   runs all and keeps nothing

A script is also plain Python (`python docs/tutorials/ddpm.py`) and a notebook (`jupytext --to
notebook docs/tutorials/ddpm.py`). A figure's `num` is its description.
"""

import hashlib
import io
import json
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "tutorials"
KEPT = FOLDER / "output"


@dataclass(frozen=True)
class Cell:
    """A piece of a script.

    Args:
        text: Markdown, or code.
        is_code: Which of them.
        line: Line of the script where it begins.
    """

    text: str
    is_code: bool
    line: int

    @property
    def digest(self) -> str:
        """Tells whether kept output is of this code."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


def names() -> list[str]:
    """The tutorials there are."""
    return sorted(path.stem for path in FOLDER.glob("*.py"))


def cells(name: str) -> list[Cell]:
    """A script's cells, which begin at lines `# %%` and `# %% [markdown]`."""
    found: list[tuple[bool, int, list[str]]] = []
    for number, line in enumerate((FOLDER / f"{name}.py").read_text("utf-8").splitlines(), 1):
        if line.startswith("# %%"):
            found.append((line != "# %% [markdown]", number, []))
        elif found:
            is_code = found[-1][0]
            found[-1][2].append(line if is_code else line.removeprefix("#").removeprefix(" "))
    return [Cell("\n".join(lines).strip(), is_code, line) for is_code, line, lines in found]


def run(name: str, keep: bool = True) -> None:
    """Runs a script, and keeps what its cells printed and drew."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"figure.dpi": 80, "savefig.dpi": 110, "font.size": 9})
    namespace: dict[str, Any] = {"__name__": "__main__"}
    outputs, drawn, start = [], 0, time.process_time()
    for cell in cells(name):
        if not cell.is_code:
            continue
        printed = io.StringIO()
        with redirect_stdout(printed):
            code = "\n" * cell.line + cell.text  # so that a traceback has the script's lines
            exec(compile(code, FOLDER / f"{name}.py", "exec"), namespace)
        pictures = []
        for number in plt.get_fignums():
            figure = plt.figure(number)
            drawn += 1
            file = f"{name}-{drawn}.png"
            pictures.append({"file": file, "alt": figure.get_label()})
            if keep:
                KEPT.mkdir(exist_ok=True)
                figure.savefig(KEPT / file, bbox_inches="tight", metadata={"Software": None})
            plt.close(figure)
        outputs.append({"code": cell.digest, "text": printed.getvalue(), "pictures": pictures})
    if keep:
        made = {"cpu_seconds": round(time.process_time() - start), "cells": outputs}
        text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
        (KEPT / f"{name}.json").write_text(text, "utf-8")


def kept(name: str) -> dict[str, Any]:
    """What the last run printed and drew.

    Raises:
        ValueError: It is of other code than the script's.
    """
    made: dict[str, Any] = json.loads((KEPT / f"{name}.json").read_text("utf-8"))
    code = [cell.digest for cell in cells(name) if cell.is_code]
    if [output["code"] for output in made["cells"]] != code:
        raise ValueError(f"{name}.py has changed: run `python docs/tools/tutorial.py {name}`")
    return made


def page(name: str) -> str:
    """Markdown of a tutorial with its output."""
    made = kept(name)
    outputs = iter(made["cells"])
    parts = []
    for cell in cells(name):
        if not cell.is_code:
            parts.append(cell.text)
            continue
        parts.append(f"```python\n{cell.text}\n```")
        output = next(outputs)
        if output["text"].strip():
            parts.append(f"```{{.text .output}}\n{output['text'].rstrip()}\n```")
        parts += [f"![{p['alt']}](output/{p['file']})" for p in output["pictures"]]
    parts.append(
        f"---\n\nThis page is [`docs/tutorials/{name}.py`]({name}.py), a plain script. What it "
        f"printed and drew was made by `python docs/tools/tutorial.py {name}`, which took "
        f"{made['cpu_seconds']} seconds of a processor's time."
    )
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    chosen = [argument for argument in sys.argv[1:] if argument != "--check"]
    for tutorial_name in chosen or names():
        print(tutorial_name, file=sys.stderr)
        run(tutorial_name, keep="--check" not in sys.argv)
