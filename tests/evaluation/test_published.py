"""`published.json` is in order, and each number stands beside ours."""

import json
import re

import pytest

from ecood.evaluation import sets
from ecood.evaluation.published import beside, load

FIELDS = ("id", "ood", "method", "model", "setting", "source")


def test_the_papers_own_numbers_are_in_the_file():
    found = {
        (one["id"], one["ood"], one["auroc"])
        for one in load()
        if one["method"] == "spem" and one["verified"]
    }
    assert found == {
        ("cifar10", "svhn_cropped", 0.9916),
        ("cifar10", "svhn_cropped", 0.9943),
        ("svhn_cropped", "cifar10", 0.9997),
        ("cifar10", "celeb_a", 0.9993),
        ("fashion_mnist", "mnist", 0.9424),
        ("mnist", "fashion_mnist", 1.0),
        ("cifar100", "svhn_cropped", 0.9343),
        ("cifar100", "svhn_cropped", 0.9458),
        ("svhn_cropped", "cifar100", 0.9992),
        ("svhn_cropped", "celeb_a", 1.0),
    }


@pytest.mark.parametrize("one", load(), ids=lambda one: f"{one['id']}-{one['method']}")
def test_an_entry_has_every_field_an_address_and_a_pair_of_ours(one):
    assert one.keys() == {*FIELDS, "auroc", "verified"}
    for field in FIELDS:
        text = one[field]
        assert isinstance(text, str) and text.strip() and "|" not in text and "\n" not in text
    assert one["ood"] in sets.OOD_OF[one["id"]]
    assert type(one["auroc"]) in (int, float) and 0 <= one["auroc"] <= 1
    assert type(one["verified"]) is bool
    assert one["verified"] == ("from memory" not in one["source"])
    assert re.search(r"https?://\S|arXiv \d{4}\.\d{4,5}", one["source"])


def test_no_entry_comes_twice():
    entries = [json.dumps(one, sort_keys=True) for one in load()]
    assert len(set(entries)) == len(entries)


def test_a_number_stands_beside_our_detectors_that_ran_for_its_method():
    pair, other = ("cifar10", "svhn_cropped"), ("mnist", "fashion_mnist")
    given = [
        {"id": pair[0], "ood": pair[1], "method": method} for method in ("dose", "spem", "waic")
    ]
    given.append({"id": other[0], "ood": other[1], "method": "spem"})
    ours = {"spem_paper": 0.7, "spem": 0.9, "dose_kde": 0.8}
    summary = {(*pair, name): {"auroc": auroc} for name, auroc in ours.items()}
    found = beside(summary, given)
    assert [one["method"] for one, _ in found] == ["dose", "spem", "waic"]  # of the pair that ran
    assert [told for _, told in found] == [
        {"dose_kde": 0.8},
        {"spem_paper": 0.7, "spem": 0.9},
        {},
    ]
    assert [one for one, _ in beside(summary)] == [
        one for one in load() if (one["id"], one["ood"]) == pair
    ]
