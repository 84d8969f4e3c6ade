"""sample, export, import and predict, from the command line."""

import numpy as np
import pytest
import torch
from PIL import Image

import zoo


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """A model with weights that matter, in a folder."""
    torch.manual_seed(0)
    model = zoo.DDPM(
        image_size=8, channels=3, timesteps=20, width=8, multipliers=[1, 2], groups=4,
        num_classes=3,
    )  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return zoo.save_pretrained(model, tmp_path_factory.mktemp("export"))


def pixels(path):
    return np.asarray(Image.open(path))


def test_a_grid_is_the_models_samples_whatever_the_batch(export, zoo_cli):
    flags = ["-n", 5, "--columns", 5, "--seed", 7]
    for out, batch in (("a.png", 5), ("b.png", 2)):
        code, stdout, err = zoo_cli("sample", export, *flags, "--out", out, "--batch_size", batch)
        assert code == 0, err
        assert f"5 images in {out} (dpmpp, 10 of 20 steps, logsnr spacing, eta 0, x0" in stdout
    grid = pixels("a.png")
    assert np.array_equal(grid, pixels("b.png"))
    images = zoo.load(export).sample(5, seed=7)
    expected = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    for i in range(5):  # 8 pixels enlarged 8 times, a border of 2 between
        tile = grid[2 + 4 : 2 + 64 : 8, 2 + 66 * i + 4 : 2 + 66 * i + 64 : 8]
        assert np.array_equal(tile, expected[i])


def test_options_reach_the_sampler(export, zoo_cli):
    asked = ["--steps", 5, "--sampler", "ddim", "--eta", 0.5, "--labels", "[1,2]", "--guidance", 2]
    asked += ["--spacing", "leading"]
    code, said, err = zoo_cli(
        "sample", export, "-n", 4, "--batch_size", 3, "--out", "c.png", *asked
    )
    assert code == 0, err
    assert "(ddim, 5 of 20 steps, leading spacing, eta 0.5, x0 clipped, guidance 2)" in said
    model = zoo.load(export)
    images = model.sample(
        4, steps=5, sampler="ddim", eta=0.5, labels=torch.tensor([1, 2, 1, 2]), guidance=2.0,
        spacing="leading",
    )  # fmt: skip
    grid = pixels("c.png")
    for i in range(4):
        top, left = 2 + 66 * (i // 2) + 4, 2 + 66 * (i % 2) + 4
        tile = grid[top : top + 60 : 8, left : left + 60 : 8].astype(int)
        expected = ((images[i] + 1) * 127.5).round().int().permute(1, 2, 0).numpy()
        assert np.abs(tile - expected).max() <= 1  # rounding across batch sizes


def test_our_own_format_goes_round(export, zoo_cli):
    code, _, err = zoo_cli("export", export, "again")
    assert code == 0, err
    a, b = zoo.load(export), zoo.load("again")
    assert all(torch.equal(x, b.state_dict()[k]) for k, x in a.state_dict().items())


@pytest.mark.filterwarnings("ignore")  # diffusers' own
def test_diffusers_loads_our_export_and_we_its(zoo_cli):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = zoo.DDPM(image_size=8, channels=1, width=8, multipliers=[1, 2], groups=4)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    zoo.save_pretrained(model, "ours")
    code, _, err = zoo_cli("export", "ours", "theirs", "--format", "diffusers")
    assert code == 0, err
    pipeline = diffusers.DDPMPipeline.from_pretrained("theirs")
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 900])
    with torch.no_grad():
        expected = model.eval()(x, t)
        torch.testing.assert_close(pipeline.unet(x, t).sample, expected, rtol=0, atol=1e-5)

    code, _, err = zoo_cli("import", "theirs", "back", "--format", "diffusers")
    assert code == 0, err
    back = zoo.load("back")
    with torch.no_grad():
        torch.testing.assert_close(back(x, t), expected, rtol=0, atol=1e-6)
    assert back.hparams["timesteps"] == 1000


def test_predict_writes_what_the_model_predicts(tiny, zoo_cli):
    short = ["--trainer.max_steps", 1, "--trainer.limit_val_batches", 0, "--run_dir", "run"]
    assert zoo_cli("fit", "-c", tiny, *short)[0] == 0
    limit = ["--trainer.limit_predict_batches", 2, "--data.val_batch_size", 3]
    code, _, err = zoo_cli("predict", "--ckpt_path", "run", *limit)
    assert code == 0, err
    images, _ = torch.load("run/predictions.pt", weights_only=True)
    assert images.shape == (3, 1, 8, 8)
