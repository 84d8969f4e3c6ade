"""A PyTorch Lightning zoo of the models in eight kexue.fm posts."""

__version__ = "0.1.0"
