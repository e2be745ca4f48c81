"""How good an encoder is, where labels are known: k-NN accuracy."""

import numpy as np

from ecood.batches import map_images
from ecood.encoders.encoder import Encoder

__all__ = ["knn_accuracy"]

CHUNK = 256  # queries whose similarities to the training images are in memory at a time

Labelled = tuple[np.ndarray, np.ndarray]


def knn_accuracy(encoder: Encoder, train: Labelled, test: Labelled, neighbours: int = 20) -> float:
    """The share of test images whose nearest training images agree on the right label.

    Images are uint8 [N, H, W, C], labels int [N], 0 or more. Embeddings are compared by
    cosine; of the neighbours the label of most wins, the smallest of equals.
    """
    bank, queries = (_embed(encoder, images) for images, _ in (train, test))
    labels, k = np.asarray(train[1]), min(neighbours, len(bank))
    predicted = []
    for start in range(0, len(queries), CHUNK):
        similarities = queries[start : start + CHUNK] @ bank.T
        nearest = np.argpartition(similarities, len(bank) - k, axis=1)[:, -k:]
        predicted += [np.bincount(row).argmax() for row in labels[nearest]]
    return float(np.mean(predicted == np.asarray(test[1])))


def _embed(encoder: Encoder, images: np.ndarray) -> np.ndarray:
    embeddings = np.float32(map_images(Encoder.embed, encoder, images=images))
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.where(norms > 0, norms, 1)  # a zero embedding is like no other
