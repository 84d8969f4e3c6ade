"""The numbers of a TextVAE on validation and test text, and how they were made."""

import math

import torch
from torch import Tensor

from zoo.data.protocols import HasSplits, datamodule_of
from zoo.data.text.lines import TextBatch
from zoo.layers.counter_rng import normal
from zoo.layers.precision import wide
from zoo.training.averages import Averages, added
from zoo.vae.density.pareto import UNRELIABLE
from zoo.vae.diagnostics import LatentStatistics
from zoo.vae.text.networks import by_sentence, shift
from zoo.vae.text.text_model import TextModel

EVALUATION_SEED = 8404  # a sentence meets the same noise in every epoch and run
_BOUND = 2**20  # the stream of the bound's one draw, beyond those of a density's samples


class Report:
    """Sums of one stage, val or test, over sentences and processes."""

    def __init__(self, model: TextModel, stage: str) -> None:
        self.stage = stage
        names = ["elbo", "words"]
        self.latent: LatentStatistics | None = None
        if model.latent_dim:
            names += ["reconstruction", "kl"]
            head = model.head
            self.latent = LatentStatistics(stage, model.latent_dim, head.kl_parts, head.space)
        if stage == "val":
            names += ["loss"]
        else:
            names += ["log_density"]
            names += ["standard_error", "ess", "unreliable"] if model.latent_dim else []
        self.averages = Averages(*(f"{stage}/{name}" for name in names))
        self.count = 0
        self.kl: Tensor | None = None
        """After `log`: KL of each dimension or sphere, nats a sentence."""
        self.places: Tensor | None = None
        """After `log`: nats and number of the words at each place of this process, (2, T)."""
        self._places: Tensor | None = None

    def add(self, model: TextModel, batch: TextBatch) -> None:
        """Adds a batch; its noise is a function of the sentences' numbers."""
        values: dict[str, Tensor] = {"words": batch.lengths}
        if not model.latent_dim:
            exact = self._likelihood(model, batch, model.codes(batch))
            values["elbo"] = values["log_density"] = exact
        else:
            q = model.posterior(batch)
            z, _ = q.draw(normal(EVALUATION_SEED, batch.index, _BOUND, (q.noise_dim,))[None])
            assert self.latent is not None
            self.latent.add(q, z[0])
            values["kl"] = q.kl()
            likelihood = self._likelihood(model, batch, z)
            if self.stage == "val":
                values["elbo"] = likelihood - values["kl"]
            else:
                estimate = model.log_density(batch, seed=EVALUATION_SEED)
                values |= {
                    "elbo": estimate.elbo,
                    "log_density": estimate.log_density,
                    "standard_error": estimate.standard_error,
                    "ess": estimate.ess,
                    "unreliable": (estimate.pareto_k > UNRELIABLE).double(),
                }
            values["reconstruction"] = values["elbo"] + values["kl"]
        values["loss"] = -values["elbo"]
        sums = {f"{self.stage}/{name}": value for name, value in values.items()}
        self.averages.add({name: sums[name] for name in self.averages.names})

    def _likelihood(self, model: TextModel, batch: TextBatch, z: Tensor) -> Tensor:
        """Log p(x|z) of each sentence, (B,), for a code z (1, B, d); keeps it by place too."""
        (B, T), real, decoder = batch.tokens.shape, batch.real, model.decoder
        inputs = shift(batch.tokens, decoder.end)
        losses = decoder.word_losses(batch.tokens, inputs, real, z)[0]
        both = torch.stack([losses, torch.ones_like(losses)]).to(wide(losses.device))
        places = both.new_zeros(2, T).index_add(1, real % T, both)
        self._places = added(places, self._places)
        return -by_sentence(losses[None], real, B, T)[0]

    def log(self, model: TextModel) -> float:
        """Logs the means and the perplexities; returns the mean of -elbo."""
        self.count = self.averages.log(model, prog_bar=self.stage == "val")
        if self.latent is not None:
            self.kl = self.latent.log(model).kl_per_dimension
        self.places, self._places = self._places, None
        stage, metrics = self.stage, model.trainer.callback_metrics
        bound, words = -metrics[f"{stage}/elbo"], metrics[f"{stage}/words"]
        perplexities = {f"{stage}/perplexity_bound": torch.exp(bound / words)}
        if stage == "test":
            nats = -metrics["test/log_density"] / words
            perplexities["test/perplexity"] = torch.exp(nats)
        model.log_dict(perplexities, sync_dist=True)
        return float(bound)

    def protocol(self, model: TextModel) -> dict[str, str]:
        """How the numbers of a test were made."""
        count = f"{self.count} sentences" if self.count else "all sentences"
        where = f"test split, {count}, nats a sentence, its end included"
        lines = {
            "test/log_density": f"{where}, exact",
            "test/perplexity": "exp(-log_density / words), a sentence's end being one of its words",
        }
        if not model.latent_dim:
            return lines
        assert self.latent is not None
        return {
            "test/log_density": (
                f"{where}, importance sampling with {model.log_density_samples} samples "
                f"of q(z|x) (seed {EVALUATION_SEED})"
            ),
            "test/perplexity": lines["test/perplexity"],
            "test/perplexity_bound": "the same of elbo",
            "test/kl": "closed form; reconstruction is elbo + kl, elbo the mean log weight",
            "test/unreliable": f"share of sentences with Pareto-k above {UNRELIABLE}",
            "test/mutual_information": f"mixture over batches of {self.latent.batch}",
        }


class Evaluation(TextModel):
    """How good a model of sentences is: bound, log p(x), perplexity, and its latent code."""

    val_report: Report
    test_report: Report

    def validation_step(self, batch: TextBatch, batch_idx: int) -> None:
        """Adds to the numbers of the validation."""
        self.val_report.add(self, batch)

    def test_step(self, batch: TextBatch, batch_idx: int) -> None:
        """Adds to the numbers of the test."""
        self.test_report.add(self, batch)

    def on_test_epoch_end(self) -> None:
        """Logs the test's numbers, beside a model that knows how frequent words are."""
        self.test_report.log(self)
        data = datamodule_of(self.trainer)
        if isinstance(data, HasSplits):
            splits = (data.split("train"), data.split("test"))
            train, test = (torch.from_numpy(split.symbols).long() for split in splits)
            nats = unigram(train, test, self.vocab_size)
            sentence = nats * len(test) / len(splits[1])
            baseline = {"baseline/log_density": -sentence, "baseline/perplexity": math.exp(nats)}
            self.log_dict(baseline, sync_dist=True)

    def protocol(self) -> dict[str, str]:
        """How the numbers of a test were made."""
        how = "test split, each word coded by its count in the training split, counts from 1"
        return {**self.test_report.protocol(self), "baseline/perplexity": how}


def unigram(train: Tensor, test: Tensor, vocab_size: int) -> float:
    """Nats a word of test text (M,) coded by the words' counts in training text (N,), from 1."""
    counts = torch.bincount(train, minlength=vocab_size).double() + 1
    return float(-(counts / counts.sum()).log()[test].mean())
