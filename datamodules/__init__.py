"""LightningDataModules: data sets that the models train on."""

from datamodules.folder import ImageFolder
from datamodules.image_data import ImageBatch, ImageData
from datamodules.images import CIFAR10, MNIST, Digits, FashionMNIST
from datamodules.language import StreamBatch, Text
from datamodules.masked import MaskedBatch, MaskedSentences
from datamodules.pixels import to_float, to_uint8
from datamodules.sentences import Sentences, TextBatch
from datamodules.synthetic import Synthetic
from datamodules.vocabulary import Vocabulary

__all__ = [
    "CIFAR10",
    "MNIST",
    "Digits",
    "FashionMNIST",
    "ImageBatch",
    "ImageData",
    "ImageFolder",
    "MaskedBatch",
    "MaskedSentences",
    "Sentences",
    "StreamBatch",
    "Synthetic",
    "Text",
    "TextBatch",
    "Vocabulary",
    "to_float",
    "to_uint8",
]
