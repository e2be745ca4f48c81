"""What a universal code tells of a density: docs/theory.md, 1.6 to 1.8."""

import jax
import numpy as np
import pytest
import scipy.stats

from ecood import statistics
from ecood.code_length import code_length
from ecood.errors import InputError
from ecood.theory import bounds, code

ONE = np.arange(256, dtype=np.uint8)[:, None, None, None]  # every image of one pixel
TWO = np.stack(np.meshgrid(*[np.arange(256, dtype=np.uint8)] * 2, indexing="ij"), -1)
TWO = TWO.reshape(-1, 1, 2, 1)  # every image of two


@pytest.fixture(scope="module")
def lengths():
    """L in bits/dim of every image of one pixel and of two."""
    of = jax.jit(code_length)
    return np.float64(of(ONE)), np.float64(of(TWO))


def test_krafts_sum_over_all_images_is_one(lengths):
    one, two = lengths
    assert np.sum(2.0**-one) == pytest.approx(1, abs=1e-5)
    assert np.sum(2.0 ** (-2 * two)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_excess_is_at_most_the_divergence(lengths, seed):
    """Any law Q and any model p of the images of two pixels, p a density constant on each."""
    rng = np.random.default_rng(seed)
    length = lengths[1]
    q, p = (rng.dirichlet(np.full(len(length), a)) for a in (0.01, 1.0))
    bits = -np.log2(p) / 2
    divergence = np.sum(np.where(q > 0, q * np.log(np.maximum(q, 1e-300) / p), 0)) / (2 * np.log(2))
    assert np.sum(q * (bits - length)) <= divergence + 1e-6


def test_an_ideal_code_tells_the_divergence_itself(lengths):
    length = lengths[0]
    q = 2.0**-length / np.sum(2.0**-length)
    p = np.random.default_rng(0).dirichlet(np.ones(256))
    excess = np.sum(q * (-np.log2(p) - length))
    assert excess == pytest.approx(np.sum(q * np.log2(q / p)), abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_p_values_are_valid_for_every_density(lengths, seed):
    """Of images drawn from p at most a share alpha has a p-value of at most alpha: exactly."""
    p = np.random.default_rng(seed).dirichlet(np.full(len(TWO), 0.05))
    p = np.maximum(p, 1e-12) / np.sum(np.maximum(p, 1e-12))
    values = np.float64(code.p_value(np.float32(-np.log2(p) / 2), np.float32(lengths[1]), 2))
    for alpha in (0.5, 0.1, 0.01, 1e-3):
        assert np.sum(p[values <= alpha]) <= alpha
    assert np.sum(p / np.maximum(values, 1e-300) * (values < 1)) <= 1 + 1e-3


def test_p_values_of_a_fresh_dequantisation_are_not_valid():
    """Under p itself, of a narrow bump in every grey level; those of the cells' mass are valid."""
    rng, dim, spread = np.random.default_rng(0), 100, 0.3
    v = rng.uniform(-1, 1, (2000, dim)) / 2  # of the level's width, fresh
    mass = scipy.stats.norm.cdf(0.5, scale=spread) - scipy.stats.norm.cdf(-0.5, scale=spread)
    bits = 8 - np.log2(scipy.stats.norm.pdf(v, scale=spread) / mass).mean(axis=1)
    lengths = np.full(len(v), 8.0)  # an ideal code: all levels are as likely
    assert np.mean(np.asarray(code.p_value(bits, lengths, dim)) <= 0.05) > 0.5
    assert np.asarray(code.p_value(lengths, lengths, dim)).min() == 1  # b of the law is 8


def test_a_mismatch_is_certified_and_a_match_is_not():
    """The certificate is wrong for at most 5% of samples, where Q = p and the code is ideal."""
    rng = np.random.default_rng(0)
    wrong = [code.certify_mismatch(*rng.normal(4, 0.3, (2, 100))).bound > 0 for _ in range(1000)]
    assert np.mean(wrong) < 0.07
    found = code.certify_mismatch(rng.normal(4.2, 0.3, 200), rng.normal(4, 0.3, 200))
    assert 0 < found.bound < found.excess < 0.3


@pytest.mark.parametrize(
    "arguments",
    [
        ([1.0], [1.0]),
        ([1.0, 2.0], [1.0]),
        ([1.0, 2.0], [1.0, 2.0], 1.0),
        ([1.0, 2.0], [1.0, 2.0], "0.9"),
    ],
)
def test_what_certifies_nothing_is_refused(arguments):
    with pytest.raises(InputError, match="expected"):
        code.certify_mismatch(*arguments)


def test_noise_speaks_where_the_code_is_silent():
    """p = N(0, I), Q = N(0, t^2 I) with t < 1, and a code that wastes KL(Q, p) nats on Q.

    E_Q[b - L] is then 0. The entropy that noise adds is what `bounds.fixed_noise` promises, for a
    Gaussian exactly, the more the smaller t is, and the gain is that and what divergences change.
    """
    rng, sigma, dim = np.random.default_rng(1), 0.5, 3

    def entropy(t):  # nats, of N(0, t^2 I)
        return dim / 2 * np.log(2 * np.pi * np.e * t**2)

    def nats_of(x):  # -log p
        return np.sum(x**2 / 2 + np.log(2 * np.pi) / 2, axis=1)

    def divergence(t):  # nats, of N(0, t^2 I) from p
        return dim * ((t**2 - 1) / 2 - np.log(t))

    promised = []
    for t in (0.8, 0.4):
        y, z = t * rng.normal(size=(100_000, dim)), rng.normal(size=(100_000, dim))
        silent = np.mean(nats_of(y)) - (entropy(t) + divergence(t))  # E_Q[b - L]
        assert silent == pytest.approx(0, abs=0.02)
        added = float(bounds.fixed_noise(entropy(t), sigma, dim)) - entropy(t)
        after = np.sqrt(t**2 + sigma**2)
        assert added == pytest.approx(dim / 2 * np.log1p(sigma**2 / t**2), rel=1e-5)
        gain = np.mean(nats_of(y + sigma * z) - nats_of(y))
        assert gain == pytest.approx(added + divergence(after) - divergence(t), abs=0.02)
        assert gain > 0.3
        promised.append(added)
    assert promised[0] < promised[1]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, statistics.LARGEST, "b"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_broken_density_or_code_certifies_nothing(number, place):
    given = [[4.0, 5.0, 6.0], [4.0, 4.0, 4.0]]
    given[place][1] = number
    with pytest.raises(InputError, match="bits|lengths"):
        code.certify_mismatch(*given)


def test_what_stands_for_nan_is_told_as_such():
    bits = statistics.guard(np.float32([np.nan, 4, np.inf, 5]))
    with pytest.raises(InputError, match="for 2 of 4 images, what stands for NaN or infinity"):
        code.certify_mismatch(bits, np.full(4, 4.0))
    with pytest.raises(InputError, match="level is 'high'; expected a number between 0 and 1"):
        code.certify_mismatch([4.0, 5.0], [4.0, 4.0], "high")


@pytest.mark.parametrize("dim", [-3, 0, 2.5, np.nan, "D"])
def test_there_is_no_p_value_without_dimensions(dim):
    with pytest.raises(InputError, match="dim is .*; expected a whole number, 1 or more"):
        code.p_value(np.full(2, 5.0), np.full(2, 4.0), dim)


@pytest.mark.parametrize("bits", [np.nan, np.inf, statistics.LARGEST, -np.inf])
def test_bits_that_are_unknown_are_no_evidence(bits):
    assert code.p_value(np.float32([bits, 9.0]), np.float32([4.0, 4.0]), 10).tolist()[0] == 1.0
    assert code.p_value(np.float32([9.0]), np.float32([4.0]), 10)[0] < 1e-9
