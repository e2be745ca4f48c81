"""Scorers published on the Hugging Face hub, each with a card that says what it knows."""

import dataclasses
import pathlib
import tempfile
from typing import TYPE_CHECKING

from ecood.errors import InputError
from ecood.hub import LOGIN, PREFIX, library, reason
from ecood.score import files
from ecood.score.card import card

if TYPE_CHECKING:
    from ecood.score import Scorer

__all__ = ["push"]

NO_MODEL = {".gitattributes", ".gitignore", "LICENSE", "README.md"}  # of a new repository, too


def push(
    scorer: "Scorer",
    repository: str,
    *,
    data: str = "",
    private: bool = False,
    thumbnails: bool = False,
) -> str:
    """Publishes a scorer; see `Scorer.push_to_hub`."""
    hub = library(repository)
    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder) / "scorer"
        kept = scorer.thumbnails if thumbnails else None
        files.save(dataclasses.replace(scorer, thumbnails=kept), directory)
        (directory / "README.md").write_text(card(scorer, repository, data), "utf-8")
        try:
            url = hub.create_repo(repository, private=private, exist_ok=True)
            there = set(hub.list_repo_files(repository)) - NO_MODEL
            if there and files.SCORER not in there:
                raise InputError(
                    f"{PREFIX}{repository} holds {sorted(there)[0]} and no scorer; choose another "
                    "name, or empty the repository."
                )
            hub.upload_folder(
                repo_id=repository,
                folder_path=directory,
                commit_message="A scorer of ecood",
                delete_patterns=sorted(files.WRITTEN),
            )
        except InputError:
            raise
        except Exception as error:  # network and hub fail in many ways, all of which end here
            status = getattr(getattr(error, "response", None), "status_code", None)
            denied = status in (401, 403) or isinstance(error, hub.errors.LocalTokenNotFoundError)
            advice = f"{LOGIN} with the right to write there" if denied else "try again"
            raise InputError(
                f"the scorer could not be written to {PREFIX}{repository} on "
                f"{hub.constants.ENDPOINT} ({reason(error)}); {advice}."
            ) from error
    return str(url)
