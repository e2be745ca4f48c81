"""The card of a published scorer: what it was made from, its thresholds, what was measured."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import ecood
from ecood import conformal, encoders, models
from ecood.score.made_by import own_parts
from ecood.score.thresholds import FPRS
from ecood.templates import environment
from ecood.words import number_of

if TYPE_CHECKING:
    from ecood.score import Scorer

__all__ = ["card"]

# What `python -m ecood fit` measures, by its name in card.json.
MEASURED = {
    "bits_per_dim_held_out": "bits/dim of held-out in-distribution images, mean",
    "auroc_of_held_out_against_turned": "AUROC of held-out images against themselves turned",
}


def card(scorer: "Scorer", repository: str, data: str = "") -> str:
    """Markdown with the hub's metadata; `data` are words about the in-distribution images."""
    state, known = scorer.state, scorer.card or {}
    kind, sizes = scorer.flow.described
    attributes = [f"{name} {value}" for name, value in sizes.items()]
    parameters = number_of(models.size(scorer.flow.variables), "parameter")
    fitted = "unknown images"
    if scorer.fitted_on is not None:
        made = number_of(len(scorer.fitted_on), "image")
        fitted = f"{made}, for the bank, the scales and, if it was chosen, the noise strength"
    template = environment(__package__, finalize=_plain).get_template("card.md")
    return template.render(
        repository=repository,
        shape=scorer.image_shape,
        made_by=scorer.made_by,
        own=list(own_parts(scorer.flow, scorer.encoder)),
        elsewhere=isinstance(scorer.encoder.function, encoders.Elsewhere),
        data=data,
        made_from=fitted,
        unknown=scorer.unknown,
        flow="; ".join([", ".join([kind, *attributes]), parameters]),
        # What 0.1 saved in the paper's form has no reference.
        bits=float(state.reference.centre[0]) if state.reference.spread[0] > 0 else None,
        encoder=scorer.encoder.name,
        bank=jax.tree.leaves(state.bank)[0].shape,
        form=state.form.name,
        strength=float(state.noise_strength),
        seed=scorer.seed,
        ecood=ecood.__version__,
        jax=jax.__version__,
        calibrated_on=0 if scorer.calibration is None else len(scorer.calibration),
        levels=_levels(scorer),
        measured={words: f"{known[name]:.3f}" for name, words in MEASURED.items() if name in known},
    )


def _plain(value: Any) -> Any:
    """No name breaks a table's row, or the code."""
    if not isinstance(value, str):
        return value
    return value.replace("|", "\\|").replace("`", "'").replace("\n", " ")


def _levels(scorer: "Scorer") -> list[dict[str, float]]:
    if scorer.calibration is None:
        return []
    n = len(scorer.calibration)
    rows = [(fpr, scorer.threshold(fpr), *conformal.realised_fpr(n, fpr)) for fpr in FPRS]
    names = ("fpr", "threshold", "low", "high")
    return [dict(zip(names, row, strict=True)) for row in rows if np.isfinite(row[1])]
