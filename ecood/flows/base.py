"""distrax, imported when the first of its distributions is made, and flows' base distribution.

distrax stands on a nightly of TensorFlow Probability. Where that is gone or too old for jax,
everything but the flows that need it still works.
"""

import sys
import types
import warnings
from typing import TYPE_CHECKING

import jax

from ecood.errors import InputError

if TYPE_CHECKING:
    import distrax

__all__ = ["imported", "normal"]


def imported() -> types.ModuleType:
    """The module distrax; an `InputError` if it cannot be imported."""
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
            f"distrax, which gives flows their base distribution, cannot be imported ({reason}); "
            "install requirements.txt again, or see docs/faq.md, 'distrax cannot be imported'."
        ) from error
    return distrax


def normal(mean: jax.Array, scale: jax.Array, event_ndims: int) -> "distrax.Independent":
    """Independent normals, the last `event_ndims` axes one event; an InputError without distrax."""
    distrax = imported()
    return distrax.Independent(distrax.Normal(mean, scale), event_ndims)
