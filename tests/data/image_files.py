"""Images in the forms that users bring them: files, folders and TFDS data sets."""

import io
import json
import struct

import numpy as np
from PIL import Image


def random_images(seed, count, shape=(5, 4, 3)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def encode(image):
    buffer = io.BytesIO()
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_images(folder, images):
    """Writes images as PNG files into a folder, made if need be; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:04}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(encode(image))
    return paths


def write_tfds(directory, name, splits, *, kind="array_record", version="1.0.0", shards=1):
    """Writes {split: (images, labels)} as TFDS prepares a data set, without TensorFlow."""
    folder = directory / name / version
    folder.mkdir(parents=True)
    info = {"fileFormat": kind, "name": name, "version": version, "splits": []}
    for split, (images, labels) in splits.items():
        parts = np.array_split(np.arange(len(images)), shards)
        for i, part in enumerate(parts):
            path = folder / f"{name}-{split}.{kind}-{i:05}-of-{shards:05}"
            WRITERS[kind](path, [example(images[j], labels[j]) for j in part])
        info["splits"].append(
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "numBytes": "1",
                "shardLengths": [str(len(part)) for part in parts],
            }
        )
    (folder / "features.json").write_text(json.dumps(features(images.shape[1:])))
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def features(shape):
    image = {
        "shape": {"dimensions": [str(size) for size in shape]},
        "dtype": "uint8",
        "encodingFormat": "png",
    }
    base = "tensorflow_datasets.core.features"
    return {
        "pythonClassName": f"{base}.features_dict.FeaturesDict",
        "featuresDict": {
            "features": {
                "image": {"pythonClassName": f"{base}.image_feature.Image", "image": image},
                "label": {
                    "pythonClassName": f"{base}.class_label_feature.ClassLabel",
                    "classLabel": {"numClasses": "10"},
                },
            }
        },
    }


def example(image, label):
    from tensorflow_datasets.proto import tf_example_pb2

    record = tf_example_pb2.Example()
    record.features.feature["image"].bytes_list.value.append(encode(image))
    record.features.feature["label"].int64_list.value.append(int(label))
    return record.SerializeToString()


def write_array_record(path, records):
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def write_tfrecord(path, records):
    crc = b"\0\0\0\0"
    path.write_bytes(b"".join(struct.pack("<Q", len(r)) + crc + r + crc for r in records))


WRITERS = {"array_record": write_array_record, "tfrecord": write_tfrecord}
