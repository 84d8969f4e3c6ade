"""Checkpoints of the original implementations, against restatements of their networks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.ddpm.networks import difference, loaded, randomise
from tests.ddpm.original_unets import OpenAIUNet, PesserUNet
from zoo.ddpm.interchange import from_openai, from_pesser


def same_outputs(
    theirs: nn.Module, hparams: dict[str, Any], state: dict[str, Tensor], *labels: Tensor
) -> None:
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 950])
    with torch.no_grad():
        expected = theirs(x, t, *labels)
        assert expected.std() > 0.05
        assert difference(loaded(hparams, state)(x, t, *labels), expected) < 1e-5


LAYOUTS = [([1, 2, 2, 2], 2, [1]), ([1, 1, 2], 1, [0, 2]), ([1], 2, [])]


@pytest.mark.parametrize(("mult", "blocks", "attention"), LAYOUTS)
def test_pesser_checkpoint(
    mult: list[int], blocks: int, attention: list[int], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    theirs = PesserUNet(32, mult, blocks, attention).eval()
    randomise(theirs)
    torch.save(theirs.state_dict(), tmp_path / "model.ckpt")
    hparams, state = from_pesser(tmp_path / "model.ckpt", image_size=16, dropout=0.1)
    assert (hparams["width"], hparams["multipliers"]) == (32, mult)
    assert (hparams["blocks"], hparams["attention_levels"]) == (blocks, attention)
    assert (hparams["variance"], hparams["dropout"]) == ("fixed_large", 0.1)
    same_outputs(theirs, hparams, state)


def test_pesser_has_the_parameters_of_hos_network() -> None:
    with torch.device("meta"):
        theirs = PesserUNet(128, [1, 2, 2, 2], 2, [1])
    assert sum(p.numel() for p in theirs.parameters()) == 35_746_307


def test_ddim_checkpoint_gives_its_averaged_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    raw, average = (PesserUNet(32, [1, 2], 1, [1]).eval() for _ in range(2))
    optimizer = torch.optim.Adam(raw.parameters())
    raw(torch.randn(1, 3, 8, 8), torch.tensor([3])).sum().backward()
    optimizer.step()
    prefixed = {f"module.{k}": v for k, v in raw.state_dict().items()}
    states = [prefixed, optimizer.state_dict(), 3, 1000, average.state_dict()]
    torch.save(states, tmp_path / "ckpt.pth")
    hparams, state = from_pesser(tmp_path / "ckpt.pth", image_size=16)
    same_outputs(average, hparams, state)
    torch.save(states[:4], tmp_path / "ckpt.pth")
    hparams, state = from_pesser(tmp_path / "ckpt.pth", image_size=16)
    same_outputs(raw, hparams, state)


@pytest.mark.parametrize(("mult", "blocks", "attention"), LAYOUTS)
@pytest.mark.parametrize("new_order", [False, True])
@pytest.mark.parametrize("heads", [1, 4])
def test_openai_checkpoint(
    mult: list[int],
    blocks: int,
    attention: list[int],
    new_order: bool,
    heads: int,
    tmp_path: Path,
) -> None:
    if heads > 1 and attention == [0, 2]:
        attention = [2]
    torch.manual_seed(0)
    theirs = OpenAIUNet(32, mult, blocks, attention, heads, new_order).eval()
    randomise(theirs)
    torch.save(theirs.state_dict(), tmp_path / "ema.pt")
    hparams, state = from_openai(
        tmp_path / "ema.pt", image_size=16, heads=heads, new_attention_order=new_order
    )
    assert (hparams["width"], hparams["multipliers"]) == (32, mult)
    assert (hparams["blocks"], hparams["attention_levels"]) == (blocks, attention)
    same_outputs(theirs, hparams, state)


def test_openai_head_dim_learned_variance_and_classes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = OpenAIUNet(32, [1, 1], 1, [0], heads=2, out=6, classes=5).eval()
    randomise(theirs)
    torch.save(theirs.state_dict(), tmp_path / "ema.pt")
    hparams, state = from_openai(
        tmp_path / "ema.pt",
        image_size=16,
        head_dim=16,
        timesteps=4000,
        rescaled_timesteps=False,
        schedule="cosine",
    )
    assert (hparams["variance"], hparams["num_classes"]) == ("learned_range", 5)
    assert (hparams["timesteps"], hparams["schedule"]) == (4000, "cosine")
    same_outputs(theirs, hparams, state, torch.tensor([0, 4]))
    rows = state["class_embedding.weight"]
    torch.testing.assert_close(rows[5], rows[:5].mean(dim=0))


def test_openai_networks_that_ours_is_not_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ema.pt"
    torch.save(OpenAIUNet(32, [1, 2], 1, [0], scale_shift=True).state_dict(), path)
    with pytest.raises(ValueError, match="use_scale_shift_norm"):
        from_openai(path, image_size=16)
    state = OpenAIUNet(32, [1, 2], 1, [0, 1], heads=4).state_dict()
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"heads have different widths .* \[32, 64\]"):
        from_openai(path, image_size=16, heads=4)
    with pytest.raises(ValueError, match="4000 timesteps rescaled"):
        from_openai(path, image_size=16, timesteps=4000)
    torch.save(state | {"surprise.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"unknown tensor surprise\.weight"):
        from_openai(path, image_size=16)
    without = {k: v for k, v in state.items() if not k.startswith("output_blocks.3")}
    torch.save(without, path)
    with pytest.raises(ValueError, match="3 output_blocks"):
        from_openai(path, image_size=16)
