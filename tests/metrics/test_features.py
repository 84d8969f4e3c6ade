"""The extractors: what they accept, what they know about themselves, and that they can see."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from zoo.data import Digits
from zoo.metrics import train_features
from zoo.metrics.feature_net import FeatureNet
from zoo.metrics.features import ASSETS, FEATURE_NETS, load_extractor, load_feature_net
from zoo.metrics.frechet import FeatureMoments, frechet_distance


@pytest.mark.parametrize("name", FEATURE_NETS)
def test_shipped_nets_say_what_they_are(name: str) -> None:
    path = ASSETS / f"{name}.safetensors"
    assert path.stat().st_size <= 400_000
    net, about = load_feature_net(path)
    assert about["name"] == name
    assert name in about["command"]
    assert float(about["test_accuracy"]) > (0.7 if name == "cifar-net" else 0.89)
    extractor = load_extractor(name)
    assert extractor.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert extractor.size == tuple(map(int, about["size"].split(",")))
    assert not isinstance(extractor, nn.Module)
    assert not any(p.requires_grad for p in net.parameters())


def test_digits_net_has_the_accuracy_that_it_states() -> None:
    net, about = load_feature_net(ASSETS / "digits-net.safetensors")
    data = Digits(val_batch_size=360)
    assert f"{train_features.accuracy(net, data, 'test'):.4f}" == about["test_accuracy"]


def test_features_are_those_of_the_trunk_whatever_the_batch_size() -> None:
    images = Digits().reference_images("test", 50)
    net, _ = load_feature_net(ASSETS / "digits-net.safetensors")
    expected = net.features(images.double().sub(127.5).div(127.5).float())
    extractor = load_extractor("digits-net")
    for batch_size in (7, 256):
        ours = extractor(images, batch_size)
        assert ours.shape == (50, 64)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_images_of_another_size_are_resized() -> None:
    images = Digits().reference_images("test", 20)
    large = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    extractor = load_extractor("digits-net")
    # antialiased bilinear halving mixes neighbours a little: close, not equal
    a, b = extractor(images), extractor(large)
    assert torch.nn.functional.cosine_similarity(a, b).min() > 0.6


def test_the_distance_grows_with_the_damage() -> None:
    data = Digits()
    extractor = load_extractor("digits-net")
    test = data.reference_images("test")
    generator = torch.Generator().manual_seed(0)

    def distance(images: torch.Tensor) -> float:
        moments = [FeatureMoments(64), FeatureMoments(64)]
        for moment, part in zip(moments, (test, images), strict=True):
            moment.update(extractor(part))
        return float(frechet_distance(*moments))

    train = data.reference_images("train", 360)
    noise = torch.randn(train.shape, generator=generator)
    distances = [
        distance((train + noise * sigma).round().clamp(0, 255).to(torch.uint8))
        for sigma in (0, 16, 32, 64, 128)
    ]
    assert distances == sorted(distances)
    assert distances[-1] > 20 * distances[0]


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="no extractor 'digit-net': choose one of digits-net"):
        load_extractor("digit-net")
    with pytest.raises(ValueError, match="comes with its weights"):
        load_extractor("digits-net", weights="x.pth")
    extractor = load_extractor("digits-net")
    with pytest.raises(ValueError, match=r"takes images with 1 channel, these have 3: use cifar"):
        extractor(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


def test_training_writes_a_net_that_has_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = train_features.Recipe("a test", (8, 16), epochs=5, batch_size=64)
    monkeypatch.setitem(train_features.RECIPES, "digits-net", recipe)
    outputs = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.safetensors"
        train_features.main(["digits-net", "--out", str(path), "--seed", "1"])
        net, about = load_feature_net(path)
        outputs.append(net.state_dict())
        assert float(about["test_accuracy"]) > 0.8  # chance is 0.1
        assert f"'test_accuracy': '{about['test_accuracy']}'" in capsys.readouterr().out
    assert all(torch.equal(value, outputs[1][key]) for key, value in outputs[0].items())


def test_feature_net_halves_the_resolution_before_each_pair() -> None:
    net = FeatureNet(channels=3, widths=(4, 6, 8), num_classes=5)
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    shapes = []
    for layer in net.trunk:
        layer.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[1:])))
    net.features(torch.zeros(2, 3, 32, 32))
    assert shapes[2] == (4, 32, 32)
    assert shapes[9] == (6, 16, 16)
    assert shapes[-1] == (8, 8, 8)
