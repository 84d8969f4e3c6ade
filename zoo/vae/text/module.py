"""A VAE of sentences as a LightningModule."""

from typing import Any, Literal

import torch
from torch import Tensor

from zoo.data.protocols import HasVocabulary, datamodule_of
from zoo.data.text.lines import TextBatch
from zoo.data.text.vocabulary import Vocabulary
from zoo.ranges import BelowOne, Count, InsideUnit, NonNegative, Positive, Whole, check_ranges
from zoo.training.log import is_logging_step, log_every
from zoo.training.optim import may_fuse
from zoo.training.plateau import Plateau
from zoo.vae.annealing import BetaSchedule, free_bits
from zoo.vae.batch_norm import BatchNormMode, GaussianHead
from zoo.vae.spherical_head import Concentration, SphericalHead
from zoo.vae.text.evaluation import Report
from zoo.vae.text.figures import Figures
from zoo.vae.text.networks import TextDecoder, TextEncoder, init_uniform
from zoo.vae.text.page import Pages

PosteriorName = Literal["gaussian", "vmf", "none"]
OptimizerName = Literal["sgd", "adam"]


class TextVAE(Figures, Pages):
    """A VAE of sentences with LSTMs: where the KL vanishes, and what keeps it.

    arXiv 1511.06349; kexue.fm/archives/8404 and 7381 tell why. A decoder that predicts each word
    from those before can do without z, and the KL falls to 0. That is what a Gaussian posterior
    does here; a von Mises-Fisher posterior of fixed concentration (arXiv 1808.10805), batch
    normalisation of the means (arXiv 2004.12585) and free bits (arXiv 1606.04934) keep the KL. The
    networks and the training are those of arXiv 1901.05534; all numbers are nats a sentence.

    >>> from zoo.data import Vocabulary
    >>> model = TextVAE(vocab_size=5, latent_dim=2, embedding=4, hidden=8)
    >>> model.use_vocabulary(Vocabulary("word", ["</s>", "<unk>", "a", "b", "c"]))
    >>> len(model.generate_text(3, max_length=4))
    3

    Args:
        vocab_size: Symbols of the vocabulary, `</s>` and `<unk>` among them; `zoo fit` counts the
            text's.
        end: Number of `</s>`: 0, or 256 at byte level.
        posterior: gaussian, vmf (on the sphere), or none: an LSTM language model.
        latent_dim: Numbers d of z; on the sphere the dimension of the space around it.
        concentration: How vmf is concentrated. fixed: kappa is a constant, and with it the KL;
            target_kl: the constant that has this KL; learned: kappa = softplus + 1 of the encoder's
            output.
        kappa: Concentration of vmf, for concentration=fixed.
        target_kl: KL of vmf in nats, for concentration=target_kl.
        batch_norm: Normalise a Gaussian posterior by batch: none, paper or su.
        bn_gamma: Scale of the means of paper: the KL is at least d gamma^2 / 2.
        bn_tau: Constant tau of su: the KL is at least d tau / 2.
        bn_eps: Added to a batch's variance. With weights as small as `init` the variances of the
            means begin near 1e-8, where PyTorch's 1e-5 would undo the normalisation and the bound.
        free_bits: Nats of each dimension's KL, in the mean over a batch, that cost nothing.
        beta: Last weight of the KL in the objective.
        beta_start: First weight.
        warmup_steps: Steps from the first weight to the last.
        cycle_steps: Steps after which the rise starts again; 0 for one rise.
        cycles: How often it rises.
        embedding: Numbers of a word's embedding.
        hidden: Numbers of an LSTM's state.
        dropout_in: Dropout of the decoder's embeddings.
        dropout_out: Dropout of the decoder's states.
        word_dropout: Share of the words before that the decoder reads as `<unk>`.
        init: Weights begin uniform in +- this.
        embedding_init: Embeddings begin uniform in +- this.
        optimizer: sgd or adam.
        lr: Learning rate.
        lr_decay: Multiplier of lr when the validation loss stops improving.
        lr_patience: Validations in vain before that, those of the warm-up not counted; 0 keeps lr.
        max_decays: How often.
        log_density_samples: Importance samples for each sentence in a test.
    """

    def __init__(
        self,
        *,
        vocab_size: Count = 10_000,
        end: Whole = 0,
        posterior: PosteriorName = "gaussian",
        latent_dim: Count = 32,
        concentration: Concentration = "learned",
        kappa: Positive | None = None,
        target_kl: Positive | None = None,
        batch_norm: BatchNormMode = "none",
        bn_gamma: Positive = 0.6,
        bn_tau: InsideUnit = 0.5,
        bn_eps: Positive = 1e-14,
        free_bits: NonNegative = 0.0,
        beta: NonNegative = 1.0,
        beta_start: NonNegative = 0.0,
        warmup_steps: Whole = 0,
        cycle_steps: Whole = 0,
        cycles: Count = 4,
        embedding: Count = 512,
        hidden: Count = 1024,
        dropout_in: BelowOne = 0.5,
        dropout_out: BelowOne = 0.5,
        word_dropout: BelowOne = 0.0,
        init: NonNegative = 0.01,
        embedding_init: NonNegative = 0.1,
        optimizer: OptimizerName = "sgd",
        lr: Positive = 1.0,
        lr_decay: InsideUnit = 0.5,
        lr_patience: Whole = 5,
        max_decays: Whole = 5,
        log_density_samples: Count = 500,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_ranges(type(self), self.hparams)
        self._check()
        self.latent_dim = 0 if posterior == "none" else latent_dim
        self.space = "sphere" if posterior == "vmf" else "euclidean"
        self.dimensions = 1  # one sentence: bits a dimension are bits a sentence
        self.decoded_numbers = 32 * vocab_size  # logits of a sentence of some 32 words
        self.schedule = BetaSchedule(beta, beta_start, warmup_steps, cycle_steps, cycles)
        self.plateau = Plateau(lr_decay, lr_patience, max_decays)
        self.vocab_size, self.word_dropout = vocab_size, word_dropout
        self.free_bits, self.warmup_steps = free_bits, warmup_steps
        self.optimizer, self.lr = optimizer, lr
        self.log_density_samples = log_density_samples
        self.decoder = TextDecoder(
            vocab_size,
            end=end,
            latent_dim=self.latent_dim,
            embedding=embedding,
            hidden=hidden,
            dropout_in=dropout_in,
            dropout_out=dropout_out,
        )
        if posterior != "none":
            self.encoder = TextEncoder(vocab_size, embedding, hidden)
        if posterior == "gaussian":
            norm: Any = {"batch_norm": batch_norm, "gamma": bn_gamma, "tau": bn_tau, "eps": bn_eps}
            self.head = GaussianHead(hidden, latent_dim, **norm)
        elif posterior == "vmf":
            self.head = SphericalHead(
                hidden, [latent_dim], concentration=concentration, kappa=kappa, target_kl=target_kl
            )
        init_uniform(self, init, embedding_init)
        self.val_report, self.test_report = Report(self, "val"), Report(self, "test")
        self.register_buffer("symbols", torch.zeros(0, dtype=torch.uint8))

    def _check(self) -> None:
        given = self.hparams
        if given["end"] >= given["vocab_size"]:
            raise ValueError(f"end={given['end']}: must be below vocab_size={given['vocab_size']}")
        of_spheres = (("kappa", None), ("target_kl", None), ("concentration", "learned"))
        others = [(name, off, "vmf") for name, off in of_spheres]
        for name, off, wanted in (("batch_norm", "none", "gaussian"), *others):
            if given["posterior"] != wanted and given[name] != off:
                raise ValueError(
                    f"{name}={given[name]} has no effect on posterior={given['posterior']}: it is "
                    f"for {wanted}"
                )
        constant = given["posterior"] == "vmf" and given["concentration"] != "learned"
        if given["free_bits"] and (constant or given["posterior"] == "none"):
            raise ValueError(
                f"free_bits={given['free_bits']} has no effect where the KL is a constant"
            )

    # Training

    def training_step(self, batch: TextBatch, batch_idx: int) -> Tensor:
        """The objective of a batch: -log p(x|z) + beta KL, with free bits; logs the bound too."""
        if not self.latent_dim:
            loss = -self.log_likelihood(batch, self.codes(batch)).mean()
            log_every(self, {"train/objective": loss, "train/bound": -loss})
            return loss
        q = self.posterior(batch)
        z, _ = q.draw(torch.randn(1, len(batch.tokens), q.noise_dim, device=self.device))
        reconstruction = self.log_likelihood(batch, z).mean()
        beta = self.schedule(self.global_step if self._trainer is not None else 0)
        parts = q.kl_per_dimension()
        loss = beta * free_bits(parts, self.free_bits) - reconstruction
        if is_logging_step(self):
            kl = parts.sum(1).mean()
            values: dict[str, Tensor | float] = {
                "train/objective": loss,
                "train/bound": reconstruction - kl,
                "train/reconstruction": reconstruction,
                "train/kl": kl,
                "train/beta": beta,
            }
            log_every(self, values)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD or Adam over all parameters."""
        kind = torch.optim.SGD if self.optimizer == "sgd" else torch.optim.Adam
        return kind(self.parameters(), lr=self.lr, fused=may_fuse(self))

    def on_validation_epoch_end(self) -> None:
        """Logs val/loss, the bound, and its parts; the learning rate may fall."""
        loss = self.val_report.log(self)
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            step, optimizer = self.global_step, self.trainer.optimizers[0]
            warming = step < self.warmup_steps
            self.plateau.update(loss, step, optimizer, wait=warming)
            self.log("lr", optimizer.param_groups[0]["lr"], sync_dist=True)

    # Words and checkpoints

    def setup(self, stage: str) -> None:
        """Takes the words of the data, which must be the model's."""
        data = datamodule_of(self.trainer)
        if isinstance(data, HasVocabulary) and isinstance(data.vocabulary, Vocabulary):
            self.use_vocabulary(data.vocabulary)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Names the class, for `zoo.load`, and keeps what the learning rate waits for."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["plateau"] = self.plateau.save()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with the learning rate's schedule; the data must have the checkpoint's words."""
        words = checkpoint["state_dict"].get("symbols")
        if words is not None and len(self.symbols) and not torch.equal(words, self.symbols.cpu()):
            raise ValueError("the data has other words than the checkpoint was trained on")
        if "plateau" in checkpoint:
            self.plateau.load(checkpoint["plateau"])
