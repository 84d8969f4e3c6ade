"""LightningDataModules: data sets that the models train on."""

from zoo.data.images.base import ImageBatch, ImageData
from zoo.data.images.folder import ImageFolder
from zoo.data.images.pixels import to_float, to_uint8
from zoo.data.images.published import CIFAR10, MNIST, STL10, Digits, FashionMNIST
from zoo.data.sentences.pairs import LabelledPairs, Sentences, SimilarGroups
from zoo.data.synthetic import Synthetic
from zoo.data.text.language import StreamBatch, Text
from zoo.data.text.lines import TextBatch, TextLines
from zoo.data.text.masked import MaskedBatch, MaskedSentences
from zoo.data.text.vocabulary import Vocabulary
from zoo.data.toy2d import PointBatch, Toy2D

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
