"""The verbs of this room: embed, similar, paraphrase, mine-pairs; the docstrings are their help."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy as np
from torch import Tensor

from zoo.data.cache import remembered
from zoo.data.sentences.mapped import MappedTexts, TextsWriter
from zoo.data.text.tasks import Executor
from zoo.files import beside, keep_read, naming, replacing
from zoo.loading import device_of, find_checkpoint, load
from zoo.memory import check_memory
from zoo.ranges import Count, PositiveShare, Range, Seed, Temperature, Whole
from zoo.reading import numbered_lines
from zoo.simbert.approximate import Backend
from zoo.simbert.encoder import Encoder
from zoo.simbert.index import SentenceIndex, fingerprint
from zoo.simbert.mining import mine, mine_lines
from zoo.training.distributed import place
from zoo.training.parts import in_parts
from zoo.tuning.inference import Work, in_precision
from zoo.tuning.settings import Precision
from zoo.untrusted import sha256

Device = Literal["auto", "cpu", "cuda"]
_BATCHES = 16  # of a part of the vectors
_LINES = 65_536  # whose tokens are counted together


def _model(ckpt: str, device: Device, method: str) -> Any:
    model: Any = load(ckpt).to(device_of(device))
    if not isinstance(getattr(model, "net", None), Encoder) or not hasattr(model, method):
        raise ValueError(f"{type(model).__name__} cannot {method}: give a sentence model")
    if not len(model.tokenizer):
        raise ValueError(f"{ckpt} has no vocabulary")
    return model


def _lines(path: str, output: str) -> tuple[MappedTexts, str]:
    """All lines, mapped from files without a name on the disk of the output; their digest."""
    beside = Path(os.path.realpath(output)).parent
    found = False
    # A device's folder is no disk, and one that is not there yet is made when all is done.
    usual = os.path.lexists(output) and not os.path.isfile(output)
    with TemporaryDirectory(dir=None if usual or not beside.is_dir() else beside) as folder:
        stem = Path(folder, "lines")
        with TextsWriter(stem) as writer:
            for _, line in numbered_lines(path):
                writer.add(line)
                found = found or bool(line.strip())
        if not found:
            raise _no_sentence(path)
        digest = " ".join(sha256(Path(f"{stem}{end}")) for end in (".bin", ".ends"))
        return MappedTexts(stem), digest


def _corpus(path: str) -> Iterator[str]:
    """The lines that are not empty."""
    found = False
    for _, line in numbered_lines(path):
        if line.strip():
            found = True
            yield line
    if not found:
        raise _no_sentence(path)


def _no_sentence(path: str) -> ValueError:
    where = "standard input" if path == "-" else path
    return ValueError(f"{where} has no sentence: give one a line")


def _tell_cut(model: Any, lines: Sequence[str], max_length: int | None) -> None:
    """Says how many lines are cut, and where."""
    length = model.length() if max_length is None else max_length
    count = 0
    for start in range(0, len(lines), _LINES):
        part = lines[start : start + _LINES]
        count += round(model.tokenizer.share_cut(part, length) * len(part))
    if count:
        many = f"{count} of {len(lines)} lines are"
        own = " (the model's own length)" if max_length is None else ""
        sys.stderr.write(f"zoo: {many} cut at {length} tokens{own}: --max_length\n")


def embed_work(items: int, *, int8: bool = False) -> Work:
    """What `zoo embed` does with so many sentences of 4 to 31 tokens."""

    def run(model: Any, n: int) -> Tensor:
        words = len(model.tokenizer)
        rows = [[(7 * i + j) % words for j in range(4 + i % 28)] for i in range(n)]
        return model.encode([model.tokenizer.decode(row) for row in rows], batch_size=n)

    return Work("embed", run, items, ("bf16", "int8") if int8 else ("bf16",))


def embed(
    ckpt: str,
    *,
    input: str,
    output: str = "vectors.npy",
    batch_size: Count = 64,
    max_length: Count | None = None,
    dim: Count | None = None,
    normalize: bool = True,
    device: Device = "auto",
    precision: Precision = "32",
) -> None:
    """Sentence vectors of the lines of a file, as a float32 array of NumPy, a row a line.

    Some lines at a time, which several processes share under torchrun; what is done is kept beside
    the output until all of it is, and a command that is given again goes on from there.

    Args:
        ckpt: A .ckpt file, a run directory, an exported folder or a model's name.
        input: Text file of one sentence a line; - for standard input.
        output: The .npy to write; - for standard output.
        batch_size: Sentences at a time.
        max_length: Tokens after which a sentence is cut; the model's own length if not given.
        dim: The first so many features only, for a model trained with matryoshka.
        normalize: Scale to length 1.
        device: Where to compute; auto takes a GPU if there is one.
        precision: Precision of the network; int8 quantises the linear layers, on a CPU; auto takes
            precision and threads as measured on this machine (zoo tune), now if not before.
    """
    options = {name: value for name, value in locals().items() if name != "output"}
    keep_read("--output", output, input, ckpt)
    rank, processes = place()
    if processes > 1 and input == "-":
        raise ValueError(f"{processes} processes cannot share standard input: give --input FILE")
    with naming(Path(output)):
        lines, digest = _lines(input, output)
    model = _model(ckpt, device, "encode")
    if rank == 0:
        _tell_cut(model, lines, max_length)

    def make(start: int, stop: int) -> Tensor:
        return model.encode(
            lines[start:stop],
            batch_size=batch_size,
            max_length=max_length,
            dim=dim,
            normalize=normalize,
        )

    size = _BATCHES * batch_size  # lines of like lengths share a batch
    with (
        in_precision(model, precision, embed_work(batch_size)) as setting,
        in_parts(
            output,
            make,
            len(lines),
            size,
            options
            | {
                "ckpt": find_checkpoint(ckpt),
                "lines": digest,
                "precision": setting.precision,
            },
        ) as parts,
        replacing(output) as temporary,
        temporary.open("wb") as file,
    ):
        for number, part in enumerate(parts):
            if not number:
                shape = (len(lines), part.shape[1])
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(part.numpy().astype("<f4").tobytes())
    print(f"{shape[0]} vectors of {shape[1]} features in {output}", file=beside(output))


def similar(
    ckpt: str,
    *,
    query: str | list[str],
    input: str | None = None,
    index: str | None = None,
    k: Count = 10,
    batch_size: Count = 64,
    backend: Backend = "exact",
    device: Device = "auto",
) -> None:
    """The nearest sentences of a corpus to each query, with their cosines.

    An index is mapped from its folder, which no query changes, so that memory does not grow with
    it. What faiss makes of it is made once, beside the vectors, and its recall is told.

    Args:
        ckpt: A .ckpt file, a run directory, an exported folder or a model's name.
        query: A sentence, or a list of them.
        input: The corpus: a text file of one sentence a line; - for standard input.
        index: Folder of the corpus's vectors: written if input is given too, else read.
        k: How many.
        batch_size: Sentences at a time.
        backend: exact compares with all; of faiss, where it is installed, hnsw is a graph, ivfpq
            lists of short codes, and faiss what suits the size.
        device: Where to compute; auto takes a GPU if there is one.
    """
    if input is None and index is None:
        raise ValueError("which corpus? give --input FILE, or --index FOLDER of an earlier run")
    model = _model(ckpt, device, "encode")
    if input is None:
        assert index is not None
        corpus = SentenceIndex.load(index)
        source = find_checkpoint(ckpt)
        files = sorted(source.iterdir()) if source.is_dir() else [source]
        corpus.check(remembered(files, "fingerprint", lambda: fingerprint(model)))
    else:
        lines = _corpus(input)
        if index is None:
            corpus = model.index(dict.fromkeys(lines), batch_size=batch_size, progress=True)
        else:
            corpus = model.index(lines, index, batch_size=batch_size, progress=True)
        _tell_cut(model, corpus.texts, None)
    queries = [query] if isinstance(query, str) else query
    options = {"k": k, "batch_size": batch_size, "backend": backend, "progress": True}
    nearest = model.nearest(queries, corpus, **options)
    if near := corpus.approximate(backend):
        sys.stderr.write(f"zoo: {near.told}\n")
    for text, row in zip(queries, nearest, strict=True):
        if len(queries) > 1:
            print(text)
        for found, cosine in row:
            print(f"{cosine:.4f}  {found}")


def paraphrase(
    ckpt: str,
    text: str,
    *,
    n: Count = 100,
    k: Count = 20,
    top_p: PositiveShare = 0.95,
    top_k: Whole = 0,
    temperature: Temperature = 1.0,
    beams: Whole = 0,
    max_new: Count = 64,
    seed: Seed = 0,
    batch_size: Count = 256,
    unfinished: Literal["drop", "mark"] = "drop",
    device: Device = "auto",
) -> None:
    """Sentences that say the same as TEXT, the nearest first, with their cosines.

    Args:
        ckpt: A .ckpt file, a run directory, an exported folder or a model's name.
        text: The sentence; [MASK] in it stands for a token to fill in.
        n: Sentences to generate.
        k: Sentences to show, at most.
        top_p: Nucleus sampling: least tokens with this probability; 1 for all.
        top_k: Most tokens to choose from; 0 for all.
        temperature: Temperature of the sampling; 0 is greedy.
        beams: Beam search of this width instead of sampling, without the arguments that are of
            sampling; 0 for sampling.
        max_new: Most tokens of a sentence.
        seed: Seed of the draws.
        batch_size: Sentences at a time.
        unfinished: Sentences that reach max_new: drop them, or mark them with "...".
        device: Where to compute; auto takes a GPU if there is one.
    """
    # A sentence is a list of its tokens, eight bytes each, then its text and its vector.
    check_memory(f"--n={n}", n * (8 * max_new + 200))
    found = _model(ckpt, device, "paraphrase").paraphrase(
        text,
        n,
        k,
        top_p=top_p,
        top_k=top_k,
        temperature=temperature,
        beams=beams,
        max_new=max_new,
        seed=seed,
        batch_size=batch_size,
        unfinished=unfinished,
    )
    for one in found:
        print(f"{one.similarity:.4f}  {one.text}{'' if one.finished else ' ...'}")
    if not found:
        print("no sentence but copies: try --n, --temperature or --unfinished mark")


def mine_pairs(
    kind: Literal["answers", "documents", "lines", "catalogues"],
    source: str | list[str],
    *,
    output: str = "pairs.jsonl",
    threshold: PositiveShare | None = None,
    recall: PositiveShare | None = None,
    shortest: Count = 6,
    longest: Count = 64,
    processes: Annotated[int, Range(1, 1024)] = 1,
    executor: Executor | None = None,
    tasks: Count = 1,
) -> None:
    """Groups of similar sentences out of texts that were not written as such.

    answers: sentences of answers to one question (JSONL of {"question": ..., "answers": [...]});
    documents: sentences of one document (JSONL of {"text": ...}, or text files in which an empty
    line ends a document), for which a higher threshold is due (kexue.fm/archives/8454);
    lines: all alike lines of a corpus (text files, or JSONL of {"text": ...}), of millions by
    MinHash, of up to 10,000 by comparing all;
    catalogues: translations of one message in installed zh_CN and zh_TW message catalogues (.mo
    files, or folders of them such as /usr/share/locale).

    Args:
        kind: answers, documents, lines or catalogues.
        source: A file or folder, or a list of them.
        output: The JSONL to write, for SimilarGroups.
        threshold: Least similarity of a pair (multiset Jaccard of characters); 0.5, and 0.8 of
            lines, if not given; not for catalogues.
        recall: Of lines, the least share of the pairs at the threshold that is expected to be
            found, more alike ones more often: 0.95 if not given; 1 compares all with all.
        shortest: Least characters of a sentence.
        longest: Most characters of a sentence.
        processes: Processes that work in parallel.
        executor: Of lines, shares the work out to tasks of datatrove (an extra): local, slurm or
            ray; all machines must see the folder of the output.
        tasks: How many tasks.
    """
    paths = [source] if isinstance(source, str) else source
    missing = [path for path in paths if not Path(path).exists()]
    if missing:
        raise FileNotFoundError(f"no such file or folder: {missing[0]}")
    keep_read("--output", output, *paths)
    if tasks != 1 and executor is None:
        raise ValueError(f"--tasks={tasks}: give --executor local, slurm or ray")
    sources = [Path(path) for path in paths]
    others = {"recall": recall, "executor": executor, "tasks": tasks != 1}
    if kind == "catalogues":
        others["threshold"] = threshold
    if kind == "lines":
        mined = mine_lines(
            sources,
            Path(output),
            threshold=threshold or 0.8,
            recall=recall or 0.95,
            shortest=shortest,
            longest=longest,
            processes=processes,
            executor=executor,
            tasks=tasks,
        )
        print(f"{len(mined.pairs):,} pairs in {output}: {mined.words()}")
        return
    if strange := [name for name, given in others.items() if given]:
        raise ValueError(f"--{strange[0]} means nothing to zoo mine-pairs {kind}: leave it out")
    count = mine(
        kind,
        sources,
        Path(output),
        threshold=threshold or 0.5,
        shortest=shortest,
        longest=longest,
        processes=processes,
    )
    print(f"{count} groups in {output}")
