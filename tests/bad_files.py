"""Files in which something is wrong, made in `given/` of a folder."""

import io
import json
import os
import pickle
import zipfile

import numpy as np

from ecood import weights
from tests import small


class Payload:
    """What a file with code in it does when it is unpickled."""

    def __init__(self, folder):
        self.marker = str(folder / "executed")

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


def given(folder, name, content):
    path = folder / "given" / name
    path.parent.mkdir(exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        np.savez(path, **content)
    return path


def edit(path, **changes):
    text = json.dumps(json.loads((path / "scorer.json").read_text()) | changes)
    (path / "scorer.json").write_text(text)


def weights_file(folder, tree, metadata=None):
    path = folder / "given" / "w.safetensors"
    weights.save(path, tree, metadata)
    return path


def archive(folder, name, content=b""):
    path = folder / "given" / "evil.npz"
    path.parent.mkdir()
    buffer = io.BytesIO()
    np.save(buffer, small.images(40))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, content or buffer.getvalue())
    return path


def poison(folder):
    return pickle.dumps({"weight": Payload(folder)})


def pickled_array(folder):
    buffer = io.BytesIO()
    np.save(buffer, np.array([Payload(folder)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def left_behind(folder):
    return [p for p in folder.rglob("*") if "given" not in p.relative_to(folder).parts]
