import time

import numpy as np
import pytest

from ecood.data import embedded
from ecood.errors import InputError

SIZES = {
    ("fashion_mnist", "train"): 10_000,
    ("fashion_mnist", "test"): 2_000,
    ("mnist", "train"): 2_500,
    ("mnist", "test"): 2_500,
}


def test_sizes_labels_and_classes():
    for (name, split), size in SIZES.items():
        images, labels = embedded.load_images(name, split), embedded.load_labels(name, split)
        assert images.shape == (size, 28, 28, 1) and images.dtype == np.uint8
        assert labels.shape == (size,) and labels.dtype == np.int64
        # every class has a tenth of the images: 5 sigma of the binomial
        expected, sigma = size / 10, np.sqrt(size * 0.09)
        assert np.all(np.abs(np.bincount(labels, minlength=10) - expected) < 5 * sigma)


def test_no_image_occurs_twice():
    images = [embedded.load_images(*key) for key in SIZES]
    seen = {image.tobytes() for array in images for image in array}
    assert len(seen) == sum(SIZES.values())


def test_images_are_upright_and_go_with_their_labels():
    def mean_image(name, label):
        chosen = embedded.load_labels(name, "test") == label
        return embedded.load_images(name, "test")[chosen, ..., 0].mean(axis=0)

    def middle_column(image):
        return (image * np.arange(28)).sum() / image.sum()

    one, seven = mean_image("mnist", 1), mean_image("mnist", 7)
    assert one[:, 8:20].sum() > 0.95 * one.sum()
    assert seven[:14].sum() > 1.1 * seven[14:].sum()  # the bar is on top
    assert middle_column(seven[20:]) < middle_column(seven[10:14]) - 1  # the foot on the left
    trousers, boot = mean_image("fashion_mnist", 1), mean_image("fashion_mnist", 9)
    assert trousers[22:, 14].mean() < 0.9 * trousers[22:, 11].mean()  # between the legs
    assert boot[:10, 14:].sum() > 1.5 * boot[:10, :14].sum()  # the shaft is up on the right


def test_limit_takes_the_first():
    np.testing.assert_array_equal(
        embedded.load_images("mnist", "test", 7), embedded.load_images("mnist", "test")[:7]
    )
    np.testing.assert_array_equal(
        embedded.load_labels("mnist", "test", 7), embedded.load_labels("mnist", "test")[:7]
    )


def test_the_pair_loads_in_a_second_of_computing():
    start = time.process_time()
    for name, split in (("fashion_mnist", "train"), ("fashion_mnist", "test"), ("mnist", "test")):
        embedded.load_images(name, split)
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(("name", "split"), [("cifar10", "test"), ("mnist", "validation")])
def test_what_is_not_shipped_is_refused(name, split):
    with pytest.raises(InputError, match=f"hold no {name}, split {split}; expected one of fashion"):
        embedded.load_images(name, split)
    with pytest.raises(InputError, match=f"hold no {name}, split {split}; expected one of fashion"):
        embedded.load_labels(name, split)
