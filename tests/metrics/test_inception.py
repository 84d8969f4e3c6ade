"""Inception from a user's file: found, checked, loaded without unpickling code."""

from pathlib import Path

import pytest
import torch

from zoo.metrics import inception
from zoo.metrics.features import load_extractor
from zoo.untrusted import sha256


def test_a_missing_file_says_what_to_fetch_and_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        load_extractor("inception")
    message = str(error.value)
    assert f"{tmp_path}/hub/checkpoints" in message
    assert all(name in message for name in inception.FILES)
    assert "\n" not in message


@pytest.mark.parametrize("name", inception.FILES)
def test_both_published_names_are_found(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(b"")
    assert inception.find_weights(None) == folder / name
    assert inception.find_weights(str(folder)) == folder / name
    assert inception.find_weights(str(folder / name)) == folder / name


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / inception.FILES[0]
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"not the published Inception file \(sha256"):
        load_extractor("inception", weights=str(path))


def test_without_the_package_the_fix_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    path = tmp_path / inception.FILES[0]
    path.write_bytes(b"weights")
    monkeypatch.setattr(inception, "SHA256_PREFIX", sha256(path)[:8])
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ImportError, match=r"pip install lightning-model-zoo\[inception\]"):
        load_extractor("inception", weights=str(path))


@pytest.mark.slow
def test_features_follow_the_published_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    # The network with random weights: the 2015 ones cannot be had without a network.
    monkeypatch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
    torch.manual_seed(0)
    theirs = module.FeatureExtractorInceptionV3("peer", ["2048"])
    monkeypatch.undo()
    path = tmp_path / inception.FILES[0]
    torch.save(theirs.state_dict(), path)
    monkeypatch.setattr(inception, "SHA256_PREFIX", sha256(path)[:8])

    extractor = load_extractor("inception", weights=str(path))
    assert extractor.sha256 == sha256(path)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    ours = extractor(images, batch_size=2)
    assert ours.shape == (3, 2048)
    torch.testing.assert_close(ours, theirs(images)[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"inception takes images with 3 channels, these have 1"):
        extractor(images[:, :1])
