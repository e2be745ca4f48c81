"""Downloads data sets and prepares them where TFDS keeps its own, without TensorFlow.

python -m ecood prepare cifar10 svhn_cropped
python -m ecood prepare celeb_a --archives FOLDER

They go to $TFDS_DATA_DIR, else ~/tensorflow_datasets, where `--data auto` and any program's
`tfds.data_source(name)` find them. Downloads go on where they stopped, and are checked by their
SHA-256. With --archives nothing is downloaded: they are looked for in the folder, at any depth.
CelebA's must be fetched by hand: img_align_celeba.zip (or unpacked), list_eval_partition.txt,
list_attr_celeba.txt, list_landmarks_align_celeba.txt and identity_CelebA.txt.
"""

import argparse
import pathlib

from ecood.data import archives, prepare, prepared
from ecood.errors import InputError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add(
        "names",
        nargs="+",
        choices=list(archives.SETS),
        metavar="NAME",
        help=", ".join(archives.SETS),
    )
    what = "a folder with the archives, or one of them; all are taken from there"
    add("--archives", type=pathlib.Path, metavar="PATH", help=what)
    what = "a TFDS data directory (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)"
    add("--out", type=pathlib.Path, metavar="DIRECTORY", help=what)


def run(arguments: argparse.Namespace) -> int:
    """Prepares."""
    directory, at_hand = arguments.out or prepared.default_directory(), arguments.archives
    if directory.parts[:1] == ("~",):
        raise InputError("this user has no home; name a directory by --out or TFDS_DATA_DIR.")
    for name in arguments.names:
        if at_hand is None and name in archives.LOCAL and not prepared.find(directory, name):
            raise InputError(f"{prepare.obstacle([name], 0)}.")
        print(f"{name}: {prepare.prepare(name, directory, at_hand=at_hand)}")
    return 0
