"""distrax's and TFP's distributions as flows, and flows as distrax's distributions.

distrax is imported when it is asked for: it stands on a nightly of TensorFlow Probability. Where
that is gone or too old for jax, everything else works.
"""

import functools
import math
import sys
import types
import warnings
from typing import Any, NamedTuple

import jax

from ecood.errors import InputError

__all__ = ["Density", "check_image_shape", "density_of", "distribution_class"]


class Density(NamedTuple):
    """The density of a flow whose variables are a distribution: a pytree, as those of both are."""

    image_shape: tuple[int, int, int]

    def __call__(self, variables: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        """The log-density in nats, float [B], of x float32 [B, H, W, C]."""
        del key
        check_image_shape(x.shape[1:], self.image_shape)
        with jax.numpy_rank_promotion("allow"):  # both broadcast parameters against batches
            return variables.log_prob(x)

    def sample(self, variables: Any, key: jax.Array, n: int) -> jax.Array:
        """Images, float [n, H, W, C]."""
        with jax.numpy_rank_promotion("allow"):
            return variables.sample(seed=key, sample_shape=(n,))


def density_of(distribution: Any) -> Density:
    """The density of a distribution over images [H, W, C].

    Raises:
      InputError: for what is no distribution of images, one of several at once, or no pytree.
    """
    kind = type(distribution).__name__
    if not (hasattr(distribution, "log_prob") and hasattr(distribution, "event_shape")):
        raise InputError(
            f"a {kind} was given; expected a distribution of distrax, or of TFP on JAX."
        )
    event, batch = (tuple(getattr(distribution, f"{each}_shape")) for each in ("event", "batch"))
    if len(event) != 3 or batch:
        raise InputError(
            f"the {kind} has the event shape {list(event)} and the batch shape {list(batch)}; "
            "expected events [H, W, C] and no batch: wrap it in Independent."
        )
    leaves = jax.tree.leaves(distribution)
    if any(leaf is distribution for leaf in leaves):
        raise InputError(
            f"the {kind} is no pytree, so that JAX cannot take it as an argument; expected a "
            "distribution of distrax, or of TFP on JAX."
        )
    return Density(event)


def check_image_shape(given: tuple[int, ...], shape: tuple[int, int, int]) -> None:
    """Refuses images of another shape than a flow's: many a density would take them, and be wrong.

    Raises:
      InputError: for such.
    """
    if tuple(given) != tuple(shape):
        raise InputError(
            f"the images have shape {list(given)}, and the flow is one of images of shape "
            f"{list(shape)}; give it such."
        )


@functools.cache
def distribution_class() -> type:
    """`FlowDistribution`, made where distrax can be imported."""
    distrax = _distrax()

    class FlowDistribution(distrax.Distribution):
        """A flow as a distribution over images [H, W, C], dequantised to [0, 1).

        The key is of log-densities that are estimated: the same one each time.
        """

        def __init__(self, flow: Any, key: jax.Array):
            super().__init__()
            self._flow, self._key = flow, key

        def _sample_n(self, key: jax.Array, n: int) -> jax.Array:
            return self._flow.sample(key, n)

        def log_prob(self, value: jax.Array) -> jax.Array:
            """Nats, float [...], of images [..., H, W, C]."""
            shape = self.event_shape
            check_image_shape(value.shape[-3:], shape)
            batch = value.shape[: -len(shape)]
            x = value.reshape(math.prod(batch), *shape)
            return self._flow.log_prob(self._key, x).reshape(batch)

        @property
        def event_shape(self) -> tuple[int, int, int]:
            return tuple(self._flow.image_shape)

    return FlowDistribution


def _distrax() -> types.ModuleType:
    """The module; an `InputError` if it cannot be imported."""
    try:
        # What an import computes is of no trace, and what it deprecates is not ours, or an error.
        with jax.ensure_compile_time_eval(), warnings.catch_warnings(action="ignore"):
            import distrax
    except Exception as error:  # ImportError, or what an import runs into
        reason = str(error).split("\n")[0]
        if sys.flags.optimize > 1:
            raise InputError(
                f"distrax cannot be imported without docstrings ({reason}); run Python without -OO "
                "and PYTHONOPTIMIZE=2."
            ) from error
        raise InputError(
            f"distrax, whose distribution was asked for, cannot be imported ({reason}); install "
            "requirements.txt again, or see docs/faq.md, 'distrax cannot be imported'."
        ) from error
    return distrax
