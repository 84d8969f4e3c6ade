"""MADE against what it must be: no output sees its own pixel, and the masses add up to 1."""

import itertools

import torch
from mymodels import MADE


def test_no_output_sees_its_own_pixel_or_a_later_one():
    torch.manual_seed(0)
    model = MADE(image_size=3, levels=4, hidden=50).double()
    x = torch.randn(1, 1, 3, 3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(model, x).reshape(9, 4, 9).abs().sum(1)
    assert torch.equal(jacobian.tril(-1), jacobian)
    assert (jacobian.tril(-1) > 0).sum() == 36  # and sees all before it


def test_the_masses_of_all_images_add_up_to_one():
    torch.manual_seed(0)
    model = MADE(image_size=2, levels=3, hidden=16).double()
    images = torch.tensor(list(itertools.product([-1.0, 0.0, 1.0], repeat=4)), dtype=torch.float64)
    total = model.log_prob(images.reshape(-1, 1, 2, 2)).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0)


def test_samples_have_the_model_s_law():
    torch.manual_seed(0)
    model = MADE(image_size=2, levels=2, hidden=8)
    images = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4))).reshape(-1, 1, 2, 2)
    n = 20_000
    drawn = (model.sample(n, seed=1).flatten(1) > 0).long() @ torch.tensor([8, 4, 2, 1])
    share = torch.bincount(drawn, minlength=16) / n
    p = model.log_prob(images).exp()
    assert ((share - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all()
