"""Data that are not what a model was made for."""

from contextlib import nullcontext

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

import zoo
from zoo.data import Digits

SMALL = {"image_size": 8, "channels": 1, "levels": 17}
MODELS = {
    "ddpm": lambda **more: zoo.DDPM(
        **SMALL, width=8, groups=4, multipliers=[1], attention_levels=[], blocks=1, **more
    ),
    "vae": lambda: zoo.VAE(**SMALL),
    "vmf-vae": lambda: zoo.VMFVAE(**SMALL),
    "wgan": lambda **more: zoo.WGAN(
        network="dcgan",
        latent_dim=4,
        generator_widths=[8, 4],
        critic_widths=[4, 6],
        n_critic=1,
        critic_batch=20,
        **SMALL,
        **more,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_grey_levels_of_a_loader_are_no_images(name: str) -> None:
    """They are scaled to [-1, 1] by the DataModule, which the Trainer must have."""
    data = Digits(batch_size=20, val_batch_size=20)
    data.setup("fit")
    parts = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}

    def trainer() -> Trainer:
        return Trainer(accelerator="cpu", max_steps=1, limit_val_batches=1, **parts)

    def model() -> LightningModule:
        return MODELS[name]()

    no_images = pytest.raises(ValueError, match=r"images of torch.uint8: .*datamodule=data")
    with no_images:
        trainer().fit(model(), data.train_dataloader())
    with no_images:
        trainer().validate(model(), data.val_dataloader())
    with no_images if name != "wgan" else nullcontext():  # which counts what it is to draw
        trainer().predict(model(), data.val_dataloader())
    trainer().fit(model(), datamodule=data)
    images = torch.zeros(40, 1, 8, 8)
    with pytest.raises(ValueError, match=r"a batch is a tensor: .*\(images, \.\.\.\)"):
        trainer().fit(model(), DataLoader(images, 20))


@pytest.mark.parametrize("name", ["ddpm", "wgan"])
def test_a_model_of_classes_needs_labels(name: str) -> None:
    made = MODELS[name](num_classes=3)
    with pytest.raises(ValueError, match="a batch without labels, for a model of 3 classes"):
        made.validation_step([torch.zeros(20, 1, 8, 8)], 0)
