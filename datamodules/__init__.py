"""LightningDataModules: data sets that the models train on."""

from datamodules.folder import ImageFolder
from datamodules.image_data import ImageBatch, ImageData
from datamodules.images import CIFAR10, MNIST, Digits, FashionMNIST
from datamodules.language import Language, LanguageBatch
from datamodules.masked import MaskedBatch, MaskedSentences
from datamodules.pixels import to_float, to_uint8
from datamodules.sentences import Sentences, TextBatch
from datamodules.vocabulary import Vocabulary

__all__ = [
    "CIFAR10",
    "MNIST",
    "Digits",
    "FashionMNIST",
    "ImageBatch",
    "ImageData",
    "ImageFolder",
    "Language",
    "LanguageBatch",
    "MaskedBatch",
    "MaskedSentences",
    "Sentences",
    "TextBatch",
    "Vocabulary",
    "to_float",
    "to_uint8",
]
