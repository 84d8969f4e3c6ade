"""LSTM encoder and decoder of sentences (arXiv 1511.06349), as arXiv 1901.05534 uses them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Numbers that a decoder without gradients holds at a time: 64 MB of float32.
_ROOM = 2**24


class TextEncoder(nn.Module):
    """The last state of an LSTM over a sentence's words.

    >>> encoder = TextEncoder(vocab_size=5, embedding=4, hidden=8)
    >>> encoder(torch.tensor([[2, 3, 0]]), torch.tensor([3])).shape
    torch.Size([1, 8])
    """

    def __init__(self, vocab_size: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Tokens (B, T) of these lengths (B,) to (B, H).

        Padding stands on the right, where an LSTM that reads from the left does not see it before
        the state that is taken.
        """
        states, _ = self.lstm(self.embedding(tokens))
        last = (lengths - 1)[:, None, None].expand(-1, 1, states.shape[2])
        return states.gather(1, last)[:, 0]


def by_sentence(losses: Tensor, real: Tensor, B: int, T: int) -> Tensor:
    """Sums (K, B) over the sentences of what N of the B T words have, (K, N); `real` says which."""
    sentence = torch.div(real, T, rounding_mode="floor")
    return losses.new_zeros(len(losses), B).index_add(1, sentence, losses)


class TextDecoder(nn.Module):
    """An LSTM that reads z beside every word and starts from it.

    The first word is predicted from the end of a sentence. Without a latent code (d = 0) it is an
    LSTM language model. The arguments are those of `TextVAE`.

    >>> decoder = TextDecoder(
    ...     5, end=0, latent_dim=2, embedding=4, hidden=8, dropout_in=0.0, dropout_out=0.0
    ... )
    >>> tokens = torch.tensor([[2, 3, 0]])
    >>> decoder.log_prob(tokens, shift(tokens, 0), torch.arange(3), torch.zeros(4, 1, 2)).shape
    torch.Size([4, 1])
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        end: int,
        latent_dim: int,
        embedding: int,
        hidden: int,
        dropout_in: float,
        dropout_out: float,
    ) -> None:
        super().__init__()
        self.end, self.latent_dim = end, latent_dim
        self.embedding = nn.Embedding(vocab_size, embedding)
        self.lstm = nn.LSTM(embedding + latent_dim, hidden, batch_first=True)
        self.dropout_in, self.dropout_out = nn.Dropout(dropout_in), nn.Dropout(dropout_out)
        if latent_dim:
            self.initial = nn.Linear(latent_dim, hidden, bias=False)
        self.projection = nn.Linear(hidden, vocab_size, bias=False)

    def begin(self, z: Tensor) -> tuple[Tensor, Tensor] | None:
        """The state (1, R, H), (1, R, H) before the first word, for z (R, d)."""
        if not self.latent_dim:
            return None
        cell = self.initial(z)[None]
        return torch.tanh(cell), cell

    def read(
        self, tokens: Tensor, z: Tensor, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """States (K B, T, H) after each of the tokens (B, T), for z (K, B, d), and the last one."""
        K, B, _ = z.shape
        x = self.dropout_in(self.embedding(tokens)).expand(K, *tokens.shape, -1)
        if self.latent_dim:
            code = z[:, :, None].expand(-1, -1, tokens.shape[1], -1)
            x = torch.cat([x, code.to(x.dtype)], dim=-1)
        states, last = self.lstm(x.reshape(K * B, *x.shape[2:]), state)
        return self.dropout_out(states), last

    def log_prob(self, targets: Tensor, inputs: Tensor, real: Tensor, z: Tensor) -> Tensor:
        """Log probabilities of sentences, teacher-forced.

        Args:
            targets: (B, T), padded on the right.
            inputs: What was read before each of them, (B, T).
            real: Which of the B T targets are no padding, by row, (N,); no others are projected on
                the vocabulary, which is most of the work.
            z: (K, B, d); with d = 0, K = 1.

        Returns:
            float32, (K, B), in nats.
        """
        (K, B, _), T = z.shape, targets.shape[1]
        if not torch.is_grad_enabled():
            rows = max(1, _ROOM // (B * T * 8 * self.lstm.hidden_size))
            if rows < K:
                parts = torch.split(z, rows)
                return torch.cat([self.log_prob(targets, inputs, real, part) for part in parts])
        losses = self.word_losses(targets, inputs, real, z)
        return -by_sentence(losses, real, B, T)

    def word_losses(self, targets: Tensor, inputs: Tensor, real: Tensor, z: Tensor) -> Tensor:
        """-log p of each word that is no padding, float32 (K, N); arguments as of `log_prob`."""
        (K, B, _), T = z.shape, targets.shape[1]
        states, _ = self.read(inputs, z, self.begin(z.flatten(0, 1)))
        states = states.reshape(K, B * T, -1).index_select(1, real)
        words = targets.flatten().index_select(0, real).expand(K, -1)
        return self._losses(states.flatten(0, 1), words.flatten()).reshape(K, -1)

    def _losses(self, states: Tensor, words: Tensor) -> Tensor:
        """-log p(word) after states (N, H), float32 (N,)."""
        size = len(states)
        if not torch.is_grad_enabled():
            size = max(1, _ROOM // self.projection.out_features)
        parts = [
            F.cross_entropy(self.projection(s).float(), w, reduction="none")
            for s, w in zip(torch.split(states, size), torch.split(words, size), strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def shift(tokens: Tensor, end: int) -> Tensor:
    """What is read before each token: the end of the sentence before, then the tokens (B, T)."""
    return torch.cat([torch.full_like(tokens[:, :1], end), tokens[:, :-1]], dim=1)


def init_uniform(module: nn.Module, width: float, embedding_width: float) -> None:
    """Weights and biases uniform in +- width, those of embeddings in +- embedding_width."""
    for part in module.modules():
        if isinstance(part, nn.Embedding | nn.Linear | nn.LSTM):
            bound = embedding_width if isinstance(part, nn.Embedding) else width
            for parameter in part.parameters(recurse=False):
                nn.init.uniform_(parameter, -bound, bound)
