"""LightningDataModules: data sets that the models train on."""

from datamodules.folder import ImageFolder
from datamodules.image_data import ImageBatch, ImageData
from datamodules.images import CIFAR10, MNIST, Digits, FashionMNIST
from datamodules.pixels import to_float, to_uint8
from datamodules.sentence_pairs import LabelledPairs, Sentences, SimilarGroups

__all__ = [
    "CIFAR10",
    "MNIST",
    "Digits",
    "FashionMNIST",
    "ImageBatch",
    "ImageData",
    "ImageFolder",
    "LabelledPairs",
    "Sentences",
    "SimilarGroups",
    "to_float",
    "to_uint8",
]
