"""zoo push: a checkpoint to a repository of a hub, with its card."""

import json
import tempfile
from pathlib import Path
from typing import Any, Literal

from zoo.files import replacing_folder
from zoo.loading import find_checkpoint, load, read_checkpoint, save_pretrained, zoo_name
from zoo.pretrained.card import card
from zoo.pretrained.hub import upload
from zoo.untrusted import check_plain, read_json_object


def push(
    ckpt: str,
    repo: str,
    *,
    private: bool = False,
    licence: str | None = None,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    space: bool = False,
    out: str | None = None,
) -> None:
    """Uploads a checkpoint's averaged weights, which `hf://OWNER/REPO` then names.

    The card has the numbers of the run's results.json; `zoo test` first makes them.

    Args:
        ckpt: A .ckpt file, a run directory, an exported folder or a model's name.
        repo: OWNER/REPO; made if it is not there.
        private: Make it a private one.
        licence: Of the weights, by its identifier on the hub, such as apache-2.0.
        dtype: Numbers of the file: half as long in float16, and float32 again where it is loaded.
        space: Upload the page of `zoo serve` with the weights, as a hosted space, instead.
        out: Folder to write the space to, without an upload.
    """
    repo = repo.removeprefix("hf://")
    if out and not space:
        raise ValueError(f"--out={out} is of --space: zoo export writes a model's folder")
    file, model = find_checkpoint(ckpt), load(ckpt)
    config = read_checkpoint(file, keys=()).get("zoo_config")
    if space:
        from zoo.serve.space import write_space

        def write(folder: str | Path) -> None:
            write_space(model, Path(folder), repo, licence, dtype=dtype, config=config)

        if out:
            with replacing_folder(out) as temporary:
                write(temporary)
            print(f"written to {out}: python {out}/app.py shows it")
            return
        with tempfile.TemporaryDirectory() as folder:
            write(folder)
            upload(folder, repo, "Page, weights and card", private=private, space=True)
        print(f"spaces/{repo}")
        return
    record = _record(file, config)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, dtype=dtype, config=config)
        try:
            text = card(f"hf://{repo}", zoo_name(model), record, licence)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"results.json of {ckpt} is no record of a test ({error})") from error
        Path(folder, "README.md").write_text(text, "utf-8")
        if record:
            Path(folder, "results.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
        commit = upload(folder, repo, "Weights, config and card", private=private)
    if not record:
        print(f"{ckpt} has no results.json: the card has no numbers (zoo test makes them)")
    print(f"hf://{repo}@{commit}")


def _record(file: Path, config: dict[str, Any] | None) -> dict[str, Any]:
    """What the last test of a run wrote, and the data's name; without paths of this machine."""
    folder = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    path = (file if file.is_dir() else folder) / "results.json"
    if not path.exists():
        return {}
    record = read_json_object(path)
    check_plain(record, str(path))
    for key in ("metrics", "protocol"):
        if not isinstance(record.get(key, {}), dict):
            raise ValueError(f"{path}: {key} is no dict")
    record["checkpoint"] = Path(str(record.get("checkpoint"))).name
    data = (config or {}).get("data") or {}
    return {"data": str(data.get("class_path", "unknown")).rpartition(".")[2], **record}
