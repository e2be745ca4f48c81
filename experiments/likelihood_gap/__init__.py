"""What the sections of the likelihood gap (see `__main__`) tell of the ranking."""

from typing import Any

import jax

from ecood import metrics
from ecood.theory import auroc
from experiments import report


def area(id_scores: jax.Array, ood_scores: jax.Array) -> str:
    """AUROC with its 95% interval, of scores [n] and [m]."""
    return report.estimate(
        metrics.auroc(id_scores, ood_scores), metrics.auroc_interval(id_scores, ood_scores)
    )


def ranking(id_scores: jax.Array, ood_scores: jax.Array) -> dict[str, Any]:
    """The AUROC of scores [n] and [m], and what their moments say of it."""
    moments = auroc.moments(id_scores, ood_scores)
    low, high = auroc.lower_bound(*moments), auroc.upper_bound(*moments)
    return {
        "AUROC": area(id_scores, ood_scores),
        "binormal": float(auroc.binormal(*moments)),
        "bounds": f"[{low:.3f}, {high:.3f}]",
    }
