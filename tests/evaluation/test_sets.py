import numpy as np
import pytest

from ecood import data, splits
from ecood.errors import InputError
from ecood.evaluation import sets
from tests.evaluation import tiny_sets


def test_a_scorer_of_your_own_is_fitted_to_your_own_images(monkeypatch):
    asked = []

    def load_images(source, name, split, *, limit=None):
        asked.append((source, name))
        raise InputError("enough.")

    monkeypatch.setattr(data, "load_images", load_images)
    for own in ((), ("fashion_mnist",)):
        with pytest.raises(InputError, match="no pair can be run"):
            sets.load_all("here", None, ["fashion_mnist"], 9, lambda *_: None, own=own)
    assert asked == [("embedded", "fashion_mnist"), ("here", "fashion_mnist")]


def test_larger_ood_images_are_cropped_and_averaged(monkeypatch):
    image = np.zeros((1, 16, 24, 3), np.uint8)
    image[:, :, 4:12] = 200  # the left half of the middle square
    monkeypatch.setattr(data, "load_images", lambda *a, **k: image)
    small_image = sets.load_ood("x", None, "celeb_a", (8, 8, 3), None)[0]
    assert small_image.shape == (8, 8, 3)
    assert (small_image[:, :4] == 200).all() and (small_image[:, 4:] == 0).all()
    with pytest.raises(InputError, match="has 3 channels; expected 1"):
        sets.load_ood("x", None, "celeb_a", (8, 8, 1), None)


def test_what_a_retrained_flow_was_trained_on_may_not_be_known():
    tests = {"cifar10": tiny_sets.TESTS["cifar10"][:24]}
    id_set = sets.IDSet("cifar10", tiny_sets.scorer(), tiny_sets.SPLIT, tests)
    flow = id_set.scorer.flow
    found = sets.retrained(id_set, flow.replace(trained_on=None))
    assert found.scorer.flow.trained_on is None and len(found.split.held_out) == 6
    knows = flow.replace(trained_on=splits.remember(tests["cifar10"][:1]))
    with pytest.raises(InputError, match="was trained on images of cifar10"):
        sets.retrained(id_set, knows)


def test_more_ood_sets_are_run_told_of_or_refused(monkeypatch):
    own = tiny_sets.scorer()
    images = tiny_sets.TESTS["cifar10"][:24]
    more = {"mine": 255 - images, "grey": images[..., :1]}
    parts = {"train": tiny_sets.TRAIN, "test": images}
    monkeypatch.setattr(data, "load_images", lambda _, __, part, **___: parts[part])
    monkeypatch.setattr(sets, "load_ood", lambda *_: 255 - images)
    monkeypatch.setattr(sets, "load_more", lambda *_: more)
    load = ("here", None, ["cifar10"], None, lambda *_: own, ("cifar10",), "more.npz")
    (id_set,), missing = sets.load_all(*load)
    assert "mine" in id_set.tests and "grey" not in id_set.tests
    (one,) = missing
    assert (one["id"], one["ood"]) == ("any", "grey")
    assert "as those of no ID set here" in one["reason"]
    more["svhn_cropped"] = images
    with pytest.raises(InputError, match="more.npz has a set svhn_cropped, as ecood does"):
        sets.load_all(*load)


def test_an_image_that_one_scorer_knows_is_left_out_for_all(monkeypatch):
    """Else means over the pairs would be of unequal images, and be refused when all is scored."""
    own, images = tiny_sets.scorer(), tiny_sets.TESTS["cifar10"][:24]
    more = {"mine": 255 - images}

    def around(known):
        flow = own.flow.replace(trained_on=splits.remember(known))
        return sets.with_flow(sets.IDSet("x", own, tiny_sets.SPLIT, {}), flow).scorer

    of = {"cifar10": own, "svhn_cropped": around(more["mine"][:2])}
    parts = {"train": tiny_sets.TRAIN, "test": images}
    monkeypatch.setattr(data, "load_images", lambda _, __, part, **___: parts[part])
    monkeypatch.setattr(sets, "load_ood", lambda *_: 128 - images // 2)
    monkeypatch.setattr(sets, "load_more", lambda *_: more)
    scorers = iter(of.values())
    load = ("here", None, list(of), None, lambda *_: next(scorers), tuple(of), "more.npz")
    found, _ = sets.load_all(*load)
    for id_set in found:
        np.testing.assert_array_equal(id_set.tests["mine"], more["mine"][2:])
    said = "2 images are left out of mine: the scorer of another ID set knows them."
    assert [said in id_set.notes for id_set in found] == [True, False]
    assert len(found[0].tests["imagenet32"]) == 24
    scorers = iter((own, around(more["mine"][:20]), around(more["mine"][10:])))
    load = (
        "here",
        None,
        ["cifar10", "svhn_cropped", "celeb_a"],
        *load[3:5],
        ("cifar10",),
        load[-1],
    )
    found, missing = sets.load_all(*load)
    assert not any("mine" in id_set.tests for id_set in found)
    assert {each["id"] for each in missing if each["ood"] == "mine"} == set(load[2])


def test_an_ood_set_that_two_id_sets_have_in_two_sizes_is_left_to_both(monkeypatch):
    own, images = tiny_sets.scorer(), tiny_sets.TESTS["cifar10"][:24]
    larger = {"cifar10": images, "celeb_a": images.repeat(2, axis=1).repeat(2, axis=2)}
    train = {n: np.repeat(x, 9, axis=0) for n, x in larger.items()} | {"cifar10": tiny_sets.TRAIN}
    of = {"train": train, "test": larger}
    monkeypatch.setattr(data, "load_images", lambda _, name, part, **___: of[part][name])
    monkeypatch.setattr(
        sets,
        "load_ood",
        lambda _, __, ___, shape, ____: (
            255 - larger["cifar10" if shape == images.shape[1:] else "celeb_a"]
        ),
    )
    monkeypatch.setattr(sets, "split_of", lambda *_: tiny_sets.SPLIT)
    found, _ = sets.load_all("here", None, list(larger), None, lambda *_: own, tuple(larger))
    assert [len(id_set.tests["svhn_cropped"]) for id_set in found] == [24, 24]


def test_more_ood_sets_may_be_on_the_hub(monkeypatch):
    asked = []
    monkeypatch.setattr(data, "load_images", lambda *words, **more: asked.append((*words, more)))
    assert list(sets.load_more("hf:a/b", 3)) == ["hf:a/b"]
    assert asked == [("hf:a/b", "hf:a/b", "test", {"limit": 3})]
