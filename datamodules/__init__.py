"""LightningDataModules: data sets that the models train on."""

from datamodules.folder import ImageFolder
from datamodules.image_data import ImageBatch, ImageData
from datamodules.images import CIFAR10, MNIST, STL10, Digits, FashionMNIST
from datamodules.language import StreamBatch, Text
from datamodules.masked import MaskedBatch, MaskedSentences
from datamodules.pixels import to_float, to_uint8
from datamodules.sentence_pairs import LabelledPairs, Sentences, SimilarGroups
from datamodules.sentences import TextBatch, TextLines
from datamodules.synthetic import Synthetic
from datamodules.toy2d import PointBatch, Toy2D
from datamodules.vocabulary import Vocabulary

__all__ = [
    "CIFAR10",
    "MNIST",
    "STL10",
    "Digits",
    "FashionMNIST",
    "ImageBatch",
    "ImageData",
    "ImageFolder",
    "LabelledPairs",
    "MaskedBatch",
    "MaskedSentences",
    "PointBatch",
    "Sentences",
    "SimilarGroups",
    "StreamBatch",
    "Synthetic",
    "Text",
    "TextBatch",
    "TextLines",
    "Toy2D",
    "Vocabulary",
    "to_float",
    "to_uint8",
]
