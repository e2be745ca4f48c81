"""Semantic encoders: from images to embeddings whose cosine tells how alike two images are.

An encoder is a pure function with its variables and a name, and owns its preprocessing, so that
uint8 images to embeddings is one compiled program. `encoder` makes one of your own function or
linen module; the others here are

* `compact`: a small network, trained without labels on the ID images alone (`ecood.train.simclr`);
* `efficientnet_lite0`, `resnet`, `dinov2`: networks with public weights;
* `pixels`, `random_features`: controls that have learned nothing;
* `remembered`: another encoder's embeddings of given images, looked up by content.
"""

from ecood.encoders.compact import Compact, compact
from ecood.encoders.controls import pixels, random_features
from ecood.encoders.dinov2 import dinov2
from ecood.encoders.efficientnet import efficientnet_lite0, efficientnet_lite0_installed
from ecood.encoders.encoder import Encoder, encoder, identity
from ecood.encoders.files import MODULES, load, save
from ecood.encoders.remembered import remembered
from ecood.encoders.resnet import resnet

__all__ = [
    "MODULES",
    "Compact",
    "Encoder",
    "compact",
    "dinov2",
    "efficientnet_lite0",
    "efficientnet_lite0_installed",
    "encoder",
    "identity",
    "load",
    "pixels",
    "random_features",
    "remembered",
    "resnet",
    "save",
]
