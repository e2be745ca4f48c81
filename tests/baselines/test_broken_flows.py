"""A flow that gives NaN on in-distribution images is refused when a detector is fitted to them."""

import jax
import jax.numpy as jnp
import pytest

from ecood import baselines, encoders
from ecood.errors import InputError
from ecood.flows import Flow
from tests.baselines import tiny

SPLIT = tiny.split(60)
MADE = {
    "typicality": baselines.typicality,
    "two_sided": lambda flow: baselines.two_sided(flow, encoders.pixels()),
    "dose_kde": baselines.dose_kde,
    "fisher": baselines.fisher,
    "fisher_combined": baselines.fisher_combined,
    "intrinsic_dimension": baselines.intrinsic_dimension,
}


def nowhere(variables, key, x):
    """The density of `tiny.gaussian`, NaN for the darkest image that is held out."""
    darkest = SPLIT.held_out.mean((1, 2, 3)).min()
    dark = jnp.mean(x, axis=(1, 2, 3)) < (darkest + 1) / 256
    return tiny.log_prob(variables, key, x) * jnp.where(dark, jnp.nan, 1.0)


@pytest.mark.parametrize("name", MADE)
def test_it_is_counted(name):
    flow = Flow(nowhere, tiny.gaussian().variables, tiny.forward_and_log_det)
    # In Fisher's products with one-hot rows, NaN times 0 is NaN for all.
    with pytest.raises(InputError, match="NaN or infinity for [13] of 3 held-out"):
        MADE[name](flow).fit(jax.random.key(0), SPLIT)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("of", ["flow", "other", "both"])
def test_a_broken_image_is_the_most_odd_of_a_ratio(value, of):
    """Whichever flow breaks: a difference of two breakdowns is no sign of being ordinary."""
    fine, lost = (Flow(lambda v, key, x: jnp.full(len(x), v), jnp.float32(v)) for v in (-9, value))
    flow, other = (lost if of in (which, "both") else fine for which in ("flow", "other"))
    for detector in (
        baselines.general_ratio(flow, other),
        baselines.general_ratio(flow, other, last_level=True),
        baselines.likelihood_ratio(flow, other),
        *([baselines.last_level(flow)] if flow is lost and value != jnp.inf else []),
    ):
        state = detector.fit(jax.random.key(0), SPLIT)
        found = detector.score(state, jax.random.key(1), jnp.asarray(SPLIT.held_out))
        assert (found == jnp.finfo(jnp.float32).max).all()
