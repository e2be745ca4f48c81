"""Scorers on disk: a directory with a safetensors file a part, and scorer.json.

`FORMAT` 2 is this version's. Format 1, ecood 0.1's, is read too: it has two lists called "usual"
for the reference, and does not know which images its parts were made from.
"""

import hashlib
import json
import os
import pathlib
import time
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import ecood
from ecood import devices, encoders, flows, hub, keys, memory, weights
from ecood.encoders import Encoder
from ecood.errors import InputError, check_path
from ecood.flows import Flow
from ecood.models import PRETRAINED
from ecood.score import made_by, thumbnails
from ecood.score.forms import FORMS, OF_0_1, PAPER, RECOMMENDED
from ecood.score.parts import check_parts
from ecood.score.spem import NO_REFERENCE, SPEMState, check_strength
from ecood.statistics import Draws, Reference

if TYPE_CHECKING:
    from ecood.score import Scorer

__all__ = ["CARD", "PRETRAINED", "SCORER", "WRITTEN", "load", "locate", "save", "shipped"]

PARTS = ("flow", "encoder", "bank")
SCORER, THUMBNAILS, CARD = "scorer.json", "thumbnails.safetensors", "card.json"
CALIBRATION, IMAGES = "calibration.safetensors", "images.safetensors"
FORMAT = 2
WRITTEN = {SCORER, THUMBNAILS, CARD, CALIBRATION, IMAGES, *(f"{p}.safetensors" for p in PARTS)}


def shipped() -> list[str]:
    """The names of the scorers that come with the package."""
    return sorted(path.parent.name for path in PRETRAINED.glob(f"*/{SCORER}"))


def locate(name_or_directory: str | os.PathLike) -> pathlib.Path:
    """A scorer's directory: itself, that of a shipped one, or fetched, else an InputError."""
    if str(name_or_directory).startswith(hub.PREFIX):
        return hub.fetch(str(name_or_directory).removeprefix(hub.PREFIX))
    name, directory = str(name_or_directory), pathlib.Path(name_or_directory)
    # A folder of images may have the name of a shipped scorer, and "" is no folder.
    if (
        name
        and os.path.isdir(directory)
        and (name not in shipped() or (directory / SCORER).exists())
    ):
        return directory
    if os.path.isfile(directory):
        raise InputError(
            f"{directory} is a file; expected a directory that Scorer.save wrote: what "
            "Scorer.export wrote is read by ecood.score.load_export."
        )
    if name not in shipped():
        raise InputError(
            f"there is no scorer {name!r}; expected a directory that "
            f"Scorer.save wrote, hf:owner/name on the Hugging Face hub, or one of "
            f"{', '.join(shipped())}."
        )
    return PRETRAINED / name


def save(scorer: "Scorer", directory: str | os.PathLike, *, by_reference: bool = False) -> None:
    """Writes a scorer; see `Scorer.save`."""
    check_path(directory)
    directory = pathlib.Path(directory)
    try:
        names = os.listdir(directory)  # asked once: another process may move it meanwhile
    except (FileNotFoundError, NotADirectoryError):
        names = []
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {str(directory)!r} ({reason}); choose another.") from error
    if directory.is_file():
        raise InputError(f"{directory} is a file; expected a directory to save the scorer in.")
    if names and SCORER not in names:
        raise InputError(f"{directory} is not empty and holds no scorer; choose another directory.")
    if foreign := sorted(set(names) - WRITTEN):
        raise InputError(
            f"{directory} holds {foreign[0]}, which is no part of a scorer and would be lost; "
            "choose another directory."
        )
    state = scorer.state
    if state.aim is not None or state.form.name not in FORMS:
        raise InputError(
            "this scorer is a control or an ablation, which no directory can hold; expected one "
            f"that aims its noise by similarity and has one of the forms {', '.join(FORMS)}."
        )
    description = {
        "format": FORMAT,
        "ecood": ecood.__version__,
        "image_shape": [int(side) for side in scorer.image_shape],
        "form": state.form.name,
        "noise_strength": float(state.noise_strength),
        "reference": {
            name: np.asarray(part).tolist() for name, part in state.reference._asdict().items()
        },
        "draws": int(state.draws.count),
        "antithetic": bool(state.draws.antithetic),
        "neighbours": int(state.neighbours),
        "seed": int(scorer.seed),
    }
    if own := made_by.record(scorer):
        description["made_by"] = own
    with weights.atomic_directory(directory) as folder:
        if "flow" not in own:
            flows.save(folder / "flow.safetensors", state.flow)
        if "encoder" not in own:
            path = folder / "encoder.safetensors"
            encoders.save(path, state.encoder, by_reference=by_reference)
        memory.save(folder / "bank.safetensors", state.bank, state.encoder)
        if scorer.fitted_on is not None:
            weights.save(folder / IMAGES, {"fitted_on": scorer.fitted_on})
        if scorer.thumbnails is not None:
            thumbnails.save(folder / THUMBNAILS, scorer.thumbnails)
        if scorer.calibration is not None:
            metadata = {"scorer": _digest(folder, description)}
            scores = {"scores": scorer.calibration}
            weights.save(folder / CALIBRATION, scores, metadata)
        if scorer.card is not None:
            (folder / CARD).write_text(json.dumps(scorer.card, indent=1) + "\n")
        description["files"] = {
            path.name: _sha256(path) for path in sorted(folder.glob("*.safetensors"))
        }
        (folder / SCORER).write_text(json.dumps(description, indent=1) + "\n")


def load(name_or_directory: str | os.PathLike, trust: str | None = None) -> dict[str, Any]:
    """Reads the attributes of a scorer; see `ecood.score.load`.

    A directory that another process replaces meanwhile is read again.
    """
    check_path(name_or_directory, "a scorer's name or directory")
    devices.check()
    while True:
        before = _which(name_or_directory)
        try:
            return _load(locate(name_or_directory), trust)
        except (InputError, OSError) as error:
            time.sleep(0.02)  # a writer's two renames take less
            if _which(name_or_directory) != before:
                continue
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{error.filename} cannot be read ({error.strerror}); expected a scorer's file "
                "that you may read."
            ) from error


def _which(directory: str | os.PathLike) -> tuple[int, int] | None:
    """Tells a directory from the one that takes its place, which may get its inode."""
    try:
        status = os.stat(directory)
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_ctime_ns


def _load(directory: pathlib.Path, trust: str | None) -> dict[str, Any]:
    description = _read_description(directory)
    try:
        height, width, channels = shape = tuple(map(_whole, description["image_shape"]))
        strength = jnp.float32(_number(description["noise_strength"]))
        check_strength(float(strength))
        form, reference = _read_form(description)
        antithetic = {True: True, False: False}[description["antithetic"]]
        settings = {
            "noise_strength": strength,
            "reference": reference,
            "draws": Draws(_whole(description["draws"]), antithetic),
            "form": form,
            "neighbours": _whole(description.get("neighbours", 1)),
        }
        seed = keys.check_seed(_whole(description["seed"]))
        files = dict(description.pop("files", {}))
        own = made_by.parse(description["made_by"]) if "made_by" in description else None
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{directory / SCORER} lacks or misstates {error}; it is damaged: copy the "
            "directory again."
        ) from error
    made = made_by.remake(own, trust, shape, directory) if own else {}
    flow = made.get("flow") or flows.load(directory / "flow.safetensors")
    encoder = made.get("encoder") or encoders.load(directory / "encoder.safetensors")
    bank = memory.load(directory / "bank.safetensors", encoder)

    def there(name: str) -> bool:  # what is listed must be, even while another process writes
        return name in files or (directory / name).exists()

    found = {
        "image_shape": shape,
        "seed": seed,
        "calibration": _read_calibration(directory, description) if there(CALIBRATION) else None,
        "fitted_on": _read_images(directory) if there(IMAGES) else None,
        "thumbnails": thumbnails.load(directory / THUMBNAILS) if there(THUMBNAILS) else None,
        "made_by": own and own.path,
        "card": _read_json(directory / CARD) if (directory / CARD).exists() else None,
    }
    for name, digest in files.items():
        _check_file(directory / name, digest)
    whole = files.keys() >= {f"{part}.safetensors" for part in PARTS}  # as they were saved
    if not (whole and flow.image_shape == shape):
        _check_together(directory, shape, flow, encoder, bank)
    return found | {"state": SPEMState(flow, encoder, bank, **settings)}


def _whole(value: Any) -> int:
    """A whole number of a JSON file; a TypeError for anything else."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r}, which is no whole number")
    return value


def _number(value: Any) -> float:
    """A number of a JSON file; a TypeError for anything else."""
    return float(value if isinstance(value, float) else _whole(value))


def _check_file(path: pathlib.Path, digest: str) -> None:
    """Refuses a part that vanished or was replaced; ecood 0.1 did not list them."""
    if not path.is_file():
        raise InputError(f"{path} is missing; the scorer was saved with it: copy it again.")
    if _sha256(path) != digest:
        raise InputError(
            f"{path} is not the file that the scorer was saved with; it is another "
            "scorer's: copy the whole directory again."
        )


def _check_together(
    directory: pathlib.Path, shape: tuple[int, ...], flow: Flow, encoder: Encoder, bank: memory.Bank
) -> None:
    """Refuses parts of several scorers that ecood 0.1 saved."""
    rows, *_ = jax.tree.leaves(bank)
    try:
        width = encoders.width(encoder, shape)
        if isinstance(encoder.function, encoders.Elsewhere):
            encoder = encoders.beside(encoder, jnp.zeros((2, width)))
        check_parts(flow, encoder, shape)
    except Exception as error:  # networks of other images fail in many ways
        reason = [*str(error).splitlines(), type(error).__name__][0].removesuffix(".")
        raise InputError(
            f"flow and encoder in {directory} are not of images {list(shape)} ({reason}); copy the "
            "whole directory again."
        ) from error
    if rows.shape[-1] != width:
        raise InputError(
            f"the bank in {directory} has {rows.shape[-1]} numbers a row, and its encoder gives "
            f"{width}; they are parts of two scorers: copy the whole directory again."
        )


def _read_form(description: dict[str, Any]) -> tuple[Any, Reference]:
    if description["format"] == 1:
        parts = description.get("usual")
        if parts is None:
            return PAPER, NO_REFERENCE
        form, parts = OF_0_1, dict(zip(Reference._fields, parts, strict=True))
    else:
        form, parts = FORMS[description["form"]], description["reference"]
    reference = Reference(*(jnp.asarray(parts[name], jnp.float32) for name in Reference._fields))
    count = 4 if form == RECOMMENDED else len(reference.centre)
    if not all(
        part.shape == (count,) and count in (3, 4) and np.isfinite(part).all() for part in reference
    ) or np.any(reference.spread < 0):
        raise ValueError("the reference")
    return form, reference


def _read_description(directory: pathlib.Path) -> dict[str, Any]:
    path = directory / SCORER
    if not os.path.isfile(path):
        if not os.access(directory, os.X_OK):
            raise InputError(f"{directory} cannot be read; check its permissions.")
        raise InputError(f"{directory} holds no scorer.json; expected what Scorer.save wrote.")
    description = _read_json(path)
    version = description.get("format")
    if version not in range(1, FORMAT + 1):
        raise InputError(
            f"{path} has format {version!r}, and this ecood {ecood.__version__} reads formats up "
            f"to {FORMAT}; install the version that wrote it."
        )
    if (form := description.get("form", RECOMMENDED.name)) not in list(FORMS):
        raise InputError(
            f"{path} has a score of the form {form!r}, and this ecood {ecood.__version__} knows "
            f"{', '.join(FORMS)}; install the version that wrote it."
        )
    return description


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path} is damaged; copy the directory again.")
    return found


def _read_images(directory: pathlib.Path) -> np.ndarray:
    path = directory / IMAGES
    known = weights.load(path)[0].get("fitted_on")
    if known is None or known.ndim != 2 or known.shape[1] != 2:
        raise InputError(f"{path} holds no fingerprints; it is damaged: copy the directory again.")
    return known


def _read_calibration(directory: pathlib.Path, description: dict[str, Any]) -> np.ndarray:
    path = directory / CALIBRATION
    tree, metadata = weights.load(path)
    if metadata.get("scorer") != _digest(directory, description):
        raise InputError(
            f"{path} was made for a scorer with other weights or settings; calibrate this one "
            "again, or copy its directory again."
        )
    scores = tree.get("scores")
    if scores is None or scores.ndim != 1 or not scores.size or not np.isfinite(scores).all():
        raise InputError(f"{path} holds no calibration; expected finite scores [n] in it.")
    return np.sort(scores)


def _digest(directory: pathlib.Path, description: dict[str, Any]) -> str:
    """SHA-256 of all that decides a score, so that no calibration outlives its scorer."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for part in PARTS:
        path = directory / f"{part}.safetensors"
        if path.exists():  # or the description has its identity
            digest.update(bytes.fromhex(_sha256(path)))
    return digest.hexdigest()


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
