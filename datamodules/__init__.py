"""LightningDataModules: data sets that the models train on."""

from datamodules.folder import ImageFolder
from datamodules.image_data import ImageBatch, ImageData
from datamodules.images import CIFAR10, MNIST, STL10, Digits, FashionMNIST
from datamodules.pixels import to_float, to_uint8
from datamodules.toy2d import PointBatch, Toy2D

__all__ = [
    "CIFAR10",
    "MNIST",
    "STL10",
    "Digits",
    "FashionMNIST",
    "ImageBatch",
    "ImageData",
    "ImageFolder",
    "PointBatch",
    "Toy2D",
    "to_float",
    "to_uint8",
]
