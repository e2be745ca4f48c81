"""A scorer of a few tiny images, and tiny test sets under the real names."""

import numpy as np

import ecood.score
from ecood import splits
from tests import small

TRAIN = small.images(120)
SPLIT = splits.Split(TRAIN[:114], TRAIN[114:], TRAIN[:0])
SEEN = splits.remember(SPLIT.train)
TESTS = {
    "cifar10": np.concatenate([small.images(24, seed=1), TRAIN[50:52], TRAIN[115:116]]),
    "svhn_cropped": 255 - small.images(20, seed=2),
    "celeb_a": small.images(18, seed=3, shape=(16, 12, 3)),
}


def scorer():
    """Around a Gaussian, which has no latent and knows what it was trained on."""
    flow = small.gaussian().replace(trained_on=SEEN)
    return ecood.score.fit(flow, small.encoder(), SPLIT, noise_strength=0.1)
