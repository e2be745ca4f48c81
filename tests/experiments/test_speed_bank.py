import sys
import types

import numpy as np
import pytest

from ecood.errors import InputError
from experiments import speed_bank


class Flat:
    """What the experiment needs of faiss's index."""

    def __init__(self, features):
        self.rows = np.zeros((0, features), np.float32)

    def add(self, rows):
        self.rows = np.concatenate([self.rows, rows])

    def search(self, queries, count):
        return np.sort(queries @ self.rows.T, axis=1)[:, ::-1][:, :count], None


def test_a_search_is_timed_compared_and_weighed(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", types.SimpleNamespace(IndexFlatIP=Flat))
    monkeypatch.setattr(speed_bank, "TURNS", 2)
    entry = speed_bank.search(9000)
    assert entry["what"] == "search 1000 x 9,000 x 384"
    assert entry["ratio"] == entry["theirs"] / entry["ours"] > 0
    assert entry["bank_bytes"] == 9000 * 384 * 4
    assert 0 < entry["temporary_bytes"] < entry["bank_bytes"] / 2
    assert entry["peak_bytes"] is None or entry["peak_bytes"] < entry["bank_bytes"]
    assert entry["largest_difference"] < 1e-5


def test_without_faiss_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match="run `pip install faiss-cpu`"):
        speed_bank.measure("bank")
