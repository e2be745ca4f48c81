"""The theory of entropy control, made executable; proofs in `docs/theory.md`.

Pure functions of arrays in the dtype of their inputs, made to be jitted, mapped and differentiated,
but for `crossing` and `code.certify_mismatch`, which are on the host; in nats, but for `code`,
whose lengths are in bits/dim. P is in-distribution ("id"), Q out-of-distribution ("ood"), p the
model's density, and a prime marks what noise x + sigma z has been added to.
"""

from ecood.theory import (
    along,
    auroc,
    bounds,
    certificate,
    code,
    crossing,
    expansion,
    gap,
    gaussian,
    indexed,
    mixture,
    monte_carlo,
    quadrature,
    ratio,
)

__all__ = [
    "along",
    "auroc",
    "bounds",
    "certificate",
    "code",
    "crossing",
    "expansion",
    "gap",
    "gaussian",
    "indexed",
    "mixture",
    "monte_carlo",
    "quadrature",
    "ratio",
]
