import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def _compiled_in_less_time():
    """Nothing here depends on how fast programs are: XLA leaves them as they are."""
    jax.config.update("jax_disable_most_optimizations", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # in processes of their own
        yield
    jax.config.update("jax_disable_most_optimizations", False)
