"""DDPM from checkpoints of openai/improved-diffusion and guided-diffusion.

Networks with scale-shift norms or residual resamplers are another architecture and are refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.ddpm.foreign_weights import count, finished, read_weights, rename

_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb": "class_embedding",
    "input_blocks.0.0": "conv_in",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_LAYERS = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
    "norm": "group_norm",
    "proj_out": "to_out.0",
}


def from_openai(
    path: Path,
    *,
    image_size: int | list[int],
    heads: int = 1,
    head_dim: int | None = None,
    new_attention_order: bool = False,
    rescaled_timesteps: bool = True,
    **process: Any,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads a checkpoint of OpenAI's (model*.pt or ema_*.pt).

    A class-conditional network gets one more label, "none", whose embedding is the classes' mean.

    Args:
        path: The checkpoint.
        image_size: Size of the images that the network was trained on.
        heads: Number of attention heads (num_heads), which the shapes do not tell.
        head_dim: Or the channels of each (num_head_channels).
        new_attention_order: It was trained with use_new_attention_order.
        rescaled_timesteps: It was trained with rescale_timesteps, OpenAI's default, which has no
            effect for 1000 timesteps.
        **process: Arguments of `zoo.DDPM` that the file does not tell, where they are not those of
            Ho's process: timesteps, schedule, beta_start, beta_end, variance, ...

    Returns:
        Arguments of `zoo.DDPM`, and tensors under the keys of `UNet`.

    Raises:
        ValueError: A broken file, or a network that ours does not express.
    """
    source = read_weights(Path(path))
    if "input_blocks.1.0.in_layers.2.weight" not in source:
        raise ValueError(f"{path}: has no input_blocks.1.0.in_layers.2: not of this format")
    width = source["input_blocks.1.0.in_layers.2.weight"].shape[0]
    if source["input_blocks.1.0.emb_layers.1.weight"].shape[0] == 2 * width:
        raise ValueError(f"{path}: a network with use_scale_shift_norm is not supported")
    timesteps = process.get("timesteps", 1000)
    if rescaled_timesteps and timesteps != 1000:
        raise ValueError(
            f"{path}: {timesteps} timesteps rescaled to 1000 are not supported, as zoo.DDPM shows "
            "the network the number of the step itself"
        )

    modules = _ENDS | _encoder(source, str(path))
    modules |= _decoder(source, modules, str(path))
    state: dict[str, Tensor] = {}
    attention_dims: set[int] = set()
    for key, tensor in source.items():
        ours = rename(key, modules, _LAYERS)
        if ".qkv." in ours:
            dim = len(tensor) // 3
            attention_dims.add(dim)
            parts = _split_qkv(tensor, dim // head_dim if head_dim else heads, new_attention_order)
            state |= {ours.replace("qkv", f"to_{n}"): p for n, p in zip("qkv", parts, strict=True)}
        else:
            # The only convolutions over positions are those of attention, of length 1.
            state[ours] = tensor[:, :, 0] if tensor.dim() == 3 else tensor
    if heads > 1 and head_dim is None:
        if len(attention_dims) > 1:
            raise ValueError(
                f"{path}: {heads} heads have different widths on levels of "
                f"{sorted(attention_dims)} channels, which zoo.DDPM does not express"
            )
        head_dim = attention_dims.pop() // heads
    return finished(
        state,
        path,
        process,
        image_size=image_size,
        freq_shift=0,
        cos_first=True,
        symmetric_downsample=True,
        norm_eps=1e-5,
        head_dim=head_dim,
    )


def _encoder(source: Mapping[str, Tensor], path: str) -> dict[str, str]:
    """Our names of the numbered input_blocks: `blocks` residual blocks a level, a downsampler."""
    names: dict[str, str] = {}
    level = j = 0
    for n in range(1, count(source, r"input_blocks\.(\d+)\.")):
        theirs = f"input_blocks.{n}"
        if f"{theirs}.0.op.weight" in source:
            names[f"{theirs}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            level, j = level + 1, 0
        elif f"{theirs}.0.in_layers.0.weight" in source:
            names[f"{theirs}.0"] = f"down_blocks.{level}.resnets.{j}"
            names[f"{theirs}.1"] = f"down_blocks.{level}.attentions.{j}"
            j += 1
        else:
            raise ValueError(f"{path}: {theirs} is neither a residual block nor a convolution")
    return names


def _decoder(source: Mapping[str, Tensor], encoder: Mapping[str, str], path: str) -> dict[str, str]:
    """Our names of the numbered output_blocks: one residual block more a level, an upsampler."""
    ours = set(encoder.values())
    levels = 1 + sum(name.endswith("downsamplers.0.conv") for name in ours)
    blocks = 1 + sum(name.startswith("down_blocks.0.resnets.") for name in ours)
    numbered = count(source, r"output_blocks\.(\d+)\.")
    if numbered != levels * blocks:
        raise ValueError(
            f"{path}: has {numbered} output_blocks, not {blocks} for each of {levels} levels; "
            "networks with resblock_updown are not supported"
        )
    names: dict[str, str] = {}
    for n in range(numbered):
        i, j = divmod(n, blocks)
        theirs = f"output_blocks.{n}"
        attends = f"{theirs}.1.qkv.weight" in source
        names[f"{theirs}.0"] = f"up_blocks.{i}.resnets.{j}"
        if attends:
            names[f"{theirs}.1"] = f"up_blocks.{i}.attentions.{j}"
        names[f"{theirs}.{1 + attends}.conv"] = f"up_blocks.{i}.upsamplers.0.conv"
    return names


def _split_qkv(qkv: Tensor, heads: int, new_order: bool) -> tuple[Tensor, ...]:
    """q, k and v, each heads one after another, of a joint weight (3C, C, 1) or bias (3C,).

    OpenAI's first order is head by head, each with its q, k and v; the later one is q of all heads,
    then k, then v.
    """
    rest = qkv.shape[1:2]
    if new_order:
        return tuple(qkv.reshape(3, -1, *rest))
    return tuple(qkv.reshape(heads, 3, -1, *rest).transpose(0, 1).reshape(3, -1, *rest))
