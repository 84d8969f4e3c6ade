"""Reading weights that others wrote: untrusted files in, checked float32 tensors out."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.building import construct, within
from zoo.ddpm.unet import UNet, unet_arguments
from zoo.untrusted import check_tensors, read_safetensors, read_torch

# Ho's process (arXiv 2006.11239); OpenAI's default variance without `learn_sigma` is the same.
HO_PROCESS: dict[str, Any] = {
    "timesteps": 1000,
    "schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "objective": "eps",
    "variance": "fixed_large",
    "clip": True,
}


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a PyTorch checkpoint, in float32.

    A checkpoint may hold its state dict under "state_dict" or the like, or in a list, of which the
    last is taken: ermongroup/ddim writes [model, optimizer, epoch, step, average]. DataParallel's
    "module." in front of keys is dropped. No code of the file is run.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A broken file, or one that holds anything but tensors.
    """
    content = read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    tensors = _find_state_dict(content)
    if tensors is None:
        raise ValueError(f"{path}: holds no state dict of tensors")
    tensors = check_tensors(tensors, str(path), path.stat().st_size)
    return {k.removeprefix("module."): v.float() for k, v in tensors.items()}


def _find_state_dict(content: Any, depth: int = 4) -> dict[str, Tensor] | None:
    """The dict of tensors in a checkpoint; the last one of a list, which is the average."""
    if depth == 0:
        return None
    if isinstance(content, Mapping):
        if content and all(isinstance(v, Tensor) for v in content.values()):
            return dict(content)
        for key in ("ema", "model_ema", "state_dict", "model"):
            if key in content:
                return _find_state_dict(content[key], depth - 1)
    if isinstance(content, list | tuple):
        for item in reversed(content):
            found = _find_state_dict(item, depth - 1)
            if found is not None:
                return found
    return None


def check_fit(
    hparams: Mapping[str, Any], state: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """The tensors in the order of our U-Net's, once they are exactly those that it has.

    `hparams`, the arguments of `zoo.DDPM`, decide the network; messages name the source.
    """
    with torch.device("meta"), within(state, Path(source), layers_only=True):
        expected = construct(UNet, unet_arguments(hparams), Path(source)).state_dict()
    for what, keys in (
        ("lacks", [k for k in expected if k not in state]),
        ("has an unknown", [k for k in state if k not in expected]),
    ):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise ValueError(f"{source}: {what} tensor {keys[0]}{more}: not a network of this kind")
    for key, tensor in expected.items():
        if state[key].shape != tensor.shape:
            raise ValueError(
                f"{source}: tensor {key} has shape {list(state[key].shape)}, but the layout needs "
                f"{list(tensor.shape)}"
            )
    return {key: state[key].contiguous() for key in expected}


def add_null_label(state: dict[str, Tensor], key: str = "class_embedding.weight") -> int:
    """Appends the row that means "no label", the mean of the classes'; returns their number."""
    rows = state[key]
    state[key] = torch.cat([rows, rows.mean(dim=0, keepdim=True)])
    return len(rows)


def multiples(dims: list[int]) -> tuple[int, list[int]]:
    """The largest width of which the levels' widths are multiples, and the multipliers."""
    width = math.gcd(*dims)
    return width, [dim // width for dim in dims]


def rename(key: str, modules: Mapping[str, str], layers: Mapping[str, str]) -> str:
    """Our name of a tensor: that of its module, and that of the layer in it.

    Args:
        key: Their name, MODULE.LAYER.weight or MODULE.weight.
        modules: Ours for each of their modules, none of which is inside another.
        layers: Ours for each of their layers; others keep their names, as unknown tensors do.
    """
    name, _, kind = key.rpartition(".")
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        module = ".".join(parts[:n])
        if module in modules:
            layer = ".".join(parts[n:])
            return ".".join(p for p in (modules[module], layers.get(layer, layer), kind) if p)
    return key


def finished(
    state: dict[str, Tensor], path: Path, process: Mapping[str, Any], **network: Any
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments of `zoo.DDPM` and tensors of `UNet`: Ho's process but for what is given."""
    hparams = {**HO_PROCESS, **network, **layout_of(state, str(path)), **process}
    if "class_embedding.weight" in state:
        hparams["num_classes"] = add_null_label(state)
    return hparams, check_fit(hparams, state, str(path))


def layout_of(state: Mapping[str, Tensor], path: str) -> dict[str, Any]:
    """The layout of a U-Net, read off the names and shapes of its tensors."""
    levels = count(state, r"down_blocks\.(\d+)\.")
    first = [f"down_blocks.{i}.resnets.0.conv1.weight" for i in range(levels)]
    needed = [*first, "conv_in.weight", "conv_out.weight"]
    missing = [k for k in needed if k not in state]
    if missing:
        raise ValueError(f"{path}: no tensor for {missing[0]}: not of this format")
    width, multipliers = multiples([state[k].shape[0] for k in first])
    channels, outputs = state["conv_in.weight"].shape[1], state["conv_out.weight"].shape[0]
    attends = [i for i in range(levels) if f"down_blocks.{i}.attentions.0.to_q.weight" in state]
    learned = {"variance": "learned_range"} if outputs == 2 * channels else {}
    return {
        "channels": channels,
        "width": width,
        "multipliers": multipliers,
        "blocks": count(state, r"down_blocks\.0\.resnets\.(\d+)\."),
        "attention_levels": attends,
        "groups": 32,
        **learned,
    }


def count(state: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the largest number that `pattern` finds at the start of a key."""
    found = [int(m.group(1)) for k in state if (m := re.match(pattern, k))]
    highest = max(found, default=-1)
    if highest >= len(state):  # they are numbered from 0 without gaps
        raise ValueError(f"a tensor is numbered {highest}, of {len(state)}: not of this format")
    return highest + 1
