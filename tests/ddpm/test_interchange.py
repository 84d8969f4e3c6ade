"""Exchange of weights with diffusers, both ways."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.ddpm.networks import difference, loaded, network, randomise
from zoo.ddpm.interchange import EXPORTERS, IMPORTERS
from zoo.ddpm.interchange_diffusers import from_diffusers, to_diffusers
from zoo.ddpm.unet import UNet

HPARAMS: dict[str, Any] = {
    "image_size": 16,
    "channels": 3,
    "timesteps": 1000,
    "schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "objective": "eps",
    "variance": "fixed_large",
    "width": 32,
    "multipliers": [1, 1, 2],
    "blocks": 1,
    "attention_levels": [1],
    "dropout": 0.1,
    "groups": 8,
    "head_dim": None,
    "num_classes": 0,
    "norm_eps": 1e-6,
    "freq_shift": 1,
    "cos_first": False,
    "symmetric_downsample": False,
    "spacing": "leading",
    "clip": True,
}
CIFAR_CONFIG = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
CIFAR_SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "clip_sample": True,
    "num_train_timesteps": 1000,
    "trained_betas": None,
    "variance_type": "fixed_large",
}


def write_diffusers(
    folder: Path, unet: dict[str, Any], scheduler: dict[str, Any] | None = None
) -> Path:
    """A pipeline's folder without weights."""
    for name, value in (
        ("model_index.json", {"_class_name": "DDPMPipeline"}),
        ("unet/config.json", unet),
        ("scheduler/scheduler_config.json", scheduler or CIFAR_SCHEDULER),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    return folder


# -- diffusers -------------------------------------------------------------------------------------

VARIANTS: dict[str, dict[str, Any]] = {
    "ho": {},
    "post": {"schedule": "post", "variance": "fixed_small"},
    "cosine, v, learned range": {
        "schedule": "cosine",
        "objective": "v",
        "variance": "learned_range",
    },
    "x0, grey, not square": {
        "objective": "x0",
        "channels": 1,
        "image_size": [8, 20],
        "clip": False,
        "spacing": "trailing",
    },
    "dpmpp": {"sampler": "dpmpp", "spacing": "logsnr", "eta": 0.0},
    "dpmpp for the SDE, v": {
        "sampler": "dpmpp",
        "spacing": "trailing",
        "eta": 1.0,
        "objective": "v",
        "clip": False,
        "variance": "fixed_small",
    },
    "dpmpp, learned range": {
        "sampler": "dpmpp",
        "spacing": "logsnr",
        "eta": 0.0,
        "variance": "learned_range",
    },
    "openai": {
        "freq_shift": 0,
        "cos_first": True,
        "symmetric_downsample": True,
        "norm_eps": 1e-5,
        "head_dim": 16,
        "timesteps": 200,
        "beta_end": 0.05,
    },
}


def pipeline(folder: Path) -> Any:
    diffusers = pytest.importorskip("diffusers")
    pipe = diffusers.DDPMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.filterwarnings("ignore:__array__")  # numpy's, of DPMSolverMultistepScheduler
@pytest.mark.parametrize("name", VARIANTS)
def test_diffusers_loads_our_folder_and_computes_the_same(name: str, tmp_path: Path) -> None:
    hparams = HPARAMS | VARIANTS[name]
    net = network(hparams)
    to_diffusers(hparams, net.state_dict(), tmp_path)
    pipe = pipeline(tmp_path)
    size = hparams["image_size"]
    height, width = size if isinstance(size, list) else (size, size)
    x, t = torch.randn(2, hparams["channels"], height, width), torch.tensor([3, 150])
    with torch.no_grad():
        assert difference(net(x, t), pipe.unet(x, t).sample) < 1e-5
    images = pipe(batch_size=2, num_inference_steps=3, output_type="np").images
    assert images.shape == x.movedim(1, 3).shape

    T = hparams["timesteps"]
    t_T = torch.arange(1, T + 1, dtype=torch.float64)
    if hparams["schedule"] == "linear":
        betas = torch.linspace(hparams["beta_start"], hparams["beta_end"], T, dtype=torch.float64)
    elif hparams["schedule"] == "post":
        betas = 0.02 * t_T / T
    else:
        f = [math.cos((i / T + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(T + 1)]
        ratios = [min(1 - b / a, 0.999) for a, b in itertools.pairwise(f)]
        betas = torch.tensor(ratios, dtype=torch.float64)
    torch.testing.assert_close(pipe.scheduler.betas.double(), betas, rtol=2e-4, atol=3e-8)


@pytest.mark.parametrize("name", VARIANTS)
def test_diffusers_folder_comes_back_the_same(name: str, tmp_path: Path) -> None:
    hparams = HPARAMS | VARIANTS[name]
    state = network(hparams).state_dict()
    to_diffusers(hparams, state, tmp_path)
    back, tensors = from_diffusers(tmp_path)
    expected = {k: v for k, v in hparams.items() if k != "num_classes"}
    if hparams["schedule"] != "linear":
        del expected["beta_start"]
    if hparams["schedule"] == "cosine":
        del expected["beta_end"]
    assert back == {"sampler": "ancestral"} | expected
    assert list(tensors) == list(state)
    assert all(torch.equal(tensors[k], state[k]) for k in state)


def test_what_diffusers_saves_comes_back_the_same(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    ).eval()
    randomise(unet)
    scheduler = diffusers.DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"
    )
    diffusers.DDPMPipeline(unet, scheduler).save_pretrained(tmp_path)
    hparams, state = from_diffusers(tmp_path)
    assert (hparams["width"], hparams["multipliers"]) == (32, [1, 2, 3])
    assert (hparams["head_dim"], hparams["attention_levels"]) == (8, [1, 2])
    assert (hparams["schedule"], hparams["objective"]) == ("cosine", "v")
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 150])
    with torch.no_grad():
        assert difference(loaded(hparams, state)(x, t), unet(x, t).sample) < 1e-5


@pytest.mark.parametrize("null_label", [True, False])
def test_classes_keep_their_embeddings(null_label: bool, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    hparams = HPARAMS | {"num_classes": 4}
    net = network(hparams)
    to_diffusers(hparams, net.state_dict(), tmp_path)
    unet = diffusers.UNet2DModel.from_pretrained(tmp_path, subfolder="unet").eval()
    back, state = from_diffusers(tmp_path, null_label=null_label)
    assert back["num_classes"] == (4 if null_label else 5)
    ours = loaded(back, state)
    x, t, labels = torch.randn(2, 3, 16, 16), torch.tensor([3, 150]), torch.tensor([0, 3])
    rows = net.state_dict()["class_embedding.weight"]
    null = rows[-1] if null_label else rows.mean(dim=0)
    with torch.no_grad():
        assert difference(unet(x, t, labels).sample, ours(x, t, labels)) < 1e-5
        assert torch.equal(state["class_embedding.weight"][-1], null)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
def test_ancestral_steps_equal_the_exported_schedulers(variance: str, tmp_path: Path) -> None:
    """x_{t-1} by eq. 6 and 7 of arXiv 2006.11239, with the draw that the scheduler makes."""
    hparams = HPARAMS | {"variance": variance}
    net = network(hparams)
    to_diffusers(hparams, net.state_dict(), tmp_path)
    scheduler = pipeline(tmp_path).scheduler
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    bar = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, 0)])
    x = torch.randn(2, 3, 16, 16)
    for t in (999, 500, 1, 0):
        with torch.no_grad():
            out = net(x, torch.full((2,), t))
        theirs = scheduler.step(out, t, x, generator=torch.Generator().manual_seed(t)).prev_sample
        eps, v = (out, None) if variance != "learned_range" else out.chunk(2, dim=1)
        # As many channels as the network puts out: that is what diffusers draws, but for learned
        # variances, where it splits them first.
        z = torch.randn(eps.shape, generator=torch.Generator().manual_seed(t))
        b, now, before = beta[t], bar[t + 1], bar[t]
        x0 = ((x - (1 - now).sqrt() * eps.double()) / now.sqrt()).clamp(-1, 1)
        mean = (b * before.sqrt() * x0 + (1 - before) * (1 - b).sqrt() * x) / (1 - now)
        small = b * (1 - before) / (1 - now)
        if v is not None:
            share = (v.double() + 1) / 2
            sigma = (0.5 * (share * b.log() + (1 - share) * small.clamp(min=1e-20).log())).exp()
        else:
            sigma = (small if variance == "fixed_small" else b).sqrt()
        expected = mean + sigma * z * (t > 0)
        torch.testing.assert_close(theirs.double(), expected, rtol=2e-4, atol=2e-4)


def test_old_names_and_pickled_weights_are_read(tmp_path: Path) -> None:
    hparams = HPARAMS | {"channels": 3}
    net = network(hparams)
    to_diffusers(hparams, net.state_dict(), tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    old = {
        k.replace("to_q", "query")
        .replace("to_k", "key")
        .replace("to_v", "value")
        .replace("to_out.0", "proj_attn"): v.half()
        for k, v in load_file(weights).items()
    }
    assert any("proj_attn" in k for k in old)
    weights.unlink()
    torch.save(old, weights.with_suffix(".bin"))
    _, state = from_diffusers(tmp_path)
    for key, tensor in net.state_dict().items():
        assert torch.equal(state[key], tensor.half().float()), key


def test_hub_configs_give_hos_networks(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = UNet().state_dict()
    write_diffusers(tmp_path, CIFAR_CONFIG)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: torch.zeros(v.shape) for k, v in shapes.items()}, weights)
    hparams, state = from_diffusers(tmp_path)
    assert sum(v.numel() for v in state.values()) == 35_746_307
    assert hparams == {
        "image_size": 32,
        "channels": 3,
        "width": 128,
        "multipliers": [1, 2, 2, 2],
        "blocks": 2,
        "attention_levels": [1],
        "dropout": 0.0,
        "groups": 32,
        "head_dim": None,
        "norm_eps": 1e-6,
        "freq_shift": 1,
        "cos_first": False,
        "symmetric_downsample": False,
        "timesteps": 1000,
        "schedule": "linear",
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "objective": "eps",
        "variance": "fixed_large",
        "sampler": "ancestral",
        "spacing": "leading",
        "clip": True,
    }


def test_hub_config_of_the_256_pixel_networks(tmp_path: Path) -> None:
    config = CIFAR_CONFIG | {
        "block_out_channels": [128, 128, 256, 256, 512, 512],
        "down_block_types": ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
        "sample_size": 256,
    }
    write_diffusers(tmp_path, config, CIFAR_SCHEDULER | {"variance_type": "fixed_small"})
    with pytest.raises(ValueError, match=r"holds neither diffusion_pytorch_model\.safetensors"):
        from_diffusers(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({"conv_in.weight": torch.zeros(1)}, weights)
    with pytest.raises(ValueError, match=r"lacks tensor time_embedding\.linear_1\.weight"):
        from_diffusers(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resnet_time_scale_shift", "scale_shift"),
        ("down_block_types", ["ResnetDownsampleBlock2D"] * 4),
        ("up_block_types", ["UpBlock2D"] * 4),
        ("up_block_types", ["SkipUpBlock2D"] * 4),
        ("time_embedding_type", "fourier"),
        ("time_embedding_dim", 77),
        ("class_embed_type", "timestep"),
        ("act_fn", "gelu"),
        ("mid_block_scale_factor", 1.4),
        ("center_input_sample", True),
        ("add_attention", False),
        ("attn_norm_num_groups", 4),
        ("out_channels", 6),
        ("sample_size", None),
    ],
)
def test_a_network_that_ours_is_not_is_refused_by_field(
    field: str, value: Any, tmp_path: Path
) -> None:
    write_diffusers(tmp_path, CIFAR_CONFIG | {field: value})
    with pytest.raises(ValueError, match=field) as error:
        from_diffusers(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("_class_name", "ScoreSdeVeScheduler"),
        ("beta_schedule", "scaled_linear"),
        ("variance_type", "fixed_large_log"),
        ("variance_type", "learned"),
        ("thresholding", True),
        ("clip_sample_range", 2.0),
        ("steps_offset", 1),
        ("rescale_betas_zero_snr", True),
        ("trained_betas", [0.1, 0.5, 0.2]),
        *(
            (field, {"_class_name": "DPMSolverMultistepScheduler", field: value})
            for field, value in {
                "solver_order": 3,
                "solver_type": "heun",
                "algorithm_type": "dpmsolver",
                "final_sigmas_type": "sigma_min",
                "use_karras_sigmas": True,
                "sample_max_value": 2.0,
            }.items()
        ),
    ],
)
def test_a_process_that_ours_is_not_is_refused_by_field(
    field: str, value: Any, tmp_path: Path
) -> None:
    changed = value if isinstance(value, dict) else {field: value}
    write_diffusers(tmp_path, CIFAR_CONFIG, CIFAR_SCHEDULER | changed)
    with pytest.raises(ValueError, match=field):
        from_diffusers(tmp_path)


@pytest.mark.parametrize("options", [{}, {"use_lu_lambdas": True, "thresholding": True}])
def test_a_multistep_scheduler_of_diffusers_is_read(options: Any, tmp_path: Path) -> None:
    schedulers = pytest.importorskip("diffusers.schedulers")
    to_diffusers(HPARAMS, network(HPARAMS).state_dict(), tmp_path)
    schedulers.DPMSolverMultistepScheduler(**options).save_pretrained(tmp_path / "scheduler")
    hparams, _ = from_diffusers(tmp_path)
    assert (hparams["sampler"], hparams["eta"]) == ("dpmpp", 0)
    assert hparams["clip"] == bool(options)
    assert hparams["spacing"] == ("logsnr" if options else "linspace")


def test_linear_trained_betas_are_the_posts_schedule(tmp_path: Path) -> None:
    net = network(HPARAMS)
    to_diffusers(HPARAMS, net.state_dict(), tmp_path)
    scheduler = tmp_path / "scheduler" / "scheduler_config.json"
    betas = [0.02 * t / 1000 for t in range(1, 1001)]
    scheduler.write_text(json.dumps(CIFAR_SCHEDULER | {"trained_betas": betas}))
    hparams, _ = from_diffusers(tmp_path)
    assert hparams["schedule"] == "post"
    assert hparams["beta_end"] == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"variance": "zero"}, "fixed_small"),
        ({"spacing": "quadratic"}, "leading"),
        ({"spacing": "logsnr"}, "leading"),
        ({"sampler": "dpmpp", "eta": 0.5}, "0"),
    ],
)
def test_what_diffusers_does_not_have_is_replaced_with_a_warning(
    changed: dict[str, Any], says: str, tmp_path: Path
) -> None:
    hparams = HPARAMS | changed
    with pytest.warns(UserWarning, match=f"no counterpart in diffusers: the folder says {says}"):
        to_diffusers(hparams, network(hparams).state_dict(), tmp_path)
    assert says in (tmp_path / "scheduler" / "scheduler_config.json").read_text()


# -- files that are not what they seem -------------------------------------------------------------


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code of the file was run",))


def test_broken_files_are_one_clear_error(tmp_path: Path, capsys: Any) -> None:
    to_diffusers(HPARAMS, network(HPARAMS).state_dict(), tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    checkpoint = weights.with_suffix(".bin")
    torch.save(load_file(weights), checkpoint)
    whole_checkpoint = checkpoint.read_bytes()

    cases: list[tuple[Path, bytes, str]] = [
        (weights, whole[:1000], "is damaged"),
        (weights, whole[: len(whole) // 2], "is damaged"),
        (weights, b"", "is damaged"),
        (weights, b"<html>not found</html>", "is damaged"),
        (checkpoint, whole_checkpoint[: len(whole_checkpoint) // 2], "cut off"),
        (checkpoint, b"<html>not found</html>", "not a checkpoint"),
        (checkpoint, b"", "cut off"),
    ]
    for path, content, message in cases:
        weights.unlink(missing_ok=True)
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            from_diffusers(tmp_path)
        assert path.name in str(error.value)
        assert "\n" not in str(error.value)

    torch.save({"state_dict": Evil()}, checkpoint)
    with pytest.raises(ValueError, match="pickled code"):
        from_diffusers(tmp_path)
    torch.save({"optimizer": {"lr": 1.0}}, checkpoint)
    with pytest.raises(ValueError, match="no state dict"):
        from_diffusers(tmp_path)
    (tmp_path / "unet" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        from_diffusers(tmp_path)
    with pytest.raises(ValueError, match="not a folder"):
        from_diffusers(tmp_path / "nowhere")
    for name in ("pesser", "openai"):
        with pytest.raises(FileNotFoundError, match="no such file"):
            IMPORTERS["DDPM"][name](tmp_path / "nowhere.pt", image_size=16)
        checkpoint.write_bytes(whole_checkpoint)
        with pytest.raises(ValueError, match="not of this format"):
            IMPORTERS["DDPM"][name](checkpoint, image_size=16)
    assert "code of the file" not in capsys.readouterr().out


def test_unknown_and_missing_tensors_are_refused(tmp_path: Path) -> None:
    state = network(HPARAMS).state_dict()
    with pytest.raises(ValueError, match=r"unknown tensor extra\.weight"):
        EXPORTERS["DDPM"]["diffusers"](HPARAMS, state | {"extra.weight": torch.zeros(1)}, tmp_path)
    less = {k: v for k, v in state.items() if k not in ("conv_in.bias", "conv_out.bias")}
    with pytest.raises(ValueError, match=r"lacks tensor conv_in\.bias and 1 more"):
        to_diffusers(HPARAMS, less, tmp_path)
    with pytest.raises(ValueError, match=r"conv_in\.weight has shape \[2\]"):
        to_diffusers(HPARAMS, state | {"conv_in.weight": torch.zeros(2)}, tmp_path)
    assert not list(tmp_path.iterdir())
