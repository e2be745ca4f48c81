"""Semantic encoders: images to embeddings whose cosine tells how alike they are.

An encoder is a pure function with its variables and a name, and owns its preprocessing.
`encoder` makes one of your own function or linen module; `compact` is a small network,
trained without labels on the ID images alone (`ecood.train.simclr`);
`efficientnet_lite0`, `resnet` and `dinov2` have public weights; the controls `pixels`
and `random_features` have learned nothing; `offline` has all that need no network; and `remembered`
looks up another encoder's embeddings by an image's content. `from_torch` calls a PyTorch module on
the host, and `elsewhere` stands for an encoder whose embeddings come beside the images.
"""

from ecood.encoders.compact import Compact, compact
from ecood.encoders.controls import pixels, random_features
from ecood.encoders.dinov2 import dinov2
from ecood.encoders.efficientnet import efficientnet_lite0, efficientnet_lite0_installed
from ecood.encoders.elsewhere import Elsewhere, beside, elsewhere, width
from ecood.encoders.encoder import Encoder, encoder, identity
from ecood.encoders.files import MODULES, load, save
from ecood.encoders.offline import offline
from ecood.encoders.remembered import remembered
from ecood.encoders.resnet import resnet
from ecood.encoders.torch_module import from_torch

__all__ = [
    "MODULES",
    "Compact",
    "Elsewhere",
    "Encoder",
    "beside",
    "compact",
    "dinov2",
    "efficientnet_lite0",
    "efficientnet_lite0_installed",
    "elsewhere",
    "encoder",
    "from_torch",
    "identity",
    "load",
    "offline",
    "pixels",
    "random_features",
    "remembered",
    "resnet",
    "save",
    "width",
]
