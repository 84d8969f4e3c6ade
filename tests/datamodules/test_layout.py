"""What paths mean: the layouts that people have, each with its splits and classes, or refused."""

import pytest

from zoo.data.images.layout import sort_files


def sorted_out(*names: str, **options: str) -> tuple[dict[str, set[str]], list[str]]:
    """Each split's files, and the classes."""
    layout = sort_files(names, "root", **options)  # type: ignore[arg-type]
    return {split: set(group) for split, group in layout.splits.items()}, layout.classes


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Training", "validation", "Testing"),
        ("train2017", "val2017", "test2017"),
        ("TRAIN", "Validate", "tst"),
        ("train_images", "dev", "test-set"),
        ("imgs_train", "imgs_val", "imgs_test"),
        ("mnist_train", "mnist_valid", "mnist_test"),
        ("DIV2K_train_HR", "DIV2K_valid_HR", "DIV2K_test_HR"),
        ("all/train", "all/val", "all/test"),
        ("train/train", "train/val", "train/test"),
        ("seg_train/seg_train", "seg_val/seg_val", "seg_test/seg_test"),
        ("train", "eval", "test1"),
    ],
)
def test_splits_go_by_many_names(train: str, val: str, test: str) -> None:
    names = [f"{folder}/{kind}/1.png" for folder in (train, val, test) for kind in "ab"]
    splits, classes = sorted_out(*names)
    for split, folder in (("train", train), ("val", val), ("test", test)):
        assert splits[split] == {f"{folder}/a/1.png", f"{folder}/b/1.png"}
    assert classes == ["a", "b"]


def test_a_class_among_like_ones_may_be_called_train() -> None:
    names = [f"{kind}/{i}.png" for kind in ("bus", "car", "ship", "train") for i in range(3)]
    splits, classes = sorted_out(*names)
    assert splits == {"train": set(names)}
    assert classes == ["bus", "car", "ship", "train"]


def test_domains_of_pairs_are_classes_of_their_split() -> None:
    names = ["trainA/1.png", "trainB/1.png", "testA/1.png", "testB/1.png"]
    splits, classes = sorted_out(*names)
    assert splits == {"train": set(names[:2]), "test": set(names[2:])}
    assert classes == ["A", "B"]


def test_flat_held_out_images_have_no_class() -> None:
    for folder in ("test", "test/images"):
        layout = sort_files(["train/a/1.png", "train/b/1.png", f"{folder}/1.png"], "root")
        assert layout.classes == ["a", "b"]
        assert layout.unlabelled == {"test"}
        assert layout.class_of == {"train/a/1.png": "a", "train/b/1.png": "b"}


def test_a_stray_beside_classes_is_left_out_and_many_make_one_class() -> None:
    names = [f"{kind}/{i}.png" for kind in "ab" for i in range(5)]
    layout = sort_files([*names, "stray.png"], "root")
    assert layout.left_out == ["stray.png"]
    assert set(layout.splits["train"]) == set(names)
    assert layout.classes == ["a", "b"]
    more = [*names, "1.png", "2.png", "3.png"]
    assert sorted_out(*more) == ({"train": set(more)}, [])


def test_that_many_beside_folders_leave_no_classes_is_told() -> None:
    layout = sort_files(["a/1.png", "b/1.png", *(f"{i}.png" for i in range(3))], "root")
    assert layout.notes == ["no classes: 3 of the 5 train images lie beside the folders a/, b/"]


def test_a_few_classes_with_a_split_in_their_names_are_classes() -> None:
    names = [f"{kind}/1.png" for kind in ("test_tube", "train_station", "bus", "cat", "dog")]
    assert sorted_out(*names)[0] == {"train": set(names)}


def test_splits_inside_of_classes() -> None:
    splits, classes = sorted_out("a/train/1.png", "b/train/1.png", "b/test/2.png")
    assert splits == {"train": {"a/train/1.png", "b/train/1.png"}, "test": {"b/test/2.png"}}
    assert classes == ["a", "b"]


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["images/1.png", "masks/1.png"], r"masks/ beside images/, .* segmentation"),
        (["scans/1.png", "mask/1.png"], r"mask/ beside scans/"),
        (["train/images/1.png", "train/labels/1.png"], r"labels/ beside images/"),
        (["train/1.png", "extra/1.png"], r"after splits \(train/\) beside others \(extra/\)"),
        (["train/a/1.png", "test/a/1.png", "more/a/1.png"], r"train/, test/\) beside others"),
        (["cat/test/1.png", "cat/2.png", "dog/1.png"], "cat/test is named after a split"),
        (["s_train/1.png", "s_test/1.png", "s_pred/1.png"], r"names \(s_train/, s_test/\)"),
        (["train_HR/1.png", "train_LR/1.png", "val_HR/1.png", "val_LR/1.png"], "in their names"),
        (["gtFine/train/a/1_c.png", "leftImg8bit/train/a/1_l.png"], "gtFine/ beside leftImg8bit/"),
        (["images_png/1.png", "masks_png/1.png"], "masks_png/ beside images_png/"),
        (["X-Input/1.png", "X-GroundTruth/1_s.png"], "X-GroundTruth/ beside X-Input/"),
        (["1/images/1.png", "1/masks/2.png", "3/images/3.png"], "1/masks/ beside 1/images/, .* le"),
        (["a/1.png", "a/1_mask.png", "b/2.png"], "1 files like a/1_mask beside those"),
    ],
)
def test_what_could_mean_two_things_is_refused_by_name(names: list[str], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sort_files(names, "root")


@pytest.mark.parametrize("split", ["", "train/"])
@pytest.mark.parametrize("other", ["no_mask", "Non Mask", "without_mask"])
def test_what_is_masked_and_what_is_not_are_classes(split: str, other: str) -> None:
    names = [f"{split}{kind}/{i}.png" for kind in ("mask", other) for i in range(5)]
    assert sorted_out(*names) == ({"train": set(names)}, sorted(["mask", other]))


def test_the_user_can_say_what_folders_are() -> None:
    names = ["mask/1.png", "face/1.png", "face/images/1.png", "face/masks/1.png"]
    with pytest.raises(ValueError, match=r"say so by --data.folders classes"):
        sort_files(names, "root")
    assert sorted_out(*names, folders="classes") == ({"train": set(names)}, ["face", "mask"])
    names = ["train/1.png", "extra/1.png", "extra/2.png"]
    assert sorted_out(*names, folders="classes") == ({"train": set(names)}, ["extra", "train"])
    layout = sort_files(names, "root", "splits")
    assert set(layout.splits["train"]) == {"train/1.png"}
    assert layout.left_out == names[1:]
    with pytest.raises(ValueError, match="has no folder train"):
        sort_files(["a/1.png", "b/1.png"], "root", "splits")
