"""Which split and which class the paths of images mean: the layouts that are known, by name."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from zoo.data.protocols import Split
from zoo.data.splits import SPLIT_WORDS

Parts = tuple[str, ...]
Folders = Literal["auto", "splits", "classes"]

# train, Training, train2017 (COCO), imgs_train, test-set, test1 (Kaggle), trainA (CycleGAN)
_SPLIT = re.compile(
    r"(?:(?:images?|imgs?|data)[-_. ]?)?"
    rf"(?P<word>{'|'.join(sorted(SPLIT_WORDS, key=len, reverse=True))})"
    r"(?:[-_. ]?(?P<domain>(?-i:[AB]))|"
    r"(?:[-_. ]?(?:images?|imgs?|data|set|split))?(?:[-_. ]?\d{1,4})?)",
    re.IGNORECASE,
)
_PICTURES = frozenset(
    "image images img imgs input inputs jpegimages leftimg8bit photos pictures".split()  # noqa: SIM905
)
_TARGETS = frozenset(
    "annotation annotations ground_truth groundtruth gt gtcoarse gtfine label labels labelsmask "  # noqa: SIM905
    "mask masks segmentation segmentations segmentationclass segmentationobject target "
    "targets".split()
)
_MASK = re.compile(r"(.+)[-_. ](?:mask|gt|label|seg|segmentation)s?(?:[-_ ]?\d+)?", re.IGNORECASE)
_FEW = 0.01  # of the images; so many may lie beside class folders as strays


@dataclass
class Layout:
    """Images by split and class.

    Args:
        splits: Of each split with a folder: each file's path below the split's folder.
        classes: Names of the classes; none where there are no class folders.
        class_of: The class of each file that has one.
        unlabelled: Splits whose images have no class, though there are classes.
        left_out: Files that are no part of it.
        notes: What was understood, where it could have been understood in another way.
    """

    splits: dict[Split, dict[str, Parts]]
    classes: list[str] = field(default_factory=list)
    class_of: dict[str, str] = field(default_factory=dict)
    unlabelled: set[Split] = field(default_factory=set)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def split_of(folder: str) -> tuple[Split, str | None] | None:
    """The split that a folder is named after, and the domain of a pair of them (trainA, trainB)."""
    match = _SPLIT.fullmatch(folder)
    return None if match is None else (SPLIT_WORDS[match["word"].lower()], match["domain"])


def _named_after_splits(
    folders: list[str], root: object = None
) -> dict[str, tuple[Split, str | None]]:
    """The folders that are named after a split, all of them with more around it if they share that.

    Raises:
        ValueError: Half of them or more have a split in their names, train among them, and it is
            not all that they differ in (x_train, x_test, x_pred); not without a `root` to name.
    """
    named = {folder: split for folder in folders if (split := split_of(folder))}
    if named or len(folders) < 2:
        return named
    around, splits = set[tuple[str, str]](), dict[str, Split]()
    for folder in folders:  # mnist_train, mnist_test; DIV2K_train_HR, DIV2K_valid_HR
        words = re.split(r"([-_. ])", folder)
        found = [i for i, word in enumerate(words) if word.lower() in SPLIT_WORDS]
        if len(found) == 1:
            (at,) = found
            splits[folder] = SPLIT_WORDS[words[at].lower()]
            around.add(("".join(words[:at]), "".join(words[at + 1 :])))
    if len(splits) == len(folders) and len(around) == 1:
        return {folder: (split, None) for folder, split in splits.items()}
    told = set(splits.values())
    if root is not None and "train" in told and len(told) > 1 and 2 * len(splits) >= len(folders):
        raise ValueError(
            f"{root} has folders with splits in their names ({_some(list(splits))}): call them "
            "train, val and test, and leave out the others; or say that all are classes by "
            "--data.folders classes"
        )
    return {}


def sort_files(
    names: Iterable[str], root: object, folders: Folders = "auto", *, numbered: bool = False
) -> Layout:
    """Sorts the images of `root` into splits and classes by their paths.

    Args:
        names: Paths relative to the root.
        root: For messages.
        folders: Whether the first folders are splits or classes; auto tells them by their names.
        numbered: Whether classes that are numbers are in the order of these, not of their digits.

    Raises:
        ValueError: The paths can be understood in two ways, or are of segmentation.
    """
    paths = _unwrapped({name: PurePosixPath(name).parts for name in names})
    first: dict[str, list[str]] = defaultdict(list)
    for name, parts in paths.items():
        first[parts[0] if len(parts) > 1 else ""].append(name)
    first.pop("", None)
    named = _named_after_splits(list(first), root if folders == "auto" else None)

    if folders == "classes" or (folders == "auto" and not named):
        inner = _splits_inside(paths, root) if folders == "auto" else None
        layout = inner or Layout({"train": paths})
    elif folders == "splits" and not named:
        raise ValueError(f"{root} has no folder train: leave out --data.folders splits")
    elif folders == "splits" or len(named) == len(first):
        layout = _by_split(paths, named)
    else:
        layout = _mixed(paths, list(first), list(named), root)
    layout = _with_classes(layout, root, folders)
    if numbered and all(name.isdecimal() for name in layout.classes):
        layout.classes.sort(key=int)
    return layout


def _unwrapped(paths: dict[str, Parts]) -> dict[str, Parts]:
    """The paths without the folders that all images lie in; archives often have one."""
    while len({p[0] for p in paths.values()}) == 1 and min(map(len, paths.values())) > 1:
        if split_of(next(iter(paths.values()))[0]) and not _only_splits(paths):
            break
        paths = {name: parts[1:] for name, parts in paths.items()}
    return paths


def _only_splits(paths: dict[str, Parts]) -> bool:
    """Whether all second folders are splits, several of them: one archive in another's folder."""
    inner = [split_of(parts[1]) if len(parts) > 2 else None for parts in paths.values()]
    return all(inner) and len({found[0] for found in inner if found}) > 1


def _by_split(paths: dict[str, Parts], named: dict[str, tuple[Split, str | None]]) -> Layout:
    """Folders that are splits; of trainA, trainB the letter is the class."""
    layout = Layout({})
    twice = dict.fromkeys(named, True)  # seg_train/seg_train, as some archives unpack
    for parts in paths.values():
        if parts[0] in named:
            twice[parts[0]] &= len(parts) > 2 and parts[1] == parts[0]
    for name, parts in paths.items():
        if len(parts) == 1 or parts[0] not in named:
            layout.left_out.append(name)
            continue
        split, domain = named[parts[0]]
        rest = parts[2:] if twice[parts[0]] else parts[1:]
        rest = rest if domain is None else (domain.upper(), *rest)
        layout.splits.setdefault(split, {})[name] = rest
    return layout


def _splits_inside(paths: dict[str, Parts], root: object) -> Layout | None:
    """Splits inside of class folders (bottle/train, bottle/test), if that is the layout."""
    inner = {name: split_of(parts[1]) if len(parts) > 2 else None for name, parts in paths.items()}
    if not {"train", "test", "val"} & {found[0] for found in inner.values() if found}:
        return None
    if not all(inner.values()):
        example = next(parts for name, parts in paths.items() if inner[name])
        raise ValueError(
            f"{root}: {'/'.join(example[:2])} is named after a split inside of a folder, and not "
            "all folders have such: make folders train, val and test in it, or say what its first "
            "folders are by --data.folders classes"
        )
    layout = Layout({}, notes=["splits are the folders inside of the class folders"])
    for name, parts in paths.items():
        found = inner[name]
        assert found is not None
        layout.splits.setdefault(found[0], {})[name] = (parts[0], *parts[2:])
    return layout


def _mixed(paths: dict[str, Parts], first: list[str], named: list[str], root: object) -> Layout:
    """Folders of which some are named after splits: one among like ones is a class (a train)."""
    others = [folder for folder in first if folder not in named]
    depths = {folder: set[int]() for folder in first}
    for parts in paths.values():
        if len(parts) > 1:
            depths[parts[0]].add(len(parts))
    alike = all(depth == {2} for depth in depths.values())
    if len(named) == 1 and len(others) > 1 and alike:
        return Layout(
            {"train": paths}, notes=[f"{named[0]}/ is taken for a class, as {others[0]}/ is"]
        )
    raise ValueError(
        f"{root} has folders that are named after splits ({_some(named)}) beside others "
        f"({_some(others)}): say what they are by --data.folders classes (all are classes) or "
        "--data.folders splits (the others are left out)"
    )


def _with_classes(layout: Layout, root: object, folders: Folders) -> Layout:
    """Adds the classes, which are the first folders of the training images."""
    inner = {split: _inside(group) for split, group in layout.splits.items()}
    several = len(layout.splits) > 1
    fix = None if folders == "classes" else "if all are classes, say so by --data.folders classes"
    for split, group in layout.splits.items():
        where = f"{root}: {split}" if several else str(root)
        _refuse_targets(group, where, "if they are classes, rename them" if several else fix)
    leading: Split | None = "train" if "train" in inner else next(iter(inner), None)
    known = set(_classes(inner[leading])) if leading is not None else set()
    classes = set(known)
    for split, group in inner.items():
        loose = sum(len(parts) == 1 for parts in group.values())
        if not known and 0 < loose < len(group):
            beside = sorted({parts[0] for parts in group.values() if len(parts) > 1})
            layout.notes.append(
                f"no classes: {loose:,} of the {len(group):,} {split} images lie beside the "
                f"folders {_some(beside)}"
            )
    for split, group in inner.items() if known else ():
        found = _classes(group)
        if not found:
            layout.unlabelled.add(split)
            continue
        classes.update(found)
        for name, parts in group.items():
            if len(parts) > 1:
                layout.class_of[name] = parts[0]
            else:
                layout.left_out.append(name)
                del layout.splits[split][name]
        if unseen := sorted(set(found) - known):
            layout.notes.append(f"classes of {split} that {leading} has not: {_some(unseen)}")
    layout.classes = sorted(classes)
    return layout


def _inside(group: dict[str, Parts]) -> dict[str, Parts]:
    """The paths of a split without a folder that only says that it holds images."""
    first = {parts[0] for parts in group.values()}
    deep = min(map(len, group.values())) > 1
    if deep and len(first) == 1 and first.pop().lower() in _PICTURES:
        return {name: parts[1:] for name, parts in group.items()}
    return dict(group)


def _classes(group: dict[str, Parts]) -> set[str]:
    """Names of the class folders of a split; none if it has none, but for a few strays."""
    loose = sum(len(parts) == 1 for parts in group.values())
    classes = {parts[0] for parts in group.values() if len(parts) > 1}
    return classes if loose <= max(1, _FEW * len(group)) else set()


def _refuse_targets(group: dict[str, Parts], where: str, fix: str | None) -> None:
    """Segmentation has pictures in one folder and what is to be found in them in one beside it.

    Args:
        group: The paths of a split.
        where: The split, for messages.
        fix: What to do if the folders are classes; None if the user said that they are.
    """
    beside: dict[Parts, set[str]] = defaultdict(set)
    for parts in group.values() if fix is not None else ():
        for depth in range(len(parts) - 1):
            beside[parts[:depth]].add(parts[depth])
    for above, folders in beside.items():
        targets = sorted(f for f in folders if _says(f, _TARGETS) and not _says(f, _PICTURES))
        pictures = sorted(f for f in folders if _says(f, _PICTURES) and not _says(f, _TARGETS))
        if not above and targets and not pictures:
            pictures = _of_the_same_names(group, folders, targets[0])
        if targets and pictures:
            inside = "".join(f"{folder}/" for folder in above)
            alone = f"give the pictures alone, the folder {pictures[0]}, as --data.root"
            raise ValueError(
                f"{where} has {inside}{targets[0]}/ beside {inside}{pictures[0]}/, as data of "
                f"segmentation have: {'leave such folders out' if above else alone}; {fix}"
            )
    there = {(*parts[:-1], parts[-1].rpartition(".")[0]) for parts in group.values()}
    masks = [
        (*above, match[0])
        for *above, stem in there
        if (match := _MASK.fullmatch(stem)) and (*above, match[1]) in there
    ]
    if len(masks) > len(there) / 5:
        raise ValueError(
            f"{where} has {len(masks):,} files like {'/'.join(min(masks))} beside those of the "
            "names before it, as data of segmentation have: move the masks out of it"
        )


def _says(folder: str, words: frozenset[str]) -> bool:
    """Whether a folder is called by one of these words, alone or among others (masks_png)."""
    name = folder.lower().replace("-", "_")
    return name in words or not words.isdisjoint(re.split(r"[_. ]", name))


def _of_the_same_names(group: dict[str, Parts], folders: set[str], target: str) -> list[str]:
    """The folders whose files are called as most of those in another, which is no opposite of them.

    mask and no_mask are classes; train and mask are not.
    """
    if target.lower().replace("-", "_") not in _TARGETS:
        return []
    stems = {folder: set[str]() for folder in folders}
    for parts in group.values():
        if len(parts) > 1:
            stems[parts[0]].add(parts[-1].rpartition(".")[0])
    others = sorted(folder for folder in folders if target.lower() not in folder.lower())
    return [f for f in others if len(stems[f] & stems[target]) > len(stems[target]) / 2]


def _some(names: list[str]) -> str:
    return ", ".join(f"{name}/" for name in names[:4]) + (", ..." if len(names) > 4 else "")
