"""`published.json` is in order, and each number stands beside ours."""

import json
import re

import pytest

from ecood.evaluation import sets
from ecood.evaluation.published import load
from experiments.benchmark import published

ENTRY = {
    "id": "cifar10",
    "ood": "svhn_cropped",
    "method": "typicality",
    "auroc": 0.87,
    "model": "Glow",
    "setting": "as published",
    "source": "Somebody 2021, Table 1, arXiv 2006.09273",
    "verified": True,
}
PAIR = ("cifar10", "svhn_cropped")


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
    assert one.keys() == ENTRY.keys()
    for field in ("id", "ood", "method", "model", "setting", "source"):
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


def test_ours_stands_beside_theirs_and_the_unverified_is_marked():
    remembered = {"auroc": 0.9, "verified": False, "source": "Another 2020, https://a.org"}
    given = [
        ENTRY,
        ENTRY | {"method": "dose", "auroc": 0.9553},
        ENTRY | {"method": "waic"} | remembered,
        ENTRY | {"id": "mnist", "ood": "fashion_mnist"},
    ]
    ours = {"typicality": 0.8124, "dose_kde": 0.9, "dose_svm": 0.8}
    lines = published.page({(*PAIR, name): {"auroc": auroc} for name, auroc in ours.items()}, given)
    shown = [line for line in lines if line.startswith("| cifar10 →")]
    assert [line.split(" | ")[1:4] for line in shown] == [
        ["typicality", "0.87", "0.812"],
        ["dose", "0.9553", "dose kde 0.900, dose svm 0.800"],
        ["WAIC", "0.90†", "not run"],
    ]
    assert [line.split(" | ")[-1] for line in shown] == ["1 |", "1 |", "2 |"]
    assert lines[-2:] == [f"1. {ENTRY['source']}", "2. Another 2020, https://a.org"]
    assert any(line.startswith("† Not verified") for line in lines)
    assert not any("mnist" in line for line in lines)  # a pair of ours that was not run


def test_without_an_unverified_number_there_is_no_dagger():
    assert "†" not in "".join(published.page({(*PAIR, "spem"): {"auroc": 0.9}}, [ENTRY]))
    other = {("mnist", "fashion_mnist", "spem"): {"auroc": 0.9}}
    assert published.page(other, [ENTRY]) == [
        "## Published numbers beside ours: none is known for these pairs."
    ]
