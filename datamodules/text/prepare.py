"""Preparing a corpus of any size: its vocabulary and its symbols, in parallel and resumable.

Workers read and encode pieces, this process writes what they give, in order, so that memory holds
a few pieces and what is left by a kill is a beginning, from which the same command goes on.
"""

import hashlib
import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

from zoo.data.cache import INDEX, cache_folder, check_ours, key_of, locked
from zoo.data.remote import at_hand
from zoo.data.text.corpus import Corpus, saved_dataset
from zoo.data.text.files import kind_of, text_files
from zoo.data.text.pieces import Documents, Reading, encode
from zoo.data.text.store import Store
from zoo.data.text.tasks import Executor, TaskPool
from zoo.data.text.vocabularies import KINDS, bar_of, make_vocabulary, tokenizer_file
from zoo.data.text.vocabulary import Subwords, Vocabulary
from zoo.data.text.writer import Writer
from zoo.data.workers import Pool, cores
from zoo.files import naming, replacing

_KEY = "[0-9a-f]" * 16
_OURS = rf"(unpacked|tasks)-{_KEY}|vocabulary-{_KEY}\.json"  # what is there before the first shard
_STEP, _SMALL_STEP = 2**22, 2**18  # bytes of a piece; of subwords, whose library takes much memory


def prepare(
    root: str,
    out: Path | None,
    *,
    tokenizer: str,
    vocabulary_size: int | None = None,
    min_count: int = 1,
    documents: Documents = "file",
    column: str = "text",
    processes: int | None = None,
    vocabulary: Vocabulary | None = None,
    executor: Executor | None = None,
    tasks: int = 1,
) -> Store:
    """The numbers of a text, prepared now unless they are there.

    Args:
        root: The text, as `--data.root`, or `hf:NAME` of what `datasets` streams.
        out: Folder to write; one of the cache's if not given.
        tokenizer: byte, char, word, wordpunct, bpe, unigram or a tokenizer.json.
        vocabulary_size: Most symbols of a vocabulary that is made.
        min_count: Least count of its symbols.
        documents: What a document of plain text is.
        column: Where the text of rows is.
        processes: How many; as many as there are cores if not given.
        vocabulary: A trained model's, to use instead.
        executor: Which of datatrove's works on the pieces; processes of this machine if not given.
        tasks: How many tasks of it share them.

    Raises:
        FileNotFoundError: There is no text, or a shard is missing.
        ValueError: The text cannot be read, or `out` holds something else.
        OSError: The disk is full; what is written stays, and the same call goes on.

    Of a text that cannot be read nothing stays, so that the same call takes the mended one.
    """
    root = at_hand(root)
    made = {
        "source": fingerprint(root),
        "tokenizer": vocabulary.digest if vocabulary is not None else _named(tokenizer),
        "vocabulary_size": vocabulary_size,
        "min_count": min_count,
        "documents": documents,
        "column": column,
    }
    home = cache_folder() / key_of(made["source"]) if out is None else out
    if out is not None:
        check_ours(out, made, "text", _OURS)
    with naming(home), locked(home, "text"):
        if out is not None and (out / INDEX).is_file():
            return Store(out)

        def open_corpus(level: str) -> Corpus:
            return Corpus(root, column, documents != "file" or level != "byte", home)

        file = home / f"vocabulary-{key_of(made)}.json"
        shared = home / f"tasks-{key_of(made)}"
        pool = Pool(processes or cores())
        if executor is not None:
            pool = TaskPool(executor, tasks, shared, processes)
        with pool:
            if not file.is_file():
                words = vocabulary or make_vocabulary(
                    open_corpus(tokenizer), tokenizer, vocabulary_size, min_count, documents, pool
                )
                with replacing(file) as path:
                    path.write_bytes(words.pack())
            words = Vocabulary.read(file)
            folder = out or home / key_of([words.digest, documents, column])
            if not (folder / INDEX).is_file():
                how = Reading(documents, column, str(file), words.level)
                _write(open_corpus(words.level), words, how, folder, made, pool)
        ours = [f"unpacked-{_KEY}", *([f"vocabulary-{_KEY}.json"] if out else [])]
        for rest in (file for name in ours for file in home.glob(name)):
            rest.unlink()
        shutil.rmtree(shared, ignore_errors=True)
    return Store(folder)


def fingerprint(root: str) -> str:
    """What tells a text from another: names, sizes and times of its files."""
    if kind_of(root) == "stream":
        return root
    found: Any = saved_dataset(root) or text_files(root)
    listed = [f for files in found.values() for f in files] if isinstance(found, dict) else found
    files = [f for name in listed for f in ([name] if Path(name).is_file() else _inside(name))]
    facts = [(str(Path(f).resolve()), Path(f).stat().st_size, Path(f).stat().st_mtime_ns)
             for f in files]  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _inside(folder: str) -> list[Path]:
    return sorted(file for file in Path(folder).rglob("*") if file.is_file())


def _named(tokenizer: str) -> str:
    """The name of a kind of vocabulary, or the hash of a file."""
    if tokenizer in KINDS:
        return tokenizer
    return tokenizer_file(tokenizer).digest


def _write(
    corpus: Corpus,
    words: Vocabulary,
    how: Reading,
    folder: Path,
    made: dict[str, Any],
    pool: Pool,
) -> None:
    """Writes the shards of all splits, from where a call before has come."""
    folder.mkdir(parents=True, exist_ok=True)
    step = _SMALL_STEP if isinstance(words, Subwords) else _STEP
    writer = Writer(folder, words, made, how.documents)
    pieces = islice(corpus.pieces(step), writer.pieces, None)
    try:
        with bar_of(corpus, "tokenise", done=writer.read) as bar, writer:
            for found in pool.map(encode, pieces, how):
                writer.add(found)
                bar.update(found.size)
        writer.finish()
    except ValueError:  # the text must be changed, and is another then
        writer.discard()
        raise
