"""Density models as pure linen modules, and what the rest of ecood needs of a density.

Every layer and every flow has `forward_and_log_det(x) -> (z, log_det [B])` and
`inverse_and_log_det(z) -> (x, log_det [B])`, as in distrax; forward is data to latent, as in
Glow. A flow also has `log_prob(x) -> [B]` and `sample(key, n, temperature=1.0)`; its latent is
standard normal, so that `log_prob` is the normal's at z plus the log-determinant. A density without
a latent has `log_prob` alone. To add one, write such a module in a file of its own, add it to
`MODULES` (`ecood.flows.flow`) and a line to the property test's table (docs/flows.md).
"""

from ecood.flows.class_glow import ClassGlow
from ecood.flows.files import load, save, shipped
from ecood.flows.flow import MODULES, Flow, bind, bits_per_dim, from_distribution
from ecood.flows.glow import Glow
from ecood.flows.jet import Jet
from ecood.flows.pixelcnn import PixelCNN
from ecood.flows.residual import ResidualFlow
from ecood.flows.tarflow import TarFlow
from ecood.models import PRETRAINED

__all__ = [
    "MODULES",
    "PRETRAINED",
    "ClassGlow",
    "Flow",
    "Glow",
    "Jet",
    "PixelCNN",
    "ResidualFlow",
    "TarFlow",
    "bind",
    "bits_per_dim",
    "from_distribution",
    "load",
    "save",
    "shipped",
]
