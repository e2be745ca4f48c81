"""The images of the memory bank as small PNG files, so that the nearest one can be shown."""

import dataclasses
import io
import os

import numpy as np
from PIL import Image

from ecood import weights
from ecood.errors import InputError

__all__ = ["SIDE", "Thumbnails", "load", "make", "png", "save"]

SIDE = 64  # pixels of the longer side; smaller images are kept as they are, without loss


@dataclasses.dataclass(frozen=True)
class Thumbnails:
    """PNG files, one after the other.

    Attributes:
      data: their bytes, uint8 [bytes].
      ends: where each ends in it, uint32 [N].
    """

    data: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> bytes:
        """The PNG file of a row of the bank, 0 <= row < N."""
        start = self.ends[row - 1] if row else 0
        return self.data[start : self.ends[row]].tobytes()


def make(images: np.ndarray) -> Thumbnails:
    """Those of images, uint8 [N, H, W, C], in their order."""
    files = [png(image) for image in images]
    if sum(map(len, files)) >= 2**32:
        raise InputError("the images of the bank make 4 GiB of thumbnails; fit without them.")
    ends = np.cumsum([len(file) for file in files], dtype=np.uint32)
    return Thumbnails(np.frombuffer(b"".join(files), np.uint8), ends)


def png(image: np.ndarray) -> bytes:
    """A PNG file of an image, uint8 [H, W, C]; of other than 1 or 3 channels their mean, in grey.

    An image longer than `SIDE` is shrunk to it, its aspect ratio kept.
    """
    if image.shape[-1] not in (1, 3):
        image = np.mean(image, axis=-1, keepdims=True).round().astype(np.uint8)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def save(path: str | os.PathLike, thumbnails: Thumbnails) -> None:
    """Writes one safetensors file."""
    weights.save(path, dataclasses.asdict(thumbnails))


def load(path: str | os.PathLike) -> Thumbnails:
    """Reads what `save` wrote; an `InputError` if the file is damaged."""
    tree, _ = weights.load(path)
    data, ends = tree.get("data"), tree.get("ends")
    if (
        set(tree) != {"data", "ends"}
        or (data.dtype, ends.dtype) != (np.uint8, np.uint32)
        or data.ndim != 1
        or ends.ndim != 1
        or not len(ends)
        or (np.diff(ends.astype(np.int64), prepend=0) <= 0).any()
        or ends[-1] != len(data)
    ):
        raise InputError(f"{path} holds no thumbnails; it is damaged: copy the directory again.")
    return Thumbnails(data, ends)
