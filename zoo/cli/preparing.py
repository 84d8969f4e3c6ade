"""`zoo prepare`; its docstring is its help."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from zoo.data import ImageFolder
from zoo.data.described import account, block
from zoo.data.images.layout import Folders
from zoo.data.images.store import is_prepared as is_prepared_pictures
from zoo.data.text.pieces import Documents
from zoo.data.text.prepare import prepare as prepare_text
from zoo.data.text.store import is_prepared as is_prepared_text
from zoo.data.text.tasks import Executor
from zoo.data.text.vocabularies import KINDS
from zoo.data.text.vocabulary import Subwords, Vocabulary
from zoo.ranges import Count, Range


def prepare(
    kind: Literal["text", "pictures"],
    root: str,
    out: str,
    *,
    tokenizer: str = "char",
    vocab_size: Count | None = None,
    min_count: Count = 1,
    documents: Documents = "file",
    column: str = "text",
    size: Count | list[Count] = 64,
    channels: Literal[1, 3] = 3,
    folders: Folders = "auto",
    broken: Literal["skip", "refuse"] = "skip",
    processes: Annotated[int, Range(1, 1024)] | None = None,
    executor: Executor | None = None,
    tasks: Count = 1,
) -> None:
    """Tokenises a corpus, or decodes pictures, once into a folder, which `--data.root` takes.

    That is done in parallel, into files that are mapped into memory. A command that was stopped or
    killed goes on where it was when it is given again.

    Args:
        kind: text or pictures.
        root: As `--data.root`: of a text a file or folder, plain, .gz or .zst, JSONL, Parquet, what
            `datasets` saved; or hf:NAME or hf:NAME:CONFIG of what it streams. Of pictures a folder,
            a .zip, or shards: .tar, .parquet, .arrow. Or the address of one (s3://, ...).
        out: Folder to write.
        tokenizer: byte, char, word or wordpunct; bpe or unigram, made of the training split; a
            tokenizer.json of the library tokenizers; or a run or checkpoint whose model has one.
        vocab_size: Most symbols of a vocabulary that is made; all, or of subwords 16,000.
        min_count: Least count of a symbol of it.
        documents: What a document of plain text is: a file, a paragraph or a line.
        column: Where the text of a row of JSONL, Parquet or a data set is.
        size: Side of the pictures, or [height, width].
        channels: 1 for grey, 3 for RGB.
        folders: Whether the first folders are splits or classes; auto tells them by their names.
        broken: What to do with a picture that cannot be decoded: skip it, or refuse to go on.
        processes: How many work; as many as there are cores if not given.
        executor: Shares a text out to tasks of datatrove (an extra): local, slurm or ray; all
            machines must see ROOT and OUT.
        tasks: How many tasks.
    """
    others: dict[str, dict[str, object]] = {
        "pictures": {
            "tokenizer": tokenizer != "char",
            "vocab_size": vocab_size,
            "min_count": min_count != 1,
            "documents": documents != "file",
            "column": column != "text",
            "executor": executor,
            "tasks": tasks != 1,
        },
        "text": {
            "size": size != 64,
            "channels": channels != 3,
            "folders": folders != "auto",
            "broken": broken != "skip",
        },
    }
    if strange := [name for name, given in others[kind].items() if given]:
        raise ValueError(f"--{strange[0]} means nothing to zoo prepare {kind}: leave it out")
    if tasks != 1 and executor is None:
        raise ValueError(f"--tasks={tasks}: give --executor local, slurm or ray")
    if is_prepared_text(root) or is_prepared_pictures(root):
        raise ValueError(f"{root} is prepared: --data.root takes it")
    if kind == "pictures":
        with _own_words():
            data = ImageFolder(
                root=root, size=size, channels=channels, folders=folders, broken=broken
            )
            data.prepare(Path(out), processes)
            data.setup()
        print(block(account(data)))
        return
    words: Vocabulary | None = None
    if tokenizer not in KINDS and not tokenizer.endswith(".json"):
        words = _of_model(tokenizer)
    try:
        store = prepare_text(
            root,
            Path(out),
            tokenizer=tokenizer,
            vocabulary_size=vocab_size,
            min_count=min_count,
            documents=documents,
            column=column,
            processes=processes,
            vocabulary=words,
            executor=executor,
            tasks=tasks,
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(str(error).replace(" (set --data.root)", "")) from error
    words, splits = store.vocabulary, store.index["splits"]
    kind_of = f"level {words.level}" if not isinstance(words, Subwords) else words.digest[:12]
    lines = [f"prepared text in {out}", f"vocabulary: {len(words):,} symbols ({kind_of})"]
    for split, held in splits.items():
        lines.append(
            f"{split}: {held['symbols']:,} symbols of {held['bytes']:,} bytes in "
            f"{held['documents']:,} documents"
        )
    print(block(lines))


@contextmanager
def _own_words() -> Iterator[None]:
    """Makes what a DataModule says of its options a message of this verb's."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        said = str(error).replace("set --data.root to", "give")
        raise type(error)(said.replace("--data.root", "ROOT").replace("--data.", "--")) from error


def _of_model(path: str) -> Vocabulary:
    """The symbols of a trained model of text."""
    from zoo.cli.symbols import packed_vocabulary, weights_of

    words = packed_vocabulary(weights_of(path))
    if words is None:
        raise ValueError(f"--tokenizer={path}: that model has no symbols")
    return words
