"""Reading weights that others wrote: untrusted files in, checked float32 tensors out."""

import json
import math
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from zoo.ddpm.unet import UNet

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

# Which arguments of `zoo.DDPM` the network shares, besides its numbers of channels.
UNET_ARGUMENTS = (
    "width",
    "multipliers",
    "blocks",
    "attention_levels",
    "dropout",
    "groups",
    "head_dim",
    "num_classes",
    "norm_eps",
    "freq_shift",
    "cos_first",
    "symmetric_downsample",
)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: There is no such file, or it holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not a readable JSON file ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, found a {type(value).__name__}")
    return value


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a PyTorch checkpoint, in float32.

    A checkpoint may hold its state dict under "state_dict" or the like, or in a list, of which the
    last is taken: ermongroup/ddim writes [model, optimizer, epoch, step, average]. DataParallel's
    "module." in front of keys is dropped. No code of the file is run.

    Raises:
        ValueError: No such file, a broken one, or one that holds anything but tensors.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, EOFError, RuntimeError, OSError, KeyError, ValueError) as error:
        reason = str(error).strip().split("\n")[0][:120]
        raise ValueError(f"{path}: not a complete weights file ({reason})") from None
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error):
            raise ValueError(f"{path}: not a weights file") from None
        raise ValueError(
            f"{path}: holds Python objects, which could run code and are not loaded; save its "
            "state dict alone"
        ) from None
    tensors = _find_state_dict(content)
    if tensors is None:
        raise ValueError(f"{path}: holds no state dict of tensors")
    return {k.removeprefix("module."): v.float() for k, v in tensors.items()}


def _find_state_dict(content: Any) -> dict[str, Tensor] | None:
    """The dict of tensors in a checkpoint; the last one of a list, which is the average."""
    if isinstance(content, Mapping):
        if content and all(isinstance(v, Tensor) for v in content.values()):
            return dict(content)
        for key in ("ema", "model_ema", "state_dict", "model"):
            if key in content:
                return _find_state_dict(content[key])
    if isinstance(content, list | tuple):
        for item in reversed(content):
            found = _find_state_dict(item)
            if found is not None:
                return found
    return None


def unet_arguments(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `UNet` among those of `zoo.DDPM`; absent ones keep `UNet`'s defaults."""
    channels = hparams.get("channels", 3)
    outputs = channels * (2 if hparams.get("variance") == "learned_range" else 1)
    known = {k: hparams[k] for k in UNET_ARGUMENTS if k in hparams}
    return {"in_channels": channels, "out_channels": outputs, **known}


def check_fit(
    hparams: Mapping[str, Any], state: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """The tensors in the order of our U-Net's, once they are exactly those that it has.

    Args:
        hparams: Arguments of `zoo.DDPM`, which decide the network.
        state: Tensors under our names.
        source: The file, for the message.

    Raises:
        ValueError: A tensor is missing, unknown, or of another shape.
    """
    with torch.device("meta"):
        expected = UNet(**unet_arguments(hparams)).state_dict()
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
    learned = {"variance": "learned_range"} if outputs == 2 * channels else {}
    return {
        "channels": channels,
        "width": width,
        "multipliers": multipliers,
        "blocks": count(state, r"down_blocks\.0\.resnets\.(\d+)\."),
        "attention_levels": [
            i for i in range(levels) if f"down_blocks.{i}.attentions.0.to_q.weight" in state
        ],
        "groups": 32,
        **learned,
    }


def count(state: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the largest number that `pattern` finds at the start of a key."""
    found = [int(m.group(1)) for k in state if (m := re.match(pattern, k))]
    return max(found, default=-1) + 1
