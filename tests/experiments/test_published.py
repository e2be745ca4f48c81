import json

import pytest

from ecood.errors import InputError
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


def _written(tmp_path, *entries):
    path = tmp_path / "published.json"
    path.write_text(json.dumps(entries))
    return path


def test_the_papers_own_numbers_are_in_the_file():
    found = {(p.id, p.ood, p.auroc) for p in published.load() if p.method == "spem" and p.verified}
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


def test_a_number_from_memory_is_never_called_verified():
    for one in published.load():
        assert one.verified == ("from memory" not in one.source), one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"auroc": 87.0}, "has the auroc 87.0, expected a number in"),
        ({"auroc": True}, "has the auroc True"),
        ({"ood": "cifar10"}, "has the pair cifar10, cifar10, which is not in the benchmark"),
        ({"id": "CIFAR-10"}, "has the pair CIFAR-10, svhn_cropped"),
        ({"verified": "yes"}, "has verified = 'yes'"),
        ({"setting": ""}, "has the setting ''"),
        ({"model": "a | b"}, "without |"),
        ({"source": "Somebody 2021"}, "expected an arXiv number or a URL in it"),
        ({"extra": 1}, "expected an object with id, ood, method"),
    ],
)
def test_a_faulty_entry_is_refused(tmp_path, change, message):
    with pytest.raises(InputError) as error:
        published.load(_written(tmp_path, ENTRY, ENTRY | {"method": "waic"} | change))
    assert message in str(error.value) and "entry 1 of" in str(error.value)


def test_a_repeated_entry_and_a_broken_file_are_refused(tmp_path):
    with pytest.raises(InputError, match="repeats an earlier one"):
        published.load(_written(tmp_path, ENTRY, ENTRY))
    (tmp_path / "broken.json").write_text("[{")
    with pytest.raises(InputError, match="expected a JSON list"):
        published.load(tmp_path / "broken.json")


def test_ours_stands_beside_theirs_and_the_unverified_is_marked(tmp_path):
    remembered = {"auroc": 0.9, "verified": False, "source": "Another 2020, https://a.org"}
    given = published.load(
        _written(
            tmp_path,
            ENTRY,
            ENTRY | {"method": "dose", "auroc": 0.9553},
            ENTRY | {"method": "waic"} | remembered,
            ENTRY | {"id": "mnist", "ood": "fashion_mnist"},
        )
    )
    pair = ("cifar10", "svhn_cropped")
    summary = {
        (*pair, "typicality"): {"auroc": 0.8124},
        (*pair, "dose_kde"): {"auroc": 0.9},
        (*pair, "dose_svm"): {"auroc": 0.8},
    }
    lines = published.table(summary, given)
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


def test_without_an_unverified_number_there_is_no_dagger(tmp_path):
    given = published.load(_written(tmp_path, ENTRY))
    lines = published.table({("cifar10", "svhn_cropped", "spem"): {"auroc": 0.9}}, given)
    assert "†" not in "".join(lines)
    pair = ("mnist", "fashion_mnist", "spem")
    assert published.table({pair: {"auroc": 0.9}}, given) == [
        "No number is published for these pairs."
    ]
