"""Data sets as their authors publish them, read as TFDS reads them.

| data set | archives | file |
| --- | --- | --- |
| `cifar10`, `cifar100` | `cifar-10-binary.tar.gz`, or `cifar-10-python.tar.gz` | `cifar.py` |
| `svhn_cropped` | `train_32x32.mat`, `test_32x32.mat`, `extra_32x32.mat` | `svhn.py` |
| `mnist`, `fashion_mnist` | `train-images-idx3-ubyte.gz` and three more | `mnist.py` |
| `celeb_a`, from a disk alone | `img_align_celeba.zip`, or unpacked, and four lists | `celeba.py` |

Splits, keys and features are those of TFDS's builders, so that the prepared data are in
TFDS's order. Nothing here checks what an archive holds beyond what reading it needs: the
digest does (`ecood.data.prepare`).
"""

from functools import partial

from ecood.data.archives import celeba, cifar, mnist, svhn
from ecood.data.archives.examples import Archives, Examples
from ecood.data.download import Remote

__all__ = ["INSTEAD", "LOCAL", "SETS", "Archives", "Examples"]

_IDX = ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz")
_IDX_FILES = {
    split: tuple(f"{start}-{kind}" for kind in _IDX)
    for split, start in (("train", "train"), ("test", "t10k"))
}
SETS = {
    "cifar10": Archives(
        dict.fromkeys(("train", "test"), ("cifar-10-binary.tar.gz",)),
        partial(cifar.read, cifar.CIFAR10),
    ),
    "cifar100": Archives(
        dict.fromkeys(("train", "test"), ("cifar-100-binary.tar.gz",)),
        partial(cifar.read, cifar.CIFAR100),
    ),
    "svhn_cropped": Archives(
        {split: (f"{split}_32x32.mat",) for split in ("train", "test", "extra")}, svhn.read
    ),
    "mnist": Archives(_IDX_FILES, mnist.read),
    "fashion_mnist": Archives(_IDX_FILES, mnist.read),
    "celeb_a": Archives(dict.fromkeys(celeba.SPLITS, celeba.FILES), celeba.read),
}
LOCAL = ("celeb_a",)  # whose host gives no file without a person who asks

# What is taken from a disk in the place of an archive. The Python archives are those that
# torchvision and Keras leave there, with the digests in Keras's source; a folder has none.
_KRIZ = "https://www.cs.toronto.edu/~kriz"
INSTEAD = {
    "cifar-10-binary.tar.gz": (
        "cifar-10-python.tar.gz",
        Remote(
            f"{_KRIZ}/cifar-10-python.tar.gz",
            170_498_071,
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        ),
    ),
    "cifar-100-binary.tar.gz": (
        "cifar-100-python.tar.gz",
        Remote(
            f"{_KRIZ}/cifar-100-python.tar.gz",
            169_001_437,
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        ),
    ),
    "img_align_celeba.zip": ("img_align_celeba", None),
}
