import jax
import pytest

from ecood import batches

# An accidental broadcast of [B] against [B, 1] is an error, not a slow wrong answer.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs():
    """Each file's, or thousands would exhaust the system's memory maps."""
    yield
    batches.forget_programs()
