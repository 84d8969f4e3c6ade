"""An export of the demo's kind of model, called as its note says, under diffusers' schedulers."""

import pytest
import torch

import zoo

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers' own

SCHEDULERS = (
    "DDPMScheduler",
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "PNDMScheduler",
)


@pytest.fixture
def model():
    """Classes and a learned variance, as the demo's."""
    torch.manual_seed(0)
    model = zoo.DDPM(
        image_size=[8, 4], channels=1, timesteps=20, width=8, multipliers=[1, 2], groups=4,
        attention_levels=[], num_classes=3, variance="learned_range",
    )  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    zoo.save_pretrained(model, "m")
    return model.eval()


def run(pipe, steps, labels, x, **options):
    """The loop that the export prints."""
    pipe.scheduler.set_timesteps(steps)
    torch.manual_seed(1)  # of the noise in a step
    for t in pipe.scheduler.timesteps:
        with torch.no_grad():
            output = pipe.unet(pipe.scheduler.scale_model_input(x, t), t, class_labels=labels)
        x = pipe.scheduler.step(output.sample, t, x, **options).prev_sample
    return x


def test_the_export_says_how_it_is_called(zoo_cli, model):
    diffusers = pytest.importorskip("diffusers")
    code, out, err = zoo_cli("export", "m", "out", "--format", "diffusers")
    assert code == 0, err
    assert "passes no classes" in out
    assert "--options.drop_variance true" in out
    pipe = diffusers.DDPMPipeline.from_pretrained("out")
    with pytest.raises(ValueError, match="class_labels"):
        pipe(num_inference_steps=2)
    names = {"diffusers": diffusers, "torch": torch}
    code = "\n".join(line[2:] for line in out.splitlines() if line.startswith("  "))
    exec(code, names)  # the printed loop, as a user pastes it
    assert names["x"].shape == (3, 1, 8, 4)
    assert names["x"].isfinite().all()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_without_variance_channels_every_scheduler_runs(zoo_cli, model, name):
    diffusers = pytest.importorskip("diffusers")
    options = ["--format", "diffusers", "--options.drop_variance", "true"]
    code, out, err = zoo_cli("export", "m", "out", *options)
    assert code == 0, err
    assert "drop_variance" not in out
    pipe = diffusers.DDPMPipeline.from_pretrained("out")
    x, t, labels = torch.randn(3, 1, 8, 4), torch.tensor([3, 0, 19]), torch.tensor([0, 1, 3])
    with torch.no_grad():
        ours = model(x, t, labels)[:, :1]
        theirs = pipe.unet(x, t, class_labels=labels).sample
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    assert pipe.scheduler.config.variance_type == "fixed_small"
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    images = run(pipe, 5, labels, x)
    assert images.shape == x.shape
    assert images.isfinite().all()


def test_ddim_draws_our_images(zoo_cli, model):
    """The same noise through their DDIM and ours ends in the same image."""
    diffusers = pytest.importorskip("diffusers")
    options = ["--format", "diffusers", "--options.drop_variance", "true"]
    assert zoo_cli("export", "m", "out", *options)[0] == 0
    pipe = diffusers.DDPMPipeline.from_pretrained("out")
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    seen = []
    hook = model.net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    labels = torch.tensor([0, 1, 2])
    ours = model.sample(3, steps=5, sampler="ddim", labels=labels, seed=4)
    hook.remove()
    # Ours takes the noise that goes with the clipped image; theirs if it is told to.
    theirs = run(pipe, 5, labels, seen[0], use_clipped_model_output=True).clamp(-1, 1)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("spacing", ["trailing", "logsnr"])
def test_dpm_solver_draws_our_images(zoo_cli, spacing):
    """With the scheduler of the export, which in log-SNR is given our steps."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = zoo.DDPM(
        image_size=[8, 4], channels=1, width=8, multipliers=[1, 2], groups=4,
        attention_levels=[], num_classes=3, spacing=spacing,
    ).eval()  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    zoo.save_pretrained(model, "m")
    code, out, err = zoo_cli("export", "m", "out", "--format", "diffusers")
    assert code == 0, err
    assert "DPMSolverMultistepScheduler: call it with num_inference_steps=10" in out
    assert "pipe.scheduler.set_timesteps(10)" in out
    pipe = diffusers.DDPMPipeline.from_pretrained("out")
    labels = torch.tensor([0, 1, 2])
    states = model.sample(3, labels=labels, seed=4, return_trajectory=True)
    if spacing == "logsnr":
        config = {**pipe.scheduler.config, "use_lu_lambdas": False}
        pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(config)
        kept = model.plan().timesteps.tolist()
        set_timesteps = pipe.scheduler.set_timesteps
        pipe.scheduler.set_timesteps = lambda steps: set_timesteps(timesteps=kept)
    theirs = run(pipe, 10, labels, states[0])
    torch.testing.assert_close(theirs, states[-1], rtol=0, atol=1e-4)


def test_what_has_no_learned_variance_has_none_to_drop(mistake):
    model = zoo.DDPM(
        image_size=8, channels=1, width=8, multipliers=[1], groups=4, attention_levels=[]
    )
    zoo.save_pretrained(model, "fixed")
    options = ["--format", "diffusers", "--options.drop_variance", "true"]
    assert "no learned variance" in mistake("export", "fixed", "out", *options)
    line = mistake("export", "fixed", "out", "--format", "diffusers", "--options.drop", "true")
    assert "'drop'" in line
    assert "format zoo has no option" in mistake("export", "fixed", "out", "--options.drop", 1)
