import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from zoo import VAE, VMFVAE
from zoo.layers.counter_rng import normal
from zoo.vae.generation import slerp

SMALL = {"image_size": [4, 5], "channels": 1, "hidden": [12, 8]}


def gaussian(seed=0, **options):
    torch.manual_seed(seed)
    return VAE(**{**SMALL, "latent_dim": 3, **options}).eval()


def spherical(seed=0, **options):
    torch.manual_seed(seed)
    return VMFVAE(**{**SMALL, "spheres": [3], **options}).eval()


def images(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 4, 5, generator=g) * 2 - 1


@pytest.mark.parametrize("pixels", ["mean", "draw"])
@pytest.mark.parametrize("make", [gaussian, spherical])
def test_samples_do_not_depend_on_the_batch_split(make, pixels):
    model = make()
    whole = model.sample(5, seed=2**40, pixels=pixels)
    parts = [model.sample(2, seed=2**40, pixels=pixels)]
    parts.append(model.sample(3, seed=2**40, first=2, pixels=pixels))
    torch.testing.assert_close(torch.cat(parts), whole)
    assert whole.shape == (5, 1, 4, 5)
    assert whole.abs().max() <= 1


def test_a_sample_is_the_decoders_mean_of_a_prior_code():
    model = gaussian()
    z = normal(3, torch.arange(4), 0, (3,))
    expected = 2 * model.decoder(z).sigmoid() - 1
    torch.testing.assert_close(model.sample(4, seed=3), expected)


def test_reconstruction_is_of_the_likeliest_code():
    model = gaussian()
    x = images(4)
    q = model.posterior(x)
    torch.testing.assert_close(model.reconstruct(x), 2 * model.decoder(q.mean).sigmoid() - 1)
    torch.testing.assert_close(model(x), model.reconstruct(x))


def test_slerp_is_the_textbooks_and_stays_on_the_sphere():
    g = torch.Generator().manual_seed(0)
    a, b = torch.nn.functional.normalize(torch.randn(2, 6, 4, generator=g).double(), dim=-1)
    t = torch.linspace(0, 1, 5).double()
    omega = (a * b).sum(-1, keepdim=True).acos()
    s = t[:, None, None]
    expected = (((1 - s) * omega).sin() * a + (s * omega).sin() * b) / omega.sin()
    torch.testing.assert_close(slerp(a, b, t), expected)


@pytest.mark.parametrize("end", ["same", "near", "opposite"])
def test_slerp_of_points_without_a_direction(end):
    a = torch.tensor([[0.6, 0.8, 0.0]])
    b = {"same": a, "near": a + 1e-7, "opposite": -a}[end]
    path = slerp(a, b, torch.linspace(0, 1, 9))
    torch.testing.assert_close(path.norm(dim=-1), torch.ones(9, 1))
    torch.testing.assert_close(path[0], a)
    torch.testing.assert_close(path[-1], b, rtol=0, atol=1e-6)
    steps = (path[1:] - path[:-1]).norm(dim=-1)
    torch.testing.assert_close(steps, steps[:1].expand(8, 1), rtol=1e-3, atol=1e-6)


def test_lengths_of_gaussian_codes_go_in_a_line():
    a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    middle = slerp(a, b, torch.tensor([0.5]))
    torch.testing.assert_close(middle, torch.full((1, 1, 2), 2 * math.sqrt(0.5)))


def test_interpolation_ends_at_the_reconstructions():
    for model in (gaussian(), spherical(), spherical(spheres=[3, 2])):
        a, b = images(3), images(3, seed=1)
        path = model.interpolate(a, b, steps=4)
        assert path.shape == (3, 4, 1, 4, 5)
        torch.testing.assert_close(path[:, 0], model.reconstruct(a), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(path[:, -1], model.reconstruct(b), rtol=1e-4, atol=1e-5)


def test_traversal_moves_one_coordinate(monkeypatch):
    model, seen = gaussian(), []
    monkeypatch.setattr(model, "decode", lambda z: (seen.append(z), model.decoder(z))[1])
    z = torch.tensor([0.5, -0.25, 2.0])
    assert model.traverse(z, steps=7).shape == (3, 7, 1, 4, 5)
    codes = torch.cat(seen).reshape(3, 7, 3)
    for j in range(3):
        torch.testing.assert_close(codes[j, :, j], torch.linspace(-3, 3, 7))
        others = [i for i in range(3) if i != j]
        torch.testing.assert_close(codes[j][:, others], z[others].expand(7, 2))


def test_traversal_of_a_sphere_goes_round_great_circles(monkeypatch):
    model, seen = spherical(), []
    monkeypatch.setattr(model, "decode", lambda z: (seen.append(z), model.decoder(z))[1])
    z = torch.tensor([2.0, -1.0, 2.0]) / 3
    model.traverse(z, steps=9)
    for j, path in enumerate(torch.cat(seen).reshape(3, 9, 3)):
        torch.testing.assert_close(path.norm(dim=1), torch.ones(9))
        torch.testing.assert_close(path[4], z)
        torch.testing.assert_close(torch.linalg.matrix_rank(path, atol=1e-5), torch.tensor(2))
        # All of a quarter to each side, in the plane of z and the axis.
        torch.testing.assert_close(path @ z, torch.linspace(-math.pi / 2, math.pi / 2, 9).cos(),
                                   rtol=0, atol=1e-6)  # fmt: skip
        assert path[-1][j] == path[-1].max()


def test_manifolds_weigh_the_prior_evenly(monkeypatch):
    model, seen = gaussian(latent_dim=2), []
    monkeypatch.setattr(model, "decode", lambda z: (seen.append(z), model.decoder(z))[1])
    assert model.manifold(4, 6).shape == (4, 6, 1, 4, 5)
    codes = torch.cat(seen).reshape(4, 6, 2)
    torch.testing.assert_close(torch.special.ndtr(codes[0, :, 0]), (torch.arange(6) + 0.5) / 6)
    torch.testing.assert_close(torch.special.ndtr(codes[:, 0, 1]), 1 - (torch.arange(4) + 0.5) / 4)

    globe, seen = spherical(), []
    monkeypatch.setattr(globe, "decode", lambda z: (seen.append(z), globe.decoder(z))[1])
    globe.manifold(10, 12)
    codes = torch.cat(seen)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(120))
    # Of the uniform law: E z = 0 and E z z^T = I / 3.
    torch.testing.assert_close(codes.mean(0), torch.zeros(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(codes.T @ codes / 120, torch.eye(3) / 3, rtol=0, atol=0.01)
    assert spherical(spheres=[2]).manifold(3, 5).shape == (1, 5, 1, 4, 5)
    with pytest.raises(ValueError, match="sphere codes of 3\\+3"):
        spherical(spheres=[3, 3]).manifold()


def test_a_globe_is_the_sphere_of_three_axes(monkeypatch):
    three, many = spherical(), spherical(spheres=[5, 2, 3])
    codes = {}
    for model in (three, many):
        seen = codes[model] = []
        decoder = model.decoder
        monkeypatch.setattr(
            model, "decode", lambda z, seen=seen, decoder=decoder: (seen.append(z), decoder(z))[1]
        )
    assert many.globe(10, 12).shape == (10, 12, 1, 4, 5)
    three.manifold(10, 12)
    found = torch.cat(codes[many])
    assert torch.equal(found[:, :3], torch.cat(codes[three]))
    assert torch.equal(found[:, 3:], torch.tensor([0.0, 0, 1, 0, 1, 0, 0]).expand(120, 7))
    for model in (spherical(spheres=[2, 3]), gaussian(latent_dim=4)):
        with pytest.raises(ValueError, match="a globe is drawn of a sphere in R\\^3 or more"):
            model.globe()


def test_reconstructions_are_below_their_images():
    model = gaussian(binarization="dynamic")
    x = images(20)
    grid, columns = model.pictures("reconstructions", n=20, images=x)
    assert columns == 16
    assert len(grid) == 64
    shown = model.prepare(x, torch.arange(20))
    torch.testing.assert_close(grid[:16], shown[:16])
    torch.testing.assert_close(grid[16:32], model.reconstruct(x)[:16])
    torch.testing.assert_close(grid[32:36], shown[16:])
    assert (grid[36:48] == -1).all()


def test_from_the_command(zoo_cli, mistake):
    Path("vae.yaml").write_text(
        "model: {class_path: zoo.VMFVAE, init_args: {image_size: 8, levels: 17, spheres: [3], "
        "hidden: [8]}}\ndata: {class_path: zoo.data.Digits, init_args: {batch_size: 50}}\n"
        "trainer: {max_steps: 1, log_every_n_steps: 1, enable_progress_bar: false}\n"
    )
    code, _, err = zoo_cli("fit", "-c", "vae.yaml", "--run_dir", "run")
    assert code == 0, err
    sizes = {
        "prior": (6, [], (3, 2)),
        "reconstructions": (6, [], (6, 2)),
        "interpolation": (6, ["--steps", 5, "--data", "Digits"], (5, 3)),
        "traversals": (6, ["--steps", 5], (5, 3)),
        "manifold": (6, ["--steps", 4], (4, 4)),
    }
    for kind, (n, more, (columns, rows)) in sizes.items():
        out = f"{kind}.png"
        code, _, err = zoo_cli("sample", "run", "-n", n, "--kind", kind, "--out", out, *more)
        assert code == 0, err
        with Image.open(out) as picture:
            assert picture.size == (columns * 66 + 2, rows * 66 + 2), kind
    Path("pictures").mkdir()
    for i in range(40):
        Image.new("RGB", (20, 30), (6 * i,) * 3).save(f"pictures/{i}.png")
    flags = ["--kind", "reconstructions", "-n", 2, "--root", "pictures"]
    code, _, err = zoo_cli("sample", "run", *flags, "--data", "ImageFolder", "--out", "own.png")
    assert code == 0, err  # at the model's size
    with Image.open("own.png") as picture:
        assert picture.size == (2 * 66 + 2, 2 * 66 + 2)
    line = "MNIST has images of 1x28x28, the model of 1x8x8"
    assert line in mistake("sample", "run", *flags, "--data", "MNIST")
    assert "choose prior" in mistake("sample", "run", "--kind", "dream")
    assert "did you mean Digits" in mistake(
        "sample", "run", "--kind", "reconstructions", "--data", "Digit"
    )


@pytest.mark.parametrize("make", [gaussian, spherical])
def test_images_and_codes_of_other_types(make):
    model, x = make(), images(2)
    for given in ((127 * x + 127).to(torch.uint8), x[0], x.flatten(1)):
        with pytest.raises(ValueError, match="images of"):
            model.encode(given)
        with pytest.raises(ValueError, match="images of"):
            model.log_density(given, samples=2)
    torch.testing.assert_close(model.encode(x.double()), model.encode(x), rtol=0, atol=0)
    code = torch.tensor([1, 0, 0])
    assert torch.equal(model.images_of(code), model.images_of(code[None].float())[0])
    assert torch.equal(model.traverse(code, 3), model.traverse(code.float(), 3))
    with pytest.raises(ValueError, match=r"a code of shape \(2,\)"):
        model.traverse(torch.zeros(2))
