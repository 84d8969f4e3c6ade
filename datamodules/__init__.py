"""LightningDataModules: data sets that the models train on."""

from datamodules.folder import ImageFolder
from datamodules.image_data import ImageBatch, ImageData
from datamodules.images import CIFAR10, MNIST, Digits, FashionMNIST

__all__ = [
    "CIFAR10",
    "MNIST",
    "Digits",
    "FashionMNIST",
    "ImageBatch",
    "ImageData",
    "ImageFolder",
]
