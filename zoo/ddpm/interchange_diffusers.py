"""DDPM to and from a folder of Hugging Face diffusers, without importing diffusers.

The folder is what `DDPMPipeline.from_pretrained` reads: model_index.json, unet/ and scheduler/.
The weights need no conversion, as our U-Net has the keys of `UNet2DModel`.
"""

import json
import warnings
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from zoo.ddpm.foreign_weights import add_null_label, check_fit, multiples, read_weights
from zoo.ddpm.sampler import FEW_STEPS
from zoo.ddpm.unet import UNet, unet_arguments
from zoo.untrusted import read_json_object

# The release whose file format is written.
_VERSION = "0.35.0"
_WEIGHTS = "diffusion_pytorch_model"
_LARGEST = 10**6  # of any whole number in the folder

_PREDICTION = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
_MULTISTEP = "DPMSolverMultistepScheduler"
_SAMPLERS = {"DDPMScheduler": "ancestral", "DDIMScheduler": "ddim", _MULTISTEP: "dpmpp"}
_SCHEDULE = {"linear": "linear", "post": "linear", "cosine": "squaredcos_cap_v2"}
# Names of attention tensors before diffusers 0.12.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

# Fields of `UNet2DModel` that our U-Net has in one setting only: what absence means, what we have.
_FIXED_FIELDS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "center_input_sample": (False, (False,)),
    "time_embedding_type": ("positional", ("positional",)),
    "mid_block_scale_factor": (1, (1,)),
    "mid_block_type": ("UNetMidBlock2D", ("UNetMidBlock2D",)),
    "downsample_type": ("conv", ("conv",)),
    "upsample_type": ("conv", ("conv",)),
    "act_fn": ("silu", ("silu", "swish")),
    "resnet_time_scale_shift": ("default", ("default",)),
    "add_attention": (True, (True,)),
    "class_embed_type": (None, (None,)),
    "downsample_padding": (1, (0, 1)),
    "freq_shift": (0, (0, 1)),
}
# The same of its schedulers.
_FIXED_SCHEDULE: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "_class_name": ("DDPMScheduler", tuple(_SAMPLERS)),
    "beta_schedule": ("linear", ("linear", "squaredcos_cap_v2")),
    "prediction_type": ("epsilon", tuple(_PREDICTION.values())),
    "timestep_spacing": ("leading", ("leading", "trailing", "linspace")),
    "steps_offset": (0, (0,)),
    "rescale_betas_zero_snr": (False, (False,)),
    "set_alpha_to_one": (True, (True,)),
}
# fixed_small_log is fixed_small computed in another way.
_VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "learned_range")
# The same of those with one step alone, and of DPMSolverMultistepScheduler alone.
_FIXED_SINGLE_STEP: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "variance_type": ("fixed_small", _VARIANCES),
    "thresholding": (False, (False,)),
}
_FIXED_MULTISTEP: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "solver_order": (2, (2,)),
    "solver_type": ("midpoint", ("midpoint",)),
    "algorithm_type": ("dpmsolver++", ("dpmsolver++", "sde-dpmsolver++")),
    "final_sigmas_type": ("zero", ("zero",)),
    "variance_type": (None, (None, *_VARIANCES)),
    "sample_max_value": (1.0, (1.0,)),
    "use_karras_sigmas": (False, (False,)),
    "use_exponential_sigmas": (False, (False,)),
    "use_beta_sigmas": (False, (False,)),
    "use_flow_sigmas": (False, (False,)),
}


def to_diffusers(
    hparams: Mapping[str, Any],
    state: Mapping[str, Tensor],
    folder: Path,
    *,
    drop_variance: bool = False,
) -> list[str]:
    """Writes a folder that `DDPMPipeline.from_pretrained` loads.

    Of dpmpp its scheduler is DPMSolverMultistepScheduler, where that takes what the network puts
    out, and else DDPMScheduler. What diffusers does not have is replaced, with a warning: variance
    zero by fixed_small, quadratic spacing (and logsnr, but of dpmpp) by leading, and an eta of
    dpmpp between 0 and 1 by 0. A class-conditional network loads as `UNet2DModel`, with
    `num_classes + 1` embeddings of which the last means "no label"; `DDPMPipeline` itself passes
    no labels to any network.

    Args:
        hparams: Arguments of `zoo.DDPM`.
        state: Tensors under the keys of `UNet`.
        folder: Where to write; made if it does not exist.
        drop_variance: Leave out the channels of a learned variance, for schedulers that have no use
            for them; the folder then says fixed_small.

    Returns:
        What a user must know to call what was written.

    Raises:
        ValueError: The tensors are not those of the network that `hparams` describe, or have no
            learned variance to drop.
    """
    tensors = check_fit(hparams, state, "the exported model")
    if drop_variance:
        hparams, tensors = _without_variance(hparams, tensors)
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
        folder / "unet" / f"{_WEIGHTS}.safetensors",
        metadata={"format": "pt"},
    )
    _write_json(folder / "unet" / "config.json", _unet_config(hparams))
    scheduler = _scheduler_config(hparams)
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    index = {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": _VERSION,
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "unet": ["diffusers", "UNet2DModel"],
    }
    _write_json(folder / "model_index.json", index)
    return _notes(hparams, folder, scheduler["_class_name"] == _MULTISTEP)


def _without_variance(
    hparams: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The network of the mean alone: the first half of the output channels."""
    if hparams.get("variance") != "learned_range":
        raise ValueError("drop_variance: this model has no learned variance to leave out")
    channels = hparams.get("channels", 3)
    last = {k: v[:channels] for k, v in tensors.items() if k.startswith("conv_out.")}
    fixed = {**hparams, "variance": "fixed_small"}
    return fixed, check_fit(fixed, {**tensors, **last}, "the exported model")


def _notes(hparams: Mapping[str, Any], folder: Path, multistep: bool) -> list[str]:
    """How to call a network that `DDPMPipeline` loads and does not call rightly."""
    notes = []
    steps = hparams.get("sample_steps") or min(FEW_STEPS, hparams.get("timesteps", 1000))
    if multistep:
        notes.append(f"its scheduler is {_MULTISTEP}: call it with num_inference_steps={steps}")
    if classes := hparams.get("num_classes"):
        size = hparams["image_size"]
        height, width = [size, size] if isinstance(size, int) else size
        notes.append(
            "DDPMPipeline loads this folder, but passes no classes to its network; draw with\n"
            f'  pipe = diffusers.DDPMPipeline.from_pretrained("{folder}")\n'
            f"  labels = torch.arange({classes})  # {classes} is no label\n"
            f"  x = torch.randn({classes}, {hparams.get('channels', 3)}, {height}, {width})\n"
            + (f"  pipe.scheduler.set_timesteps({steps})\n" if multistep else "")
            + "  for t in pipe.scheduler.timesteps:\n"
            "      with torch.no_grad():\n"
            "          output = pipe.unet(x, t, class_labels=labels).sample\n"
            "      x = pipe.scheduler.step(output, t, x).prev_sample"
        )
    if hparams.get("variance") == "learned_range":
        notes.append(
            "the network predicts the variance too, which DDPMScheduler takes and other schedulers "
            "do not"
            + (f", but for {_MULTISTEP}" if multistep else "")
            + "; --options.drop_variance true writes it without, for any of them"
        )
    return notes


def _unet_config(hparams: Mapping[str, Any]) -> dict[str, Any]:
    net = {k: p.default for k, p in signature(UNet).parameters.items()} | unet_arguments(hparams)
    attends = [i in net["attention_levels"] for i in range(len(net["multipliers"]))]
    return {
        "_class_name": "UNet2DModel",
        "_diffusers_version": _VERSION,
        "act_fn": "silu",
        "add_attention": True,
        "attention_head_dim": net["head_dim"],
        "block_out_channels": [net["width"] * m for m in net["multipliers"]],
        "center_input_sample": False,
        "down_block_types": ["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "downsample_padding": int(net["symmetric_downsample"]),
        "dropout": net["dropout"],
        "flip_sin_to_cos": net["cos_first"],
        "freq_shift": net["freq_shift"],
        "in_channels": net["in_channels"],
        "layers_per_block": net["blocks"],
        "mid_block_scale_factor": 1,
        "norm_eps": net["norm_eps"],
        "norm_num_groups": net["groups"],
        "num_class_embeds": net["num_classes"] + 1 if net["num_classes"] else None,
        "out_channels": net["out_channels"],
        "sample_size": hparams["image_size"],
        "time_embedding_type": "positional",
        "up_block_types": ["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
    }


def _scheduler_config(hparams: Mapping[str, Any]) -> dict[str, Any]:
    T = hparams.get("timesteps", 1000)
    schedule = hparams.get("schedule", "linear")
    beta_end = hparams.get("beta_end", 0.02)
    # The post's beta_t = beta_end t / T, t = 1 ... T, is a linear schedule too.
    beta_start = beta_end / T if schedule == "post" else hparams.get("beta_start", 1e-4)
    variance = hparams.get("variance", "fixed_large")
    if variance == "zero":
        warnings.warn(
            "variance zero has no counterpart in diffusers: the folder says fixed_small",
            stacklevel=3,
        )
        variance = "fixed_small"
    objective = hparams.get("objective", "eps")
    # Of a predicted variance it cuts off what comes after three channels, and of a noise alone.
    multistep = hparams.get("sampler") == "dpmpp" and (
        variance != "learned_range" or (objective, hparams.get("channels", 3)) == ("eps", 3)
    )
    spacing = hparams.get("spacing") or ("logsnr" if multistep else "trailing")
    if spacing == "quadratic" or (spacing == "logsnr" and not multistep):
        warnings.warn(
            f"spacing {spacing} has no counterpart in diffusers: the folder says leading",
            stacklevel=3,
        )
        spacing = "leading"
    clip, eta = bool(hparams.get("clip", True)), hparams.get("eta", 0.0)
    own: dict[str, Any] = {"clip_sample": clip, "clip_sample_range": 1.0}
    if multistep:
        if 0 < eta < 1:
            warnings.warn(
                f"eta {eta:g} of dpmpp has no counterpart in diffusers: the folder says 0",
                stacklevel=3,
            )
        own = {
            "algorithm_type": "sde-dpmsolver++" if eta == 1 else "dpmsolver++",
            "final_sigmas_type": "zero",
            "sample_max_value": 1.0,
            "solver_order": 2,
            "solver_type": "midpoint",
            "thresholding": clip,  # with a largest value of 1 the same
            "use_lu_lambdas": spacing == "logsnr",
        }
        spacing = "trailing" if spacing == "logsnr" else spacing
    return own | {
        "_class_name": _MULTISTEP if multistep else "DDPMScheduler",
        "_diffusers_version": _VERSION,
        "beta_end": beta_end,
        "beta_schedule": _SCHEDULE[schedule],
        "beta_start": beta_start,
        "num_train_timesteps": T,
        "prediction_type": _PREDICTION[objective],
        "timestep_spacing": spacing,
        "trained_betas": None,
        "variance_type": variance,
    }


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def from_diffusers(
    path: Path, *, image_size: int | list[int] | None = None, null_label: bool = True
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads a pipeline's folder, or that of a `UNet2DModel` alone (then Ho's process is assumed).

    Args:
        path: The folder, with model_index.json or config.json.
        image_size: Size of the images, where the folder does not say.
        null_label: Whether the last class embedding means "no label", as in folders that we wrote;
            if not, every row is a class, and the mean of them is appended.

    Returns:
        Arguments of `zoo.DDPM`, and tensors under the keys of `UNet`.

    Raises:
        ValueError: A broken file, or a field with a value that `zoo.DDPM` does not have.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path}: not a folder; give the one with model_index.json")
    is_pipeline = (path / "model_index.json").is_file()
    unet = path / "unet" if is_pipeline else path
    config = read_json_object(unet / "config.json")
    hparams = _read_unet(config, str(unet / "config.json"))
    if is_pipeline:
        scheduler = path / "scheduler" / "scheduler_config.json"
        hparams |= _read_scheduler(read_json_object(scheduler), str(scheduler))
    learned = config.get("out_channels", 3) == 2 * hparams["channels"]
    if learned and not is_pipeline:
        hparams["variance"] = "learned_range"
    if learned != (hparams.get("variance") == "learned_range"):
        raise ValueError(
            f"{unet / 'config.json'}: out_channels {config.get('out_channels', 3)} does not go "
            f"with in_channels {hparams['channels']} and variance_type {hparams.get('variance')}"
        )
    hparams["image_size"] = image_size or _sizes(config, "sample_size", str(unet / "config.json"))

    files = [unet / f"{_WEIGHTS}.{suffix}" for suffix in ("safetensors", "bin")]
    weights = next((f for f in files if f.is_file()), None)
    if weights is None:
        raise ValueError(f"{unet}: holds neither {files[0].name} nor {files[1].name}")
    state = {_new_name(k): v for k, v in read_weights(weights).items()}
    classes = _whole(config, "num_class_embeds", None, str(unet / "config.json"))
    if classes and "class_embedding.weight" in state:
        hparams["num_classes"] = classes - 1 if null_label else add_null_label(state)
    return hparams, check_fit(hparams, state, str(weights))


def _new_name(key: str) -> str:
    parts = key.split(".")
    if "attentions" in parts and len(parts) > 2:
        parts[-2] = _OLD_ATTENTION.get(parts[-2], parts[-2])
    return ".".join(parts)


def _check_fields(
    config: Mapping[str, Any], fields: Mapping[str, tuple[Any, tuple[Any, ...]]], source: str
) -> None:
    for field, (default, supported) in fields.items():
        value = config.get(field, default)
        if value not in supported:
            choices = ", ".join(map(str, supported))
            raise ValueError(f"{source}: {field} {value!r} is not supported, only {choices}")


def _whole(config: Mapping[str, Any], field: str, default: Any, source: str) -> Any:
    """A field that is a positive whole number, or None where that is the default."""
    value = config.get(field, default)
    if value is None and default is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST:
        raise ValueError(f"{source}: {field} {value!r} is no whole number from 1 to {_LARGEST}")
    return value


def _real(config: Mapping[str, Any], field: str, default: float, source: str) -> float:
    """A field that is a number from 0 to 1."""
    value = config.get(field, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"{source}: {field} {value!r} is no number from 0 to 1")
    return float(value)


def _flag(config: Mapping[str, Any], field: str, default: bool, source: str) -> bool:
    value = config.get(field, default)
    if not isinstance(value, bool):
        raise ValueError(f"{source}: {field} {value!r} is neither true nor false")
    return value


def _texts(config: Mapping[str, Any], field: str, default: list[str], source: str) -> list[str]:
    value = config.get(field, default)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{source}: {field} {value!r:.80} is no list of names")
    return value


def _sizes(config: Mapping[str, Any], field: str, source: str) -> int | list[int]:
    """A side, or [height, width]."""
    value = config.get(field)
    if value is None:
        raise ValueError(f"{source}: {field} is missing: give image_size")
    if not isinstance(value, list):
        return int(_whole(config, field, 0, source))
    if len(value) != 2:
        raise ValueError(f"{source}: {field} {value!r:.80} is no [height, width]")
    return [int(_whole({field: side}, field, 0, source)) for side in value]


def _read_unet(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    _check_fields(config, _FIXED_FIELDS, source)
    field = "block_out_channels"
    dims = config.get(field, [224, 448, 672, 896])
    if not isinstance(dims, list) or not 1 <= len(dims) <= 32:
        raise ValueError(f"{source}: {field} {dims!r:.80} is no list of a few widths")
    dims = [_whole({field: dim}, field, 0, source) for dim in dims]
    down = _texts(config, "down_block_types", ["DownBlock2D"] + ["AttnDownBlock2D"] * 3, source)
    up = _texts(config, "up_block_types", ["AttnUpBlock2D"] * 3 + ["UpBlock2D"], source)
    for field, types in (("down_block_types", down), ("up_block_types", up)):
        name = field.split("_")[0].capitalize() + "Block2D"
        other = [t for t in types if t not in (name, "Attn" + name)]
        if other:
            raise ValueError(f"{source}: {field} {other[0]!r} is not supported, only (Attn){name}")
    attends = [t.startswith("Attn") for t in down]
    if attends != [t.startswith("Attn") for t in reversed(up)] or len(dims) != len(down):
        raise ValueError(
            f"{source}: up_block_types do not mirror down_block_types, one for each of "
            f"block_out_channels {dims}"
        )
    width, multipliers = multiples(dims)
    groups = _whole(config, "norm_num_groups", 32, source)
    if config.get("time_embedding_dim") not in (None, 4 * dims[0]):
        raise ValueError(f"{source}: time_embedding_dim must be 4 times the first level's width")
    if config.get("attn_norm_num_groups") not in (None, groups):
        raise ValueError(f"{source}: attn_norm_num_groups must equal norm_num_groups")
    return {
        "channels": _whole(config, "in_channels", 3, source),
        "width": width,
        "multipliers": multipliers,
        "blocks": _whole(config, "layers_per_block", 2, source),
        "attention_levels": [i for i, a in enumerate(attends) if a],
        "dropout": _real(config, "dropout", 0.0, source),
        "groups": groups,
        "head_dim": _head_dim(config, source),
        "norm_eps": _real(config, "norm_eps", 1e-5, source),
        "freq_shift": int(config.get("freq_shift", 0)),
        "cos_first": _flag(config, "flip_sin_to_cos", True, source),
        "symmetric_downsample": bool(config.get("downsample_padding", 1)),
    }


def _head_dim(config: Mapping[str, Any], source: str) -> int | None:
    """Channels of a head; null is one head over all, which is not the same as absence."""
    field = "attention_head_dim"
    return None if config.get(field, 8) is None else int(_whole(config, field, 8, source))


def _read_scheduler(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    _check_fields(config, _FIXED_SCHEDULE, source)
    sampler = _SAMPLERS[config.get("_class_name", "DDPMScheduler")]
    multistep = sampler == "dpmpp"
    _check_fields(config, _FIXED_MULTISTEP if multistep else _FIXED_SINGLE_STEP, source)
    if _flag(config, "clip_sample", True, source) and config.get("clip_sample_range", 1.0) != 1.0:
        raise ValueError(f"{source}: clip_sample_range must be 1")
    T = _whole(config, "num_train_timesteps", 1000, source)
    hparams: dict[str, Any] = {
        "timesteps": T,
        "objective": {v: k for k, v in _PREDICTION.items()}[
            config.get("prediction_type", "epsilon")
        ],
        "variance": (config.get("variance_type") or "fixed_small").removesuffix("_log"),
        "sampler": sampler,
        "spacing": config.get("timestep_spacing", "linspace" if multistep else "leading"),
        "clip": _flag(config, "clip_sample", True, source),
    }
    if multistep:
        hparams["clip"] = _flag(config, "thresholding", False, source)
        hparams["eta"] = float(config.get("algorithm_type") == "sde-dpmsolver++")
        if _flag(config, "use_lu_lambdas", False, source):
            hparams["spacing"] = "logsnr"
    start = _real(config, "beta_start", 1e-4, source)
    end = _real(config, "beta_end", 0.02, source)
    given = config.get("trained_betas")
    if given is not None:
        if not isinstance(given, list) or not all(isinstance(b, float) for b in given) or not given:
            raise ValueError(f"{source}: trained_betas are no list of numbers")
        betas = torch.tensor(given, dtype=torch.float64)
        start, end = float(betas[0]), float(betas[-1])
        linear = torch.linspace(start, end, T, dtype=torch.float64)
        if betas.shape != (T,) or not torch.allclose(betas, linear, rtol=1e-5, atol=0):
            raise ValueError(f"{source}: trained_betas are supported only if they are linear")
    elif config.get("beta_schedule", "linear") == "squaredcos_cap_v2":
        return hparams | {"schedule": "cosine"}
    if not 0 < start <= end < 1:
        raise ValueError(f"{source}: beta_start {start} and beta_end {end} are no noise schedule")
    if abs(start * T / end - 1) < 1e-6:
        return hparams | {"schedule": "post", "beta_end": end}
    return hparams | {"schedule": "linear", "beta_start": start, "beta_end": end}
