"""Repositories of a hub, by huggingface_hub: into its cache, at one commit, and never a pickle."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from zoo.untrusted import sha256

_FILES = ("config.json", "model.safetensors")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".h5", ".msgpack")


@cache
def fetch(repo: str, revision: str | None) -> Path:
    """The folder in the cache with a repository's weights and config.

    huggingface_hub's own variables hold: HF_HUB_OFFLINE, HF_HOME, HF_ENDPOINT, HF_TOKEN.

    Args:
        repo: OWNER/REPO.
        revision: A branch, a tag or a commit; the main branch if not given.

    Raises:
        FileNotFoundError: There is no such repository, revision or file, or it is out of reach.
        ValueError: The repository holds no weights that the zoo reads.
    """
    hub = library()
    name = f"hf://{repo}" + (f"@{revision}" if revision else "")
    with telling(name):
        try:
            config = Path(hub.hf_hub_download(repo, _FILES[0], revision=revision))
            weights = Path(hub.hf_hub_download(repo, _FILES[1], revision=config.parent.name))
        except hub.errors.RemoteEntryNotFoundError:
            raise ValueError(_what_is_there(hub, repo, revision, name)) from None
    rank_zero_info(f"hf://{repo}@{config.parent.name}: {weights.name}, sha256 {sha256(weights)}")
    return config.parent


def _what_is_there(hub: Any, repo: str, revision: str | None, name: str) -> str:
    """Why a repository is none of the zoo's."""
    files = hub.HfApi().list_repo_files(repo, revision=revision)
    pickles = [file for file in files if file.endswith(_PICKLES)]
    if pickles and _FILES[1] not in files:
        return f"{name} has no {_FILES[1]}, but {pickles[0]}, which can run code: it is not read"
    missing = " and no ".join(file for file in _FILES if file not in files)
    return f"{name} has no {missing}: it is no folder that zoo export wrote"


def upload(folder: str, repo: str, message: str, *, private: bool, space: bool = False) -> str:
    """Makes a repository of a model, or of a space, if there is none, and commits a folder to it.

    Returns:
        The commit.

    Raises:
        OSError: It was refused, or the hub is out of reach.
    """
    api = library().HfApi()
    of: dict[str, Any] = {"repo_type": "space"} if space else {}
    made = {"space_sdk": "gradio"} if space else {}
    with telling(f"hf://{'spaces/' * space}{repo}"):
        api.create_repo(repo, private=private, exist_ok=True, **of, **made)
        done = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message, **of)
    return str(done.oid)


def library() -> Any:
    """huggingface_hub.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors  # which is no attribute before
    except ImportError as error:
        raise ModuleNotFoundError(
            "hf:// needs huggingface_hub: pip install 'lightning-model-zoo[hub]'"
        ) from error
    return huggingface_hub


@contextmanager
def telling(name: str) -> Iterator[None]:
    """Turns what the hub's library raises into one line with the fix.

    Raises:
        FileNotFoundError: What was asked for is not there.
        OSError: Anything else that went wrong on the way.
    """
    errors = library().errors
    try:
        yield
    except errors.HFValidationError as error:
        raise ValueError(f"{name}: a repository is hf://OWNER/REPO[@REVISION]") from error
    except errors.GatedRepoError as error:
        raise OSError(f"{name} asks for consent: give it on its page, and set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{name}: no such repository, or a private one (HF_TOKEN)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{name}: no such branch, tag or commit") from error
    except errors.LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{name} is not in the cache, and the hub is out of reach or HF_HUB_OFFLINE is set"
        ) from error
    except (ValueError, FileNotFoundError, ModuleNotFoundError):
        raise
    except Exception as error:  # the library's transport has errors of its own in each version
        said = " ".join(f"{error} {error.__cause__ or ''}".split())
        raise OSError(f"{name}: {said[:300]}") from error
