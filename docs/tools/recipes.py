"""The page of recipes, made of the registry and the configs: what `zoo list` shows."""

from zoo.registry import MODELS, describe_config, list_configs


def page() -> str:
    """Markdown: the models, then the recipes of each family, then the overlays."""
    lines = [
        "# Recipes",
        "",
        "What `zoo list` shows, made from the registry and the configs when this site is built.",
        "`zoo fit -c NAME` trains one; `--print_config` shows all that it sets.",
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
            lines += ["| recipe | what it is |", "|---|---|"]
        about = describe_config(name).replace("|", "\\|")
        lines.append(f"| `{name.removeprefix('overlays/')}` | {about} |")
    return "\n".join(lines) + "\n"
