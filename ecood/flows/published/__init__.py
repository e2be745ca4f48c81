"""Flows that other people trained and published, as flows of ours with the same density.

One file a format: `glow_pytorch` is for checkpoints of y0ast/Glow-PyTorch, `residual_flows` for
those of rtqichen/residual-flows, `normflows` for models of the package of that name. A file is read
without PyTorch and without executing anything in it; what comes out is an `ecood.flows.Flow`, which
`ecood.flows.save` writes.
"""

from ecood.flows.published.glow_pytorch import glow_pytorch
from ecood.flows.published.normflows import normflows
from ecood.flows.published.residual_flows import residual_flows

__all__ = ["glow_pytorch", "normflows", "residual_flows"]
