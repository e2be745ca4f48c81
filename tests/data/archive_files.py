"""Small archives in the layouts in which data sets are published."""

import gzip
import hashlib
import io
import struct
import tarfile
import zipfile

import numpy as np
import scipy.io
from PIL import Image

from ecood.data.download import Remote
from tests.data.image_files import random_images

COUNTS = {"train": 25, "test": 8, "extra": 6, "validation": 3}
CLASSES = {"label": [f"class_{i}" for i in range(10)]}
CLASSES_100 = {
    "coarse_label": [f"coarse_{i}" for i in range(20)],
    "label": [f"fine_{i}" for i in range(100)],
}


def known(name, split):
    """The images and labels of a split of the small archives, in their order."""
    shape = (28, 28, 1) if "mnist" in name else (32, 32, 3)
    seed = sum(map(ord, name + split))
    images = random_images(seed, COUNTS[split], shape)
    most = {"cifar100": {"coarse_label": 20, "label": 100}}.get(name, {"label": 10})
    return images, {key: (seed + np.arange(len(images))) % number for key, number in most.items()}


def write(folder, name, kind="binary"):
    """Writes the archives of a data set; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    if name.startswith("cifar"):
        return [WRITERS[kind](folder, name)]
    if name == "svhn_cropped":
        return [_mat(folder, split) for split in ("train", "test", "extra")]
    return [
        _idx(folder / f"{start}-{which}", array)
        for split, start in (("train", "train"), ("test", "t10k"))
        for which, array in (
            ("images-idx3-ubyte.gz", known(name, split)[0][..., 0]),
            ("labels-idx1-ubyte.gz", known(name, split)[1]["label"].astype(np.uint8)),
        )
    ]


def remotes(paths, at="http://127.0.0.1:9"):
    """What is known of archives that somebody publishes at an address."""
    known = {}
    for path in paths:
        data = path.read_bytes()
        url = f"{at}/{path.name}"
        known[path.name] = Remote(url, len(data), hashlib.sha256(data).hexdigest())
    return known


def _batches(name, split):
    """The members of a CIFAR archive, without suffix, and which examples are in each."""
    count = COUNTS[split]
    if name == "cifar100":
        return [(split, slice(count))]
    if split == "test":
        return [("test_batch", slice(count))]
    size = count // 5
    return [(f"data_batch_{i + 1}", slice(size * i, size * (i + 1))) for i in range(5)]


def _rows(images):
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def _binary(folder, name):
    number, files = name[5:], {}
    for split in ("train", "test"):
        images, labels = known(name, split)
        columns = [column.astype(np.uint8)[:, None] for column in labels.values()]
        rows = np.concatenate([*columns, _rows(images)], axis=1)
        files |= {f"{member}.bin": rows[part].tobytes() for member, part in _batches(name, split)}
    if name == "cifar10":
        files["batches.meta.txt"] = "\n".join([*CLASSES["label"], "\n"]).encode()
        return _tar(folder / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", files)
    for key, file in (("coarse_label", "coarse"), ("label", "fine")):
        files[f"{file}_label_names.txt"] = "\n".join([*CLASSES_100[key], ""]).encode()
    return _tar(folder / f"cifar-{number}-binary.tar.gz", "cifar-100-binary", files)


def _python(folder, name):
    number, files = name[5:], {}
    for split in ("train", "test"):
        images, labels = known(name, split)
        names = {"label": b"labels"} if name == "cifar10" else FINE
        for member, part in _batches(name, split):
            batch = {names[key]: column[part].tolist() for key, column in labels.items()}
            batch |= {b"data": _rows(images[part]), b"batch_label": b"a batch"}
            files[member] = python2(batch)
    if name == "cifar10":
        files["batches.meta"] = python2({b"label_names": _encoded(CLASSES["label"])})
    else:
        meta = {b"fine_label_names": "label", b"coarse_label_names": "coarse_label"}
        files["meta"] = python2({k: _encoded(CLASSES_100[v]) for k, v in meta.items()})
    inside = "cifar-10-batches-py" if name == "cifar10" else "cifar-100-python"
    return _tar(folder / f"cifar-{number}-python.tar.gz", inside, files)


WRITERS = {"binary": _binary, "python": _python}
FINE = {"coarse_label": b"coarse_labels", "label": b"fine_labels"}


def _encoded(words):
    return [word.encode() for word in words]


def _tar(path, folder, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def python2(value):
    """A pickle as Python 2 wrote it, whose strings are bytes."""
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value):
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"I01\n" if value else b"I00\n"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_python2, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_python2(k) + _python2(v) for k, v in value.items()) + b"u"
    dtype = b"cnumpy\ndtype\n" + _python2((b"u1", 0, 1)) + b"R"
    dtype += _python2((3, b"|", None, None, None, -1, -1, 0)) + b"b"
    made = b"cnumpy.core.multiarray\n_reconstruct\n"
    made += b"(cnumpy\nndarray\n" + _python2((0,)) + _python2(b"b") + b"tR"
    state = b"(" + _python2(1) + _python2(value.shape) + dtype + _python2(False)
    return made + state + _python2(value.tobytes()) + b"tb"


def _mat(folder, split):
    images, labels = known("svhn_cropped", split)
    path = folder / f"{split}_32x32.mat"
    y = np.where(labels["label"] == 0, 10, labels["label"]).astype(np.uint8)[:, None]
    scipy.io.savemat(path, {"X": np.moveaxis(images, 0, -1), "y": y}, do_compression=True)
    return path


def _idx(path, array):
    with gzip.open(path, "wb") as file:
        file.write(bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape))
        file.write(array.tobytes())
    return path


ATTRIBUTES = "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips"
ATTRIBUTES += " Big_Nose Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin"
ATTRIBUTES += " Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open"
ATTRIBUTES += " Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline"
ATTRIBUTES += " Rosy_Cheeks Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat"
ATTRIBUTES += " Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young"
LANDMARKS = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y"
LANDMARKS += " rightmouth_x rightmouth_y"


def write_celeba(folder, size=(178, 218)):
    """CelebA's archives, in folders as on its drive; their paths, and the JPEG files by name."""
    for inside in ("Img", "Anno", "Eval"):
        (folder / inside).mkdir(parents=True)
    count = COUNTS["train"] + COUNTS["validation"] + COUNTS["test"]
    names, jpegs = [f"{i:06}.jpg" for i in range(1, count + 1)], {}
    for i, name in enumerate(names):
        buffer = io.BytesIO()
        Image.new("RGB", size, (i, 2 * i, 255 - i)).save(buffer, "JPEG")
        jpegs[name] = buffer.getvalue()
    with zipfile.ZipFile(folder / "Img" / "img_align_celeba.zip", "w") as archive:
        for name, jpeg in jpegs.items():
            archive.writestr(f"img_align_celeba/{name}", jpeg)
    which = [0] * COUNTS["train"] + [1] * COUNTS["validation"] + [2] * COUNTS["test"]
    lists = {
        "Eval/list_eval_partition.txt": [f"{n} {k}" for n, k in zip(names, which, strict=True)],
        "Anno/identity_CelebA.txt": [f"{n} {7 * i}" for i, n in enumerate(names)],
        "Anno/list_attr_celeba.txt": [
            str(count),
            f"{ATTRIBUTES} ",
            *(
                f"{n}  {' '.join(str((i + k) % 2 * 2 - 1) for k in range(40))}"
                for i, n in enumerate(names)
            ),
        ],
        "Anno/list_landmarks_align_celeba.txt": [
            str(count),
            LANDMARKS,
            *(f"{n}  {' '.join(str(i + k) for k in range(10))}" for i, n in enumerate(names)),
        ],
    }
    for name, lines in lists.items():
        (folder / name).write_text("\n".join([*lines, ""]))
    return sorted(path for path in folder.rglob("*") if path.is_file()), jpegs


def pixels(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)))
