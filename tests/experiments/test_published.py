"""What others published is told beside ours."""

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
