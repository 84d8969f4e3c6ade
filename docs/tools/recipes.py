"""The page of recipes, made of the registry and the configs: what `zoo list` shows."""

from zoo.cli.listing import needs
from zoo.recipes import describe_config, list_configs
from zoo.registry import MODELS


def page() -> str:
    """Markdown: the models, then the recipes of each family, then the overlays."""
    lines = [
        "# Recipes",
        "",
        "What `zoo list` shows, made from the registry and the configs when this site is built.",
        "`zoo fit -c NAME` trains one; `--print_config` shows all that it sets. Times are those of",
        "one CPU core, measured on an Intel Xeon with AVX-512 (`benchmarks/hours.py`); evaluation,",
        "which they leave out, comes on top.",
        "",
        "## Models",
        "",
        "| model | what it is | paper | post | begin with |",
        "|---|---|---|---|---|",
    ]
    for model in MODELS.values():
        paper = f"[{model.paper}](https://arxiv.org/abs/{model.paper})"
        post = f"[{model.post}](https://kexue.fm/archives/{model.post})"
        lines.append(f"| `{model.name}` | {model.line} | {paper} | {post} | `{model.config}` |")
    family = None
    for name in list_configs():
        if name.split("/")[0] != family:
            family = name.split("/")[0]
            lines += ["", f"## {family}", ""]
            if family == "overlays":
                lines += ["Laid over a recipe by a second `-c`: `-c ddpm/mnist -c ddp`.", ""]
                lines += ["| overlay | what it is |", "|---|---|"]
            else:
                lines += ["| recipe | meant for | what it is |", "|---|---|---|"]
        cells = [f"`{name.removeprefix('overlays/')}`", describe_config(name).replace("|", "\\|")]
        if family != "overlays":
            cells.insert(1, needs(name))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
