"""DDPM from checkpoints in the layout of pesser/pytorch_diffusion, which Ho's were converted to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.ddpm.foreign_weights import count, finished, read_weights, rename

_ENDS = {
    "temb.dense.0": "time_embedding.linear_1",
    "temb.dense.1": "time_embedding.linear_2",
    "mid.block_1": "mid_block.resnets.0",
    "mid.attn_1": "mid_block.attentions.0",
    "mid.block_2": "mid_block.resnets.1",
    "norm_out": "conv_norm_out",
}
_LAYERS = {
    "temb_proj": "time_emb_proj",
    "nin_shortcut": "conv_shortcut",
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}


def from_pesser(
    path: Path, *, image_size: int | list[int], **process: Any
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads a checkpoint of pesser/pytorch_diffusion or ermongroup/ddim.

    Args:
        path: The checkpoint.
        image_size: Size of the images that the network was trained on.
        **process: Arguments of `zoo.DDPM` that the file does not tell, where they are not Ho's:
            timesteps, schedule, beta_start, beta_end, variance, dropout, ...

    Returns:
        Arguments of `zoo.DDPM`, and tensors under the keys of `UNet`.

    Raises:
        ValueError: A broken file, or a network that ours does not express.
    """
    source = read_weights(Path(path))
    if "down.0.block.0.conv1.weight" not in source:
        raise ValueError(f"{path}: has no tensor down.0.block.0.conv1.weight: not of this format")
    modules = _ENDS | _levels(source)
    state = {}
    for key, tensor in source.items():
        ours = rename(key, modules, _LAYERS)
        is_projection = ".attentions." in ours and tensor.dim() == 4
        state[ours] = tensor[:, :, 0, 0] if is_projection else tensor
    return finished(
        state,
        path,
        process,
        image_size=image_size,
        freq_shift=1,
        cos_first=False,
        symmetric_downsample=False,
        norm_eps=1e-6,
        head_dim=None,
    )


def _levels(source: Mapping[str, Tensor]) -> dict[str, str]:
    """Our names of the modules of both halves; the decoder is numbered by resolution there."""
    names: dict[str, str] = {}
    levels = count(source, r"down\.(\d+)\.")
    for i in range(levels):
        down, up = f"down_blocks.{i}", f"up_blocks.{levels - 1 - i}"
        names[f"down.{i}.downsample"] = f"{down}.downsamplers.0"
        names[f"up.{i}.upsample"] = f"{up}.upsamplers.0"
        for j in range(count(source, r"up\.0\.block\.(\d+)\.")):
            names[f"down.{i}.block.{j}"] = f"{down}.resnets.{j}"
            names[f"down.{i}.attn.{j}"] = f"{down}.attentions.{j}"
            names[f"up.{i}.block.{j}"] = f"{up}.resnets.{j}"
            names[f"up.{i}.attn.{j}"] = f"{up}.attentions.{j}"
    return names
