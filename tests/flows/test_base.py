import builtins

import jax
import pytest

import ecood.score
from ecood.errors import InputError
from tests import small


@pytest.mark.parametrize(
    "error", [ImportError("No module named 'tensorflow_probability'"), TypeError("None\nmore")]
)
def test_without_distrax_flows_say_why_they_do_not_work(monkeypatch, error):
    """As where the nightly that it stands on is gone, or under `python -OO`."""
    importing = builtins.__import__

    def refuse(name, *arguments, **options):
        if name == "distrax":
            raise error
        return importing(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    words = r"distrax, .* cannot be imported \((No module.*|None)\); install requirements\.txt"
    with pytest.raises(InputError, match=words):
        ecood.score.load("fashion_mnist")
    images = small.images(2).astype("float32") / 256
    with pytest.raises(InputError, match=words):
        small.flow(seed=77).log_prob(jax.random.key(0), images)
