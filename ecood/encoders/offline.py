"""The encoders that can run without a network."""

from collections.abc import Iterable

from ecood import keys
from ecood.encoders.controls import pixels, random_features
from ecood.encoders.efficientnet import efficientnet_lite0, efficientnet_lite0_installed
from ecood.encoders.encoder import Encoder, identity

__all__ = ["offline"]


def offline(channels: int, given: Iterable[Encoder] = ()) -> dict[str, Encoder]:
    """The given encoders, then those at hand for images of C `channels`; each once, by name."""
    named = [*given]
    if efficientnet_lite0_installed():
        named.append(efficientnet_lite0())
    named += [pixels(), random_features(keys.make(0), channels)]
    distinct, found = {}, {}
    for encoder in named:
        distinct.setdefault(identity(encoder), encoder)
    for who, encoder in distinct.items():
        found[f"{encoder.name} {who[:6]}" if encoder.name in found else encoder.name] = encoder
    return found
