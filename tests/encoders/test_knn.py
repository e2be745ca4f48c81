import numpy as np
import pytest

from ecood import encoders
from ecood.encoders.knn import knn_accuracy


def colours(labels, seed):
    """Images of one pixel: red, green or blue by the label, of any brightness."""
    rng = np.random.default_rng(seed)
    pixels = np.eye(3)[labels] * rng.integers(100, 230, (len(labels), 1))
    return (pixels + rng.integers(0, 20, pixels.shape)).astype(np.uint8)[:, None, None, :]


def test_the_share_of_right_labels_among_the_nearest_by_cosine():
    labels, test_labels = np.arange(90) % 3, np.arange(300) % 3
    train, test = (colours(labels, 0), labels), colours(test_labels, 1)
    encoder = encoders.encoder(lambda x: x[:, 0, 0, :] / 255.0, name="colour")
    assert knn_accuracy(encoder, train, (test, test_labels)) == 1.0
    wrong = np.where(np.arange(300) < 75, 2 - test_labels, test_labels)  # green is right anyway
    assert knn_accuracy(encoder, train, (test, wrong)) == pytest.approx(250 / 300)


def test_all_vote_where_there_are_fewer_than_asked_for():
    labels = np.array([0, 0, 1])
    train = colours(labels, 0), labels
    encoder = encoders.encoder(lambda x: x[:, 0, 0, :] / 255.0, name="colour")
    assert knn_accuracy(encoder, train, (colours(labels, 1), labels)) == pytest.approx(2 / 3)


def test_a_zero_embedding_is_nobodys_nearest():
    kinds = [[[[200], [10]]] * 2, [[[10], [200]]] * 2]
    images, labels = np.repeat(np.uint8(kinds), 20, axis=0), np.repeat([0, 1], 20)
    more = np.concatenate([images, np.zeros_like(images[:1])]), np.append(labels, 0)
    assert knn_accuracy(encoders.pixels(), more, (images, labels), 1) == 1.0
