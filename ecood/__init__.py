"""Entropy-controlled out-of-distribution detection with normalizing flows, in JAX.

`import ecood.score` is the door: `ecood.score.load(name)` returns a scorer for images, and
`ecood.score.spem(flow, encoder)` builds the detector from its parts.
"""

__version__ = "0.2.0"
