"""What the zoo holds: models, configs and verbs. Imports nothing heavy: `zoo list` is quick."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

MIXED_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
ALL_PRECISIONS = (*MIXED_PRECISIONS, "64-true", "bf16-true", "16-true")


@dataclass(frozen=True)
class Model:
    """One row of the zoo.

    Args:
        name: Public class name, `zoo.<name>`.
        module: Module that defines the class.
        config: Shipped config to begin with.
        paper: arXiv id.
        post: Number of the kexue.fm post.
        line: What it is, in one line.
        precisions: Values of the Trainer's `precision` that the model trains in.
        exchange: Module with the `EXPORTERS` and `IMPORTERS` of foreign formats, if any.
    """

    name: str
    module: str
    config: str
    paper: str
    post: int
    line: str
    precisions: tuple[str, ...] = MIXED_PRECISIONS
    exchange: str | None = None


@dataclass(frozen=True)
class Command:
    """A verb of the command line beside Lightning's own.

    Args:
        function: "module:name"; its arguments are the verb's, its docstring is the help.
        line: What it does, in one line.
        short: Short options and what they stand for.
        many: Whether what stands without an option is one list.
        texts: Arguments that may be empty.
        rest: An option that is the list of all options which the function does not have.
        stream: The option that writes to standard output where it is given as -.
        shared: Whether the processes that torchrun or srun started share its work; of another verb
            the first one does it.
    """

    function: str
    line: str
    short: dict[str, str] = field(default_factory=dict)
    many: bool = False
    texts: tuple[str, ...] = ()
    rest: str | None = None
    stream: str | None = None
    shared: bool = False


MODELS = {
    model.name: model
    for model in [
        Model(
            "DDPM",
            "zoo.ddpm.module",
            "ddpm/digits",
            "2006.11239",
            9119,
            "denoising diffusion: DPM-Solver++, DDIM and ancestral sampling, bits/dim, guidance",
            precisions=ALL_PRECISIONS,
            exchange="zoo.ddpm.interchange",
        ),
        Model(
            "VAE",
            "zoo.vae.module",
            "vae/digits",
            "1312.6114",
            8791,
            "variational autoencoder: IWAE, DReG, batch norm, densities with error bars",
        ),
        Model(
            "FlashLM",
            "zoo.flash.module_lm",
            "flash/shakespeare",
            "2202.10447",
            8934,
            "FLASH language model: linear time, decoding with a constant state, GAU, baselines",
            precisions=ALL_PRECISIONS,
            exchange="zoo.flash.interchange",
        ),
        Model(
            "FlashMLM",
            "zoo.flash.module_mlm",
            "flash/mlm-zh",
            "2202.10447",
            8934,
            "FLASH masked language model, fill-mask and classifier; reads GAU-alpha",
            precisions=ALL_PRECISIONS,
            exchange="zoo.flash.interchange",
        ),
        Model(
            "VMFVAE",
            "zoo.vae.module_vmf",
            "vae/vmf-digits",
            "1804.00891",
            8404,
            "variational autoencoder on the sphere: kappa fixed, by its KL, or learned",
        ),
        Model(
            "TextVAE",
            "zoo.vae.text.module",
            "vae/text-shakespeare",
            "1511.06349",
            8404,
            "VAE of sentences: KL vanishing, and vMF, batch norm and free bits against it",
        ),
        Model(
            "WGAN",
            "zoo.wgan.module",
            "wgan/8gaussians-gp",
            "1701.07875",
            8757,
            "Wasserstein GAN under any Lipschitz constraint, beside the exact distance",
        ),
        Model(
            "SimBERT",
            "zoo.simbert.module",
            "simbert/demo",
            "1905.03197",
            7427,
            "one encoder that retrieves similar sentences and writes them: BERT + UniLM",
            exchange="zoo.simbert.exchange",
        ),
        Model(
            "RoFormerSim",
            "zoo.simbert.roformer_sim",
            "simbert/roformer-sim",
            "2104.09864",
            8454,
            "SimBERT on RoFormer, with BART-like noise and distillation",
            exchange="zoo.simbert.exchange",
        ),
        Model(
            "SentenceSimilarity",
            "zoo.simbert.similarity",
            "simbert/cosent",
            "1908.10084",
            8541,
            "sentence vectors from labelled pairs: Sentence-BERT's head, CoSENT, cosine losses",
            exchange="zoo.simbert.exchange",
        ),
    ]
}

DATA = (
    "CIFAR10",
    "Digits",
    "FashionMNIST",
    "ImageFolder",
    "LabelledPairs",
    "MNIST",
    "MaskedSentences",
    "STL10",
    "Sentences",
    "SimilarGroups",
    "Synthetic",
    "Text",
    "TextLines",
    "Toy2D",
)  # the DataModules of zoo.data

TRAINER_VERBS = {
    "fit": "train a model (resume with --ckpt_path last)",
    "validate": "evaluate a checkpoint on the validation split",
    "test": "the headline numbers of a checkpoint, with their protocol",
    "predict": "run a checkpoint over the data's prediction split",
}

COMMANDS = {
    "sample": Command(
        "zoo.cli.commands:sample",
        "draw images from a checkpoint into one PNG grid, or sentences",
        {"-n": "--n", "-o": "--out"},
        stream="out",
        shared=True,
    ),
    "generate": Command(
        "zoo.flash.commands:generate",
        "continue a text",
        {"-p": "--prompt", "-n": "--tokens"},
        texts=("prompt",),
    ),
    "embed": Command(
        "zoo.simbert.commands:embed",
        "sentence vectors of the lines of a file",
        {"-i": "--input", "-o": "--output"},
        stream="output",
        shared=True,
    ),
    "similar": Command(
        "zoo.simbert.commands:similar",
        "the nearest sentences of a corpus",
        {"-i": "--input", "-k": "--k"},
    ),
    "paraphrase": Command(
        "zoo.simbert.commands:paraphrase",
        "write sentences that say the same",
        {"-n": "--n", "-k": "--k"},
    ),
    "mine-pairs": Command(
        "zoo.simbert.commands:mine_pairs",
        "find similar sentences in answers, documents, lines or message catalogues",
        {"-o": "--output"},
    ),
    "export": Command("zoo.cli.commands:export", "write a checkpoint as safetensors or diffusers"),
    "push": Command("zoo.cli.push:push", "export a checkpoint to a repository of a hub"),
    "import": Command(
        "zoo.cli.commands:import_", "read foreign weights into a folder of the zoo's own"
    ),
    "density": Command(
        "zoo.vae.density.command:density",
        "log p(x) of each datum, with error bars",
        {"-o": "--out"},
        stream="out",
        shared=True,
    ),
    "compress": Command(
        "zoo.vae.coding.command:compress",
        "images into one lossless file, by a VAE",
        {"-o": "--out"},
    ),
    "decompress": Command(
        "zoo.vae.coding.command:decompress", "the images of such a file", {"-o": "--out"}
    ),
    "evaluate": Command(
        "zoo.cli.evaluating:evaluate",
        "compare two folders or .npy of images: Fréchet distance, KID, precision, recall",
        {"-o": "--out"},
    ),
    "report": Command(
        "zoo.report.command:report",
        "runs as one page: curves, samples, results, config, machine",
        {"-o": "--out"},
        many=True,
    ),
    "plot": Command(
        "zoo.report.command:plot",
        "the curves of runs for a paper: .png, .pdf or .svg",
        {"-o": "--out"},
        many=True,
    ),
    "serve": Command(
        "zoo.serve.command:serve", "a page in a browser to play with a model", {"-p": "--port"}
    ),
    "tune": Command(
        "zoo.cli.tune:tune",
        "the fastest precision, memory format and threads on this machine (-c X, or CKPT)",
        {"-o": "--out"},
        rest="train",
    ),
    "prepare": Command(
        "zoo.cli.preparing:prepare",
        "make memory-mapped files of a corpus or of pictures (text, pictures)",
    ),
    "study": Command(
        "zoo.studies.wasserstein.command:study",
        "measure what a post says: tables and figures (wasserstein)",
    ),
}


def nearest(name: str, names: Iterable[str]) -> str:
    """A question with the nearest of `names`, or all of them when none is near."""
    names = list(names)
    found = near(name, names)
    return f"did you mean {found}?" if found else f"known: {', '.join(names)}"


def near(name: str, names: Iterable[str]) -> str | None:
    """The name that was meant: with a letter or two wrong, or cut short; None if none is near."""
    lower = {n.lower(): n for n in names}
    name = name.lower()
    begun = [n for n in lower if len(name) > 1 and n.startswith(name)]
    close = difflib.get_close_matches(name, lower, n=1, cutoff=0.6)
    return lower[(close or [*begun, ""])[0]] if close or len(begun) == 1 else None
