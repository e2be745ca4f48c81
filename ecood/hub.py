"""The Hugging Face hub: a repository of a scorer, fetched whole, and from its cache offline."""

import pathlib
import re
import types
from typing import Any

from ecood.errors import InputError

__all__ = ["LOGIN", "PARTS", "PREFIX", "fetch", "library", "reason"]

PREFIX = "hf:"
NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
PARTS = ["*.safetensors", "*.json", "README.md"]  # nothing else in a repository is fetched
LOGIN = "log in with `hf auth login`, or set HF_TOKEN,"


def fetch(name: str) -> pathlib.Path:
    """The directory of a scorer, "owner/name" or "owner/name@revision", in the hub's cache.

    Without a network, or where the hub is down, that is the copy that was fetched last.

    Raises:
      InputError: if there is no such repository, it is not yours to read, or it can neither be
        reached nor is whole in the cache.
    """
    repository, _, revision = name.partition("@")
    hub = library(repository)
    where = f"{PREFIX}{name}"

    class Bar(hub.utils.tqdm):
        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **{"disable": None} | options)  # None: on terminals

    options = {"revision": revision or None, "allow_patterns": PARTS, "tqdm_class": Bar}
    try:
        return pathlib.Path(hub.snapshot_download(repository, **options))
    except hub.errors.GatedRepoError as error:
        raise InputError(f"{where} is gated; ask for access on its page, and {LOGIN}.") from error
    except hub.errors.RepositoryNotFoundError as error:
        raise InputError(
            f"there is no {where} on {hub.constants.ENDPOINT}, or it is private; check the name, "
            f"or {LOGIN} of somebody who may read it."
        ) from error
    except hub.errors.RevisionNotFoundError as error:
        raise InputError(
            f"{PREFIX}{repository} has no revision {revision!r}; give a branch, a tag or a commit "
            "of it."
        ) from error
    except hub.errors.LocalEntryNotFoundError as error:
        part = type(error).__name__ == "IncompleteSnapshotError"  # older versions lack it
        copy = "only a part of it is" if part else "no copy of it is"
        raise InputError(
            f"{where} cannot be reached on {hub.constants.ENDPOINT}, and {copy} in the cache "
            f"{hub.constants.HF_HUB_CACHE}; try again where there is a network."
        ) from error
    except Exception as error:  # downloads fail in many ways, and what is whole is kept
        raise InputError(
            f"{where} could not be fetched whole ({reason(error)}); try again, what is there is "
            "kept."
        ) from error


def library(repository: str) -> types.ModuleType:
    """The package huggingface_hub; an `InputError` without it, or for what is no repository."""
    if not NAME.fullmatch(repository):
        raise InputError(
            f"{PREFIX}{repository} names no repository of the Hugging Face hub; expected "
            f"{PREFIX}owner/name."
        )
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError:
        raise InputError(
            f"{PREFIX}{repository} needs huggingface_hub, which is not installed; run "
            "`pip install 'ecood[hub]'`."
        ) from None
    return huggingface_hub


def reason(error: Exception) -> str:
    """What happened, without the addresses and advice that follow it."""
    first = [*str(error).splitlines(), ""][0].split(" (Request ID")[0]
    return f"{type(error).__name__}: {first}".removesuffix(".").removesuffix(": ")
