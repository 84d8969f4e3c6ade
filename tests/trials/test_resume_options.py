"""A user's flags at a resume, in every family: they act, or they are refused by their name."""

from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

LAST = "checkpoints/last.ckpt"
PLAIN = ("--trainer.accelerator", "cpu", "--trainer.val_check_interval", 1000)
PLAIN += ("--trainer.enable_progress_bar", False, "--trainer.log_every_n_steps", 1)
PLAIN += ("--trainer.enable_model_summary", False)
TEXT = ("--model.embedding", 8, "--model.hidden", 8, "--model.latent_dim", 4)
BERT = ("--model.hidden", 16, "--model.heads", 2, "--model.layers", 1)
DIGITS = ("-c", "ddpm/digits", "--model.width", 8, "--model.groups", 4, "--quality.samples", 0)
DIGITS += ("--samples.n", 0)
WGAN = ("-c", "wgan/digits-gp", "--model.generator_widths", "[16,8]", "--model.critic_widths")
WGAN += ("[8,8]", "--quality.samples", 0, "--samples.n", 0)
FAMILIES = {
    "ddpm": DIGITS,
    "ddpm-lamb": (*DIGITS, "--model.optimizer", "lamb"),
    "ddpm-constant": (*DIGITS, "--model.lr_schedule", "null"),
    "vae": ("-c", "vae/digits", "--quality.samples", 0, "--samples.n", 0),
    "vmf": ("-c", "vae/vmf-digits", "--quality.samples", 0, "--samples.n", 0),
    "text": ("-c", "vae/text-shakespeare", *TEXT),
    "text-sgd": ("-c", "vae/text-shakespeare", *TEXT, "--model.optimizer", "sgd"),
    "wgan": WGAN,
    "wgan-rmsprop": (*WGAN, "--model.optimizer", "rmsprop"),
    "wgan-constant": (*WGAN, "--model.lr_schedule", "null"),
    "flash": ("-c", "flash/shakespeare", "--model.dim", 16, "--model.depth", 1),
    "simbert": ("-c", "simbert/demo", *BERT),
}


def rates(family, value):
    names = ("lr_generator", "lr_critic") if family.startswith("wgan") else ("lr",)
    return [part for name in names for part in (f"--model.{name}", value)]


def trained(run):
    """What optimisers change in a checkpoint."""
    content = torch.load(Path(run, LAST), weights_only=True)
    weights = content.get("current_model_state", content["state_dict"])
    passive = ("running", "symbols", "_u", "_v", "num_batches_tracked")
    return {k: v for k, v in weights.items() if v.is_floating_point() and not k.endswith(passive)}


def apart(a, b):
    return max(float((v - b[k]).abs().max()) for k, v in a.items() if "running" not in k)


@pytest.fixture
def fit(zoo_cli):
    def run(*arguments):
        code, _, err = zoo_cli("fit", *arguments, *PLAIN)
        assert code == 0, err
        return err

    return run


@pytest.mark.parametrize("family", FAMILIES)
def test_another_learning_rate(family, fit):
    fit(*FAMILIES[family], "--run_dir", "a", "--trainer.max_steps", 3)
    before = trained("a")
    resume = [*FAMILIES[family], "--run_dir", "a", "--ckpt_path", "last"]
    said = fit(*resume, "--trainer.max_steps", 6, *rates(family, 1e-12))
    for name in rates(family, 0)[::2]:
        assert f"{name.removeprefix('--')} is 1e-12; the checkpoint was made with" in said
    assert apart(trained("a"), before) < 1e-7
    fit(*resume, "--trainer.max_steps", 9, *rates(family, 0.01))
    assert apart(trained("a"), before) > 1e-4


OTHERS = {
    "weight_decay": ("ddpm", "--model.weight_decay", 100),
    "lamb": ("ddpm-lamb", "--model.weight_decay", 100),
    "schedule": ("ddpm", "--model.lr_schedule", "{0: 1.0}"),
    "no schedule": ("ddpm", "--model.lr_schedule", "null"),
    "a schedule": ("ddpm-constant", "--model.lr_schedule", "{100: 1.0}"),
    "adam_betas": ("vae", "--model.adam_betas", "[0.1, 0.2]"),
    "adam_eps": ("vae", "--model.adam_eps", 1.0),
    "lr_stages": ("vae", "--model.lr_schedule", "null", "--model.lr_stages", "{2: 0.01}"),
    "beta1": ("wgan", "--model.beta1", 0.9),
    "beta2": ("wgan", "--model.beta2", 0.1),
    "wgan schedule": ("wgan", "--model.lr_schedule", "{0: 0.001}"),
    "flash decay": ("flash", "--model.weight_decay", 50),
    "betas": ("flash", "--model.betas", "[0.0, 0.5]"),
    "simbert decay": ("simbert", "--model.weight_decay", 50),
    "clipping": ("ddpm", "--trainer.gradient_clip_val", 1e-12),
    "loss": ("ddpm", "--model.vlb_weight", 100),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_options_act(case, fit):
    family, *flags = OTHERS[case]
    fit(*FAMILIES[family], "--run_dir", "a", "--trainer.max_steps", 4)
    for run, more in (("b", []), ("c", flags)):
        start = ["--ckpt_path", f"a/{LAST}", "--run_dir", run, "--trainer.max_steps", 8]
        said = fit(*FAMILIES[family], *start, *more)
    assert f"{flags[0].removeprefix('--')} is " in said
    assert apart(trained("b"), trained("c")) > 1e-5


REFUSED = {
    "width": ("ddpm", "--model.width", 16, "model.width is 16 and was 8"),
    "levels": ("ddpm", "--model.multipliers", "[1,2,2]", "model.multipliers is [1, 2, 2] and was"),
    "optimizer": ("ddpm", "--model.optimizer", "lamb", "--model.optimizer=lamb"),
    "wgan": ("wgan", "--model.latent_dim", 7, "model.latent_dim is 7 and was 32"),
    "rmsprop": ("wgan", "--model.optimizer", "rmsprop", "--model.optimizer=rmsprop"),
    "init": ("wgan", "--model.init", "normal", "--model.init=normal"),
    "vae": ("vae", "--model.latent_dim", 3, "model.latent_dim is 3 and was"),
    "text": ("text", "--model.hidden", 12, "model.hidden is 12 and was 8"),
    "sgd": ("text", "--model.optimizer", "sgd", "--model.optimizer=sgd"),
    "dim": ("flash", "--model.dim", 32, "model.dim is 32 and was 16"),
    "init_std": ("flash", "--model.init_std", 0.5, "--model.init_std=0.5"),
    "layers": ("simbert", "--model.layers", 2, "model.layers is 2 and was 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_change_is_named(case, fit, mistake):
    family, flag, value, message = REFUSED[case]
    fit(*FAMILIES[family], "--run_dir", "a", "--trainer.max_steps", 1)
    before = Path("a", LAST).read_bytes()
    resume = [*FAMILIES[family], "--run_dir", "a", "--ckpt_path", "last"]
    line = mistake("fit", *resume, "--trainer.max_steps", 2, flag, value, *PLAIN)
    assert message in line
    assert "new run" in line
    assert Path("a", LAST).read_bytes() == before


def test_what_else_has_changed_is_told(fit):
    fit(*DIGITS, "--run_dir", "a", "--trainer.max_steps", 2)
    told = {
        "--data.batch_size": (32, "data.batch_size is 32; the checkpoint was made with 64"),
        "--data.seed": (3, "data.seed is 3; the checkpoint was made with 0"),
        "--data.limit": (700, "data.limit is 700; the checkpoint was made with None"),
        "--seed_everything": (5, "seed_everything is 5; the checkpoint was made with 0"),
        "--ema.decay": (0.5, "ema.decay is 0.5; the checkpoint was made with"),
        "--trainer.accumulate_grad_batches": (2, "trainer.accumulate_grad_batches is 2; the"),
        "--trainer.precision": ("bf16-mixed", "trainer.precision is bf16-mixed; the"),
        "--trainer.limit_val_batches": (1, "trainer.limit_val_batches is 1; the"),
    }
    flags = [part for flag, (value, _) in told.items() for part in (flag, value)]
    resume = (*DIGITS, "--run_dir", "a", "--ckpt_path", "last", "--trainer.max_steps", 4)
    said = fit(*resume, *flags, "--trainer.devices", 2, "--trainer.strategy", "ddp_fork")
    for _, line in told.values():
        assert line in said
    assert "the number of processes is 2; the checkpoint was made with 1" in said
    again = fit(*resume[:-1], 6, *flags, "--trainer.devices", 1, "--trainer.strategy", "auto")
    assert "the number of processes is 1; the checkpoint was made with 2" in again
    lines = {line.removeprefix("INFO: ") for line in again.splitlines()}
    assert sum("; the checkpoint was made with" in line for line in lines) == 1


def test_other_files_under_the_same_name_are_told(fit, tmp_path):
    from PIL import Image

    for i in range(40):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (i, 2 * i, 255 - i)).save(tmp_path / f"pictures/{i}.png")
    folder = ["-c", "ddpm/folder", "--data.root", "pictures", "--data.size", 8, "--data.batch_size"]
    folder += [4, "--model.image_size", 8, "--model.width", 8, "--model.groups", 4]
    folder += ["--model.multipliers", "[1]", "--model.attention_levels", "[]", "--samples.n", 0]
    folder += ["--run_dir", "a", "--ckpt_path", "last"]
    fit(*folder, "--trainer.max_steps", 1)
    assert "training data" not in fit(*folder, "--trainer.max_steps", 2)
    for i in range(40):
        Image.new("RGB", (8, 8), (255 - i, i, 0)).save(tmp_path / f"pictures/{i}.png")
    said = fit(*folder, "--trainer.max_steps", 3)
    assert "the content of the training data is another than the checkpoint's" in said


@pytest.mark.parametrize("before", [True, False])
def test_another_memory_layout(before, fit):
    """Equal up to rounding, a twentieth of what the steps move."""
    layout = ("--model.channels_last", before)
    fit(*DIGITS, *layout, "--run_dir", "a", "--trainer.max_steps", 5)
    for run, last in (("b", before), ("c", not before)):
        start = ["--ckpt_path", f"a/{LAST}", "--run_dir", run, "--trainer.max_steps", 10]
        fit(*DIGITS, *start, "--model.channels_last", last)
    moved = apart(trained("a"), trained("b"))
    assert apart(trained("b"), trained("c")) < moved / 20


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
@pytest.mark.parametrize("lipschitz", ["gp", "spectral_norm", "gn"])
def test_another_memory_layout_of_a_wgan(lipschitz, optimizer, fit):
    """Of the step after, since rounding grows fast here whatever it comes from.

    The bias of a convolution in front of a batch norm has the gradient 0. Its rounding is all that
    there is, and Adam without a mean of gradients makes steps of full length of it, so that
    biases differ by a rate, and the function does not.
    """
    family = (*WGAN, "--model.lipschitz", lipschitz, "--model.optimizer", optimizer)
    if lipschitz == "gn":
        family += ("--model.objective", "hinge")
    else:
        family += ("--model.critic_activation", "silu")  # without kinks, which rounding crosses
    fit(*family, "--run_dir", "a", "--trainer.max_steps", 5)
    for run, last in (("b", False), ("c", True)):
        start = ["--ckpt_path", f"a/{LAST}", "--run_dir", run, "--trainer.max_steps", 6]
        fit(*family, *start, "--model.channels_last", last)
    a, b, c = map(trained, "abc")
    moved = apart(a, b)
    del b["generator.blocks.2.bias"]
    assert apart(b, c) < moved / 20
