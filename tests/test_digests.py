import jax.numpy as jnp
import numpy as np

from ecood.digests import digest, named


def test_what_differs_differs():
    parts = [(1, 23), (12, 3), (None, 1), (1,), ("a", "b"), ("ab",), {"a": 1}, {"b": 1}, [{"a": 1}]]
    parts += [np.zeros(2), np.zeros(2, np.float32), np.zeros((2, 1)), np.array([0.0, 1.0])]
    assert len({digest(part) for part in parts}) == len(parts)
    assert digest(1, 23) == digest((1, 23)) and digest(jnp.ones(3)) == digest(np.ones(3, "f4"))


def test_a_name_has_no_address():
    def inner():
        pass

    assert named(inner) == "<function test_a_name_has_no_address.<locals>.inner>"
