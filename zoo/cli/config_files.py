"""Reading YAML that others wrote, before any of it is acted on."""

from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from zoo.loading import current_path

_BYTES, _DEPTH, _NODES = 2**20, 40, 100_000
_SECTIONS = ("trainer", "ema", "samples", "quality", "checkpoint")
_CLASSES = ("model", "data")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_config(path: Path) -> dict[str, Any]:
    """The keys of a YAML file.

    Raises:
        ValueError: It is not YAML, holds something else, or would grow when it is read.
    """
    if path.stat().st_size > _BYTES:
        raise ValueError(f"{path} is too large for a config")
    try:
        text = path.read_text(encoding="utf-8")
        check_yaml(text)
        content = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        raise ValueError(f"{path} is not a config: it is empty")
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{path} is not a config: it holds no keys")
    for key in content.keys() - {*_SECTIONS, *_CLASSES}:
        if key.lower() in _SECTIONS + _CLASSES:
            raise ValueError(f"{path}: there is no section {key!r}: did you mean {key.lower()}?")
    for name in _SECTIONS + _CLASSES:
        section = content.get(name, {})
        by_name = name in _CLASSES and (section is None or isinstance(section, str))
        if not isinstance(section, dict) and not by_name:
            found = "nothing" if section is None else f"a {type(section).__name__}"
            raise ValueError(f"{path}: {name} must hold keys, and holds {found}")
    return with_current_paths(content)


def with_current_paths(value: Any) -> Any:
    """What a config holds, with every class path as it is written today."""
    if isinstance(value, list):
        return [with_current_paths(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: current_path(item)
        if key in ("class_path", *_CLASSES) and isinstance(item, str)
        else with_current_paths(item)
        for key, item in value.items()
    }


def check_yaml(text: str) -> None:
    """Raises ValueError of a YAML that would be read as something else, or as too much.

    It is nested deeply, refers to itself, grows by its aliases, or has a key twice or a fraction
    as one.
    """
    sizes: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = []  # anchor, and the count where it began
    count = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_):
                raise ValueError(f"the alias *{event.anchor} stands inside of itself")
            count += sizes.get(str(event.anchor), 0)
        elif isinstance(event, yaml.ScalarEvent):
            size = 1 + len(event.value) // 64
            count += size
            if event.anchor:
                sizes[event.anchor] = size
        elif isinstance(event, yaml.CollectionStartEvent):
            count += 1
            open_.append((event.anchor, count))
            if len(open_) > _DEPTH:
                raise ValueError("it is nested too deeply")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, begun = open_.pop()
            if anchor:
                sizes[anchor] = 1 + count - begun
        if count > _NODES:
            raise ValueError("its aliases make it too large")
    _check_keys(text)


def _is_whole(number: str) -> bool:
    try:
        return float(number).is_integer()
    except ValueError:  # YAML has forms of its own, such as .inf and 1:30.0
        return False


def _check_keys(text: str) -> None:
    """Raises ValueError if a key stands twice in one place, or is a number that is not whole.

    Of two the first value would be lost.
    """
    left, seen = [yaml.compose(text, Loader=_Loader)], set[int]()
    while left:
        node = left.pop()
        if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
            continue
        seen.add(id(node))
        if not isinstance(node, yaml.MappingNode):
            left += node.value
            continue
        known = set[tuple[str, str]]()
        for key, value in node.value:
            name = (key.tag, str(key.value))
            if isinstance(key, yaml.ScalarNode) and name in known:
                line = key.start_mark.line + 1
                raise ValueError(
                    f"the key {key.value} stands twice in one place, again in line {line}"
                )
            if key.tag == "tag:yaml.org,2002:float" and not _is_whole(key.value):  # a step of none
                space = ", or lacks the space behind its colon" if ":" in key.value else ""
                raise ValueError(f"the key {key.value} is no whole number{space}")
            known.add(name)
            left.append(value)


def guard_parser() -> None:
    """Has the parser check every YAML that it reads, those that a config names too."""
    if getattr(jsonargparse.get_loader("yaml"), "guarded", False):
        return
    load = jsonargparse.get_loader("yaml")

    def guarded(text: str) -> Any:
        try:
            check_yaml(text)
        except ValueError as error:
            raise yaml.YAMLError(f"not accepted: {error}") from error
        return with_current_paths(load(text))

    guarded.guarded = True  # type: ignore[attr-defined]
    jsonargparse.set_loader("yaml", guarded, exceptions=(yaml.YAMLError,))
