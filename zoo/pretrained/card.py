"""The card of a trained model, as a hub shows it: a YAML header with the metrics, then text."""

import re
from typing import Any

from zoo.pretrained.hub import library
from zoo.registry import MODELS

_TASKS = {
    "FlashLM": "text-generation",
    "TextVAE": "text-generation",
    "FlashMLM": "fill-mask",
    "SimBERT": "sentence-similarity",
    "RoFormerSim": "sentence-similarity",
    "SentenceSimilarity": "sentence-similarity",
}


def card(name: str, kind: str, record: dict[str, Any], licence: str | None = None) -> str:
    """Markdown of a model's card.

    Args:
        name: What `zoo.load` takes.
        kind: Class of the model, or of the zoo's that it is from.
        record: Its results.json, as a test of it writes; empty if there was none.
        licence: Of the weights, by its identifier on the hub.
    """
    hub, model = library(), MODELS[kind]
    metrics, task = record.get("metrics", {}), _TASKS.get(kind, "unconditional-image-generation")
    data = record.get("data", "unknown")
    header = hub.ModelCardData(
        model_name=name.removeprefix("hf://"),
        library_name="lightning-model-zoo",
        license=licence,
        tags=["pytorch-lightning", model.module.split(".")[1]],
        pipeline_tag=task,
        eval_results=[
            hub.EvalResult(
                task_type=task,
                dataset_type=re.sub(r"[^a-z0-9]+", "-", data.lower()).strip("-"),
                dataset_name=data,
                metric_type=metric.removeprefix("test/"),
                metric_value=value,
            )
            for metric, value in metrics.items()
            if metric.startswith("test/")
        ]
        or None,
    )
    about = f"{kind}: {model.line} (arXiv {model.paper}, kexue.fm/archives/{model.post})."
    lines = ["---", header.to_yaml(), "---", "", f"# {name}", "", about, ""]
    lines += ["```python", "import zoo", "", f'model = zoo.load("{name}")', "```", ""]
    if "licence" in record:
        lines += [f"Trained on {data} ({record['licence']}) by `{record['command']}`", ""]
        hours = "" if record["hours"] is None else f", {record['hours']:.2g} core hours"
        lines[-2] += f": {record['step']:,} steps{hours}; {record['parameters']:,} parameters."
    if record.get("examples"):
        lines += [f"examples.npy has the first {record['examples']} test images of {data}.", ""]
    if metrics:
        lines += ["| | value | baseline |", "|---|---|---|"]
    for metric, value in metrics.items():
        group, _, short = metric.rpartition("/")
        if group != "baseline":
            base = metrics.get(f"baseline/{short}")
            named = short if group == "test" else metric
            lines.append(f"| {named} | {value:.4f} | {'' if base is None else f'{base:.4f}'} |")
    lines += ["", *(f"* {key}: {how}" for key, how in record.get("protocol", {}).items()), ""]
    return "\n".join(lines)
