"""Paraphrases out of message catalogues: translations of one English message that differ."""

import codecs
import importlib
import re
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

LOCALES = ("zh_CN", "zh_TW", "zh_HK")
_MNEMONIC = re.compile(r"[_&~](?=[A-Za-z])")
_CHINESE_MNEMONIC = re.compile(r"[(\uff08][_&~]?[A-Za-z][)\uff09]")
_TAG = re.compile(r"<[^<>]*>")
_PLACEHOLDER = re.compile(r"%[-#0-9.$]*[a-zA-Z(]|\{[^}]*\}|\$[({A-Za-z]|&[a-z]+;")
_HAN = re.compile(r"[\u4e00-\u9fff]")
_BARE = re.compile(r"[\W_]+")


def read_mo(path: Path) -> dict[str, str]:
    """Translations of a compiled message catalogue, the singular of plurals, without contexts."""
    data = path.read_bytes()
    magic = data[:4]
    if magic not in (b"\xde\x12\x04\x95", b"\x95\x04\x12\xde"):
        raise ValueError(f"{path} is not a message catalogue (.mo)")
    order = "<" if magic[0] == 0xDE else ">"
    try:
        count, ids, strings = struct.unpack(f"{order}3I", data[8:20])
        pairs = []
        for i in range(count):
            texts = []
            for table in (ids, strings):
                length, offset = struct.unpack_from(f"{order}2I", data, table + 8 * i)
                if offset + length > len(data):
                    raise ValueError(f"{path} is cut off")
                texts.append(data[offset : offset + length])
            pairs.append(texts)
    except struct.error as error:
        raise ValueError(f"{path} is cut off") from error
    header = next((text for key, text in pairs if not key), b"")
    charset = re.search(rb"charset=([\w-]+)", header)
    encoding = charset[1].decode() if charset else "utf-8"
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise ValueError(f"{path}: there is no charset {encoding}") from error
    found = {}
    for key, text in pairs:
        if key:
            # A context stands before \x04, plural forms after \0.
            singulars = (key.split(b"\x04")[-1].split(b"\0")[0], text.split(b"\0")[0])
            message, translation = (part.decode(encoding, "replace") for part in singulars)
            found[message] = translation
    return found


def _message(text: str) -> str:
    """An English message without what differs from program to program."""
    bare = _TAG.sub("", _MNEMONIC.sub("", text)).strip().rstrip(".:!?… ").lower()
    return " ".join(bare.split())


def _translation(text: str) -> str | None:
    """A translation without mnemonics and tags; None if it is no plain Chinese sentence."""
    bare = _TAG.sub("", _MNEMONIC.sub("", _CHINESE_MNEMONIC.sub("", text)))
    text = bare.strip().rstrip(":\uff1a …")
    if "\n" in text or _PLACEHOLDER.search(text) or len(_HAN.findall(text)) < 2:
        return None
    return text


def catalogue_files(sources: Sequence[Path]) -> list[Path]:
    """The .mo files among sources, of folders those of the Chinese locales."""
    files: list[Path] = []
    for path in sources:
        found = sorted(path.rglob("*.mo")) if path.is_dir() else [path]
        files += [f for f in found if not path.is_dir() or not set(f.parts).isdisjoint(LOCALES)]
    if not files:
        raise ValueError(f"no zh_CN or zh_TW .mo file in {', '.join(map(str, sources))}")
    return files


def catalogue_groups(
    sources: Sequence[Path], shortest: int = 6, simplify: bool = True
) -> Iterator[list[str]]:
    """Groups of really different Chinese translations of one message.

    A catalogue of a folder that cannot be read is left out, and told.

    Args:
        sources: .mo files, or folders such as /usr/share/locale, in which those of the Chinese
            locales are read.
        shortest: Least Chinese characters of each translation.
        simplify: Convert traditional characters (needs the package opencc-python-reimplemented);
            else catalogues other than zh_CN are left out.

    Raises:
        ValueError: There is no catalogue, one that was named cannot be read, or the converter is
            not installed.
    """
    convert = None
    variants: dict[str, dict[str, str]] = {}
    for file in catalogue_files(sources):
        traditional = not set(file.parts).isdisjoint(LOCALES[1:])
        if traditional and not simplify:
            continue
        if traditional and convert is None:
            convert = _converter()
        try:
            messages = read_mo(file)
        except ValueError as error:
            if file in sources:
                raise
            warnings.warn(f"left out: {error}", stacklevel=2)
            continue
        for message, text in messages.items():
            translation = _translation(text)
            if translation is None:
                continue
            if traditional and convert is not None:
                translation = convert(translation)
            if len(_HAN.findall(translation)) >= shortest:
                # Translations that differ in punctuation alone are one.
                own = variants.setdefault(_message(message), {})
                own.setdefault(_BARE.sub("", translation), translation)
    for own in variants.values():
        if len(own) >= 2:
            yield list(own.values())


def _converter() -> Callable[[str], str]:
    try:
        opencc = importlib.import_module("opencc")
    except ModuleNotFoundError as error:
        raise ValueError(
            "traditional catalogues: pip install opencc-python-reimplemented, or give zh_CN alone"
        ) from error
    return opencc.OpenCC("t2s").convert
