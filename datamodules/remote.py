"""Data that lie elsewhere: files of a bucket, a web server or a hub, copied once, through fsspec.

What is read is the copy, by any number of processes in any order, so that a resume is as exact as
from the disk of this machine.
"""

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from lightning.pytorch.utilities import rank_zero_info

from zoo.data.braces import expanded
from zoo.data.cache import INDEX, cache_folder, key_of, locked
from zoo.files import naming, replacing
from zoo.reading import decoded, parsed, read_bytes
from zoo.waiting import Bar

PROTOCOLS = (
    "abfs", "abfss", "az", "gcs", "gs", "hdfs", "hf", "http", "https", "memory", "s3", "s3a",
    "webhdfs",
)  # fmt: skip
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_CHANGING = (
    "ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "Digest", "LastModified",
    "Last-Modified", "last_modified", "mtime", "updated", "generation", "blob_id", "lfs",
    "modificationTime", "created",
)  # fmt: skip
_CHUNK = 4 * 2**20  # bytes of a request
_FILES, _ASKED = 8, 16  # that are copied, or asked for, at a time
_TRIES, _PAUSE = 3, 1.0  # and seconds between them
_MOST_FILES = 10_000_000


class Remote(NamedTuple):
    """A file that lies elsewhere."""

    path: str
    """What the file system calls it."""
    size: int | None
    """Its bytes, if the server says."""
    key: str
    """What changes when it does, as far as the server says."""


def is_remote(root: str | None) -> bool:
    """Whether a path is the address of something that lies elsewhere.

    >>> is_remote("s3://bucket/shards"), is_remote("shards"), is_remote("hf:name")
    (True, False, False)
    """
    return root is not None and _ADDRESS.match(root) is not None


@lru_cache
def at_hand(root: str) -> str:
    """A path on this machine with what lies at an address; other paths are given back.

    The files are copied into the cache ($ZOO_CACHE, else ~/.cache/zoo), once: what has come stays
    when a copy is stopped, and what changes there is copied anew. Where they cannot be had any
    more, a whole copy is used, and that is said. The processes of a machine wait for each other.

    Args:
        root: A path, or an address of a file or folder, or of files by braces. Credentials are
            found where the file system's own library looks for them, never here.

    Raises:
        FileNotFoundError: There is nothing at the address.
        ValueError: It is no address that is read.
        ModuleNotFoundError: The library of such an address is not here.
        OSError: The server cannot be reached and there is no copy, or the disk is full.
    """
    if not is_remote(root):
        return root
    if root.startswith("file://"):
        return unquote(urlsplit(root).path)
    check_address(root)
    home = home_of(root)
    with naming(home), locked(home, "a copy"):
        try:
            found = listing(root)
        except ValueError:
            raise
        except Exception as error:  # whatever a library of the network raises
            told = error
            if not isinstance(error, FileNotFoundError | ModuleNotFoundError):
                told = OSError(f"{root} cannot be read ({_short(error)})")
            if not is_copied(root):
                raise told from error.__cause__
            rank_zero_info(f"{told}: the copy in {home} is read")
            return str(_target(root))
        copy(root, found)
    return str(_target(root))


def check_copied(root: str | None, source: str, flag: str = "--data.root") -> None:
    """Raises ValueError if an address, which a file of anybody names, was never copied here.

    Args:
        root: The address, or a path.
        source: The file, for the message.
        flag: What names another root.
    """
    if root is None or not is_remote(root) or root.startswith("file://"):
        return
    check_address(root)
    if not is_copied(root):
        raise ValueError(
            f"{source} was trained on {root}, which no command has copied here yet: give "
            f"{flag} {root} if it is to be"
        )


def check_address(root: str) -> None:
    """Raises ValueError unless it is an address of a kind that is read."""
    match = _ADDRESS.match(root)
    protocol = match[1].lower() if match else ""
    if protocol not in PROTOCOLS:
        known = ", ".join(f"{name}://" for name in PROTOCOLS if name != "memory")
        raise ValueError(f"{root}: {protocol}:// is not read, only {known}: copy it here")
    if "::" in root:
        raise ValueError(f"{root}: addresses are not chained (::): name the files themselves")
    try:
        password = urlsplit(root).password
    except ValueError as error:
        raise ValueError(f"{root} is no address: {error}") from error
    if password is not None:
        where = root.replace(password, "...")
        raise ValueError(
            f"{where} holds a password, which the run's config would keep: put it where the "
            "library of such addresses looks for it"
        )


def home_of(root: str) -> Path:
    """The folder of the cache for the copy of what lies at an address."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", root.partition("?")[0])[-60:].strip("-")
    return cache_folder() / "remote" / f"{plain}-{key_of(root)[:8]}"


def is_copied(root: str) -> bool:
    """Whether a whole copy of what lies at an address is here."""
    files, target = _copied(root), _target(root)
    return bool(files) and all(_is_there(_file(target, n), size) for n, (size, _) in files.items())


def _copied(root: str) -> dict[str, tuple[int | None, str]]:
    """The files of the last whole copy, with their sizes and keys."""
    index = home_of(root) / INDEX
    if not index.is_file():
        return {}
    try:
        files = parsed(decoded(read_bytes(index), index))["files"]
        return {str(name): (size, str(key)) for name, (size, key) in files.items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}  # which is damaged: all is looked at anew


def listing(root: str) -> dict[str, Remote]:
    """The files at an address, by their names below it; one that is a file itself by "".

    Raises:
        FileNotFoundError: There is none.
        ModuleNotFoundError: The library of such an address is not here.
        ValueError: A name leads out of the folder.
    """
    found: dict[str, Remote] = {}
    addresses = expanded(root)
    # That of hf:// keeps its listings whatever it is told (huggingface_hub 2.4). All threads ask
    # this one, since fsspec would give each one of its own, or that of a thread before it.
    system = _opened(addresses[0])
    system.invalidate_cache()
    with ThreadPoolExecutor(_ASKED) as pool:
        asked = pool.map(partial(_infos, system), addresses)
        for address, infos in zip(addresses, asked, strict=True):
            for name, info in infos.items():
                name = name or (_name(address) if len(addresses) > 1 else "")
                _check_name(root, name)
                size, facts = info.get("size"), {k: str(info.get(k)) for k in _CHANGING}
                found[name] = Remote(str(info["name"]), size, key_of([size, facts]))
                if len(found) > _MOST_FILES:
                    raise ValueError(f"{root} has more than {_MOST_FILES:,} files: name fewer")
    if not found:
        raise FileNotFoundError(f"no files at {root}")
    return found


def _check_name(root: str, name: str) -> None:
    """Raises ValueError if a server's name of a file leads out of its folder."""
    if ".." in name.split("/") or name.startswith("/") or "\0" in name:
        raise ValueError(f"{root}: the server names a file {name!r}, which lies outside of it")


def _infos(system: Any, address: str) -> dict[str, dict[str, Any]]:
    """What the server knows of the files below an address by their names, or of "" itself.

    Files and folders whose names begin with a dot are nobody's data.
    """
    from fsspec.core import strip_protocol

    path, web = str(strip_protocol(address)), _is_web(address)
    try:
        if web and path.endswith("/"):  # a page that lists files
            found = _below(system, path)
            files = [{**system.info(file["name"]), "name": file["name"]} for file in found]
        elif (info := system.info(path))["type"] != "directory":
            if web and urlsplit(str(info.get("url"))).path.endswith("/"):
                raise ValueError(f"{address} is a folder of the server: end the address with /")
            return {"": {**info, "name": path}}
        elif _searches(system):
            files = list(system.find(path, detail=True).values())
        else:
            files = _below(system, path)
    except FileNotFoundError as error:
        if not _is_gone(error):
            raise OSError(_short(error.__cause__ or error)) from error
        raise FileNotFoundError(f"no such file or folder: {address}") from error
    named = {str(f["name"]).removeprefix(path).lstrip("/"): f for f in files}
    if web:
        named = {unquote(name): file for name, file in named.items()}
    shown = (name for name in named if not any(_is_hidden(part) for part in name.split("/")))
    return {name: named[name] for name in shown if name}


def _searches(system: Any) -> bool:
    """Whether a file system has a search of its own; fsspec's takes what fails for empty."""
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

    kind = type(system)
    if issubclass(kind, AsyncFileSystem):
        return kind._find is not AsyncFileSystem._find
    return kind.find is not AbstractFileSystem.find


def _below(system: Any, folder: str, above: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The files that a folder, or page of a web server, and those below it list."""
    try:
        listed = system.ls(folder, detail=True)
    except FileNotFoundError as error:
        if above and _is_gone(error):  # a link to nothing
            return []
        raise
    files = []
    for item in listed:
        if item["type"] != "directory":
            files.append(item)
        elif item["name"] not in (folder, *above):
            files += _below(system, str(item["name"]), (*above, folder))
    return files


def _opened(address: str) -> Any:
    """The file system of an address."""
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(address, use_listings_cache=False)[0]
    except ImportError as error:
        raise ModuleNotFoundError(f"{address} needs a library: {_short(error)}") from error


def copy(root: str, found: dict[str, Remote]) -> None:
    """Copies what is not here yet or has changed, and removes what is no longer there.

    Args:
        root: The address.
        found: What is there now, of `listing`.
    """
    before, index, target = _copied(root), home_of(root) / INDEX, _target(root)
    now = {name: (remote.size, remote.key) for name, remote in found.items()}
    missing = {
        name: remote
        for name, remote in found.items()
        if before.get(name) != now[name] or not _is_there(_file(target, name), remote.size)
    }
    if before == now and not missing:
        return
    index.unlink(missing_ok=True)  # until the copy is whole again
    for name in before.keys() - now.keys():
        _file(target, name).unlink(missing_ok=True)
    _copy_all(root, missing)
    for part in home_of(root).glob("*.part"):  # of what has changed since
        part.unlink()
    with replacing(index) as path:
        path.write_text(json.dumps({"address": root, "files": now}), "utf-8")


def _copy_all(root: str, missing: dict[str, Remote]) -> None:
    """Copies files, several at a time, with a bar."""
    home = home_of(root)
    parts = {name: home / f"{key_of([name, remote.key])}.part" for name, remote in missing.items()}
    come = {name: part.stat().st_size for name, part in parts.items() if part.is_file()}
    total = sum(remote.size or 0 for remote in missing.values())
    left, free = total - sum(come.values()), shutil.disk_usage(home).free
    if left > free:
        raise OSError(
            f"{root} takes {left / 1e9:,.1f} GB and {home} has room for {free / 1e9:,.1f}: set "
            "ZOO_CACHE to a folder of a larger disk"
        )
    files = f"{len(missing):,} files of " if len(missing) > 1 else ""
    rank_zero_info(f"copying {files}{root} ({total / 1e6:,.1f} MB) to {home}")
    stopped, lock = threading.Event(), threading.Lock()
    target, system = _target(root), _opened(expanded(root)[0])
    with Bar("copy", total or None, "B", done=sum(come.values())) as bar:

        def has_come(name: str, count: int) -> None:
            if stopped.is_set():
                raise InterruptedError("stopped")
            with lock:
                bar.update(count - come.get(name, 0))
                come[name] = count

        with ThreadPoolExecutor(_FILES) as pool:
            copies = [
                pool.submit(
                    _copy_one,
                    f"{root}: {name}" if name else root,
                    _file(target, name),
                    remote,
                    parts[name],
                    partial(_fetch, system, _is_web(root), partial(has_come, name)),
                )
                for name, remote in missing.items()
            ]
            try:
                for done in copies:
                    done.result()
            except BaseException:
                stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _copy_one(
    where: str, target: Path, remote: Remote, part: Path, fetch: Callable[[Remote, Path], None]
) -> None:
    """Copies a file, from where a copy that was stopped has come."""
    for attempt in range(1, _TRIES + 1):
        try:
            fetch(remote, part)
            break
        except InterruptedError:
            raise
        except Exception as error:  # whatever a library of the network raises
            if isinstance(error, FileNotFoundError) and _is_gone(error):
                raise FileNotFoundError(f"{where} is no longer there") from error
            if isinstance(error, OSError) and error.filename == str(part):  # this disk's
                raise
            if isinstance(error, ValueError | NotImplementedError):  # it gives no ranges
                part.unlink(missing_ok=True)
            if attempt == _TRIES:
                raise OSError(
                    f"{where} cannot be read ({_short(error)}): what has come is kept, and the "
                    "same command goes on"
                ) from error
            time.sleep(_PAUSE * attempt)
    if remote.size is not None and (size := part.stat().st_size) != remote.size:
        part.unlink()
        raise OSError(f"{where}: {size:,} bytes have come, and the server says {remote.size:,}")
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, target)


def _fetch(
    system: Any, web: bool, has_come: Callable[[int], None], remote: Remote, part: Path
) -> None:
    """Appends to a part what it lacks."""
    start = part.stat().st_size if part.is_file() else 0
    has_come(start)
    if start and start == remote.size:
        return
    # From the beginning in one stream, as not every web server gives ranges.
    how = {"block_size": 0} if web and not start else {"block_size": _CHUNK, "cache_type": "none"}
    with system.open(remote.path, "rb", **how) as source:
        if start:
            source.seek(start)
        while chunk := source.read(_CHUNK):
            with naming(part), part.open("ab") as sink:
                start += sink.write(chunk)
            has_come(start)


def _is_gone(error: FileNotFoundError) -> bool:
    """Whether a file is not there; of the web, fsspec says so of any other failure too."""
    cause = error.__cause__
    answer = getattr(cause, "response", None)  # which errors of a hub keep
    status = getattr(cause, "status", None) or getattr(answer, "status_code", None)
    return cause is None or status in (404, 410)


def _is_there(file: Path, size: int | None) -> bool:
    return file.is_file() and size in (None, file.stat().st_size)


def _is_hidden(part: str) -> bool:
    return part.startswith(".") and part != ".."


def _is_web(address: str) -> bool:
    return address.lower().startswith(("http:", "https:"))


def _name(address: str) -> str:
    """The last part of an address, without what a web server is asked beside it."""
    path = urlsplit(address).path if _is_web(address) else address
    name = unquote(path.rstrip("/").rpartition("/")[2])
    return "data" if name in ("", ".", "..") or "/" in name else name


def _target(root: str) -> Path:
    """Where the copy is: a file or folder called as the address is, or a folder of several."""
    several = len(expanded(root)) > 1
    return home_of(root) / "copy" / ("shards" if several else _name(root))


def _file(target: Path, name: str) -> Path:
    """Where the copy of a file is."""
    return target / name if name else target


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
