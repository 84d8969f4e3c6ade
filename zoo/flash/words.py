"""The symbols of the training text, kept with the weights."""

from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.text.vocabulary import Vocabulary

MASK = "[MASK]"  # in a text, the symbol to guess


class Words(nn.Module):
    """A vocabulary as a buffer, so that a checkpoint alone can read and write text.

    Args:
        size: Number of symbols that the model has.
        extra: How many of these are the model's own, such as a mask, after the text's.
    """

    symbols: Tensor

    def __init__(self, size: int, extra: int = 0) -> None:
        super().__init__()
        self.size, self.extra = size, extra
        self._vocabulary: Vocabulary | None = None
        self.register_buffer("symbols", torch.zeros(0, dtype=torch.uint8))

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols, as the training data had them."""
        if not len(self.symbols):
            raise ValueError("this model has no symbols yet: train it on text, or give numbers")
        if self._vocabulary is None:
            self._vocabulary = Vocabulary.unpack(self.symbols.cpu().numpy().tobytes())
        return self._vocabulary

    def use(self, vocabulary: Vocabulary) -> None:
        """Takes the data's symbols, which must be as many as the model has numbers for, and its."""
        needed = len(vocabulary) + self.extra
        if needed != self.size:
            raise ValueError(
                f"the data has {len(vocabulary)} symbols"
                + (f", with the model's own {needed}" if self.extra else "")
                + f", but the model {self.size}: set --model.vocab_size={needed}"
            )
        if len(self.symbols) and self.vocabulary != vocabulary:
            raise ValueError(
                f"the data has other symbols ({vocabulary.level}, {vocabulary.digest[:12]}) than "
                f"the model was trained on ({self.vocabulary.level}, {self.vocabulary.digest[:12]})"
            )
        packed = torch.frombuffer(bytearray(vocabulary.pack()), dtype=torch.uint8)
        self.symbols = packed.to(self.symbols.device)
        self._vocabulary = vocabulary

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        symbols = state_dict.get(f"{prefix}symbols")
        if symbols is not None:  # as many bytes as the symbols take
            self.symbols = symbols.new_empty(symbols.shape, device=self.symbols.device)
            self._vocabulary = None
            if len(symbols):
                words = Vocabulary.unpack(symbols.cpu().numpy().tobytes())
                if len(words) + self.extra != self.size:
                    raise ValueError(f"has {len(words)} symbols for {self.size - self.extra}")
                self._vocabulary = words
        super()._load_from_state_dict(state_dict, prefix, *args)
