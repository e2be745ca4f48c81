"""Residual Flow: blocks x + g(x) with a Lipschitz-bounded g, whose Jacobian has no structure."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.scipy.stats

from ecood.errors import InputError
from ecood.flows import lipschitz, power_series
from ecood.flows.layers import ActNorm, MultiScale, Squeeze, check_sizes, scan_steps
from ecood.flows.logit import Logit

__all__ = ["ResidualFlow", "ResidualStep", "residual_and_log_det"]

MAX_ITERATIONS = 500  # of the inverse; 0.98^3 to this power is below float32's resolution


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def residual_and_log_det(
    layers: tuple[lipschitz.Layer, ...],
    x: jax.Array,
    probe: jax.Array,
    terms: jax.Array,
    exact: int = power_series.EXACT_TERMS,
) -> tuple[jax.Array, jax.Array]:
    """x + g(x) and an unbiased estimate of its log-determinant, with an unbiased gradient.

    The gradient is the Neumann series' (`power_series.roulette_log_det`), not that of the
    estimate's own terms, so values and gradients agree in expectation only. The backward pass
    keeps x and one vector of its size, whatever the number of terms, and computes the
    activations again. The probe is random signs, the shape of x [B, H, W, C], and the number of
    terms is from `power_series.draw_terms` of the same `exact`.

    Source: Chen et al. 2019, "Residual Flows for Invertible Generative Modeling", section 3.2.
    """
    return _residual_forward(layers, x, probe, terms, exact)[0]


def _residual_forward(layers, x, probe, terms, exact):
    y, slopes = lipschitz.evaluate(layers, x)
    transposed = functools.partial(lipschitz.vjp, layers, slopes)
    log_det, neumann = power_series.roulette_log_det(transposed, probe, terms, exact)
    return (x + y, log_det), (layers, x, probe, neumann)


def _residual_backward(_, residuals, cotangents):
    layers, x, probe, neumann = residuals

    def surrogate(layers, x):
        y, slopes = lipschitz.evaluate(layers, x)
        return x + y, power_series.inner(neumann, lipschitz.jvp(layers, slopes, probe))

    _, pull_back = jax.vjp(surrogate, layers, x)
    return *pull_back(cotangents), None, None


residual_and_log_det.defvjp(_residual_forward, _residual_backward)


class ResidualStep(nn.Module):
    """Act-norm, then x + g(x); the attributes are those of `ResidualFlow`.

    If x has no more dimensions than there are probes, nothing is estimated: the determinant is
    exact.
    """

    width: int
    terms: int = 20
    probes: int = 1
    unbiased: bool = False
    settled: bool = False
    sizes: tuple[int, int, int] = (3, 1, 3)  # of the kernels

    def setup(self):  # noqa: D102
        self.act_norm = ActNorm()
        self.net = lipschitz.LipschitzNet(self.width, self.sizes, self.settled)

    def forward_and_log_det(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B, H, W, C] -> (z, log_det [B]), the latter the same for the same key "probe"."""
        x, change = self.act_norm.forward_and_log_det(x)
        layers = self.net(x.shape[1:])
        y, slopes = lipschitz.evaluate(layers, x)
        if math.prod(x.shape[1:]) <= self.probes:
            log_det = power_series.exact_log_det(lambda t: lipschitz.jvp(layers, slopes, t), x)
        else:
            # One draw for all images, so that none's estimate depends on the batch it is in.
            shape = (self.probes, 1, *x.shape[1:])
            probes = power_series.draw_probe(self.make_rng("probe"), shape, x.dtype)

            def truncated(probe: jax.Array) -> jax.Array:
                probe = jnp.broadcast_to(probe, x.shape)
                transposed = functools.partial(lipschitz.vjp, layers, slopes)
                return power_series.log_det(transposed, probe, self.terms)

            def unbiased(drawn: tuple[jax.Array, jax.Array]) -> jax.Array:
                probe, terms = jnp.broadcast_to(drawn[0], x.shape), drawn[1]
                return residual_and_log_det(layers, x, probe, terms, self.terms)[1]

            if self.unbiased:
                keys = jax.random.split(self.make_rng("probe"), self.probes)
                terms = jax.vmap(lambda key: power_series.draw_terms(key, self.terms))(keys)
                estimates = jax.lax.map(unbiased, (probes, terms))
            else:
                estimates = jax.lax.map(truncated, probes)
            log_det = jnp.mean(estimates, axis=0)
        return x + y, change + log_det.astype(jnp.float32)

    def inverse(self, z: jax.Array) -> jax.Array:
        """z [B, H, W, C] -> x, by the fixed point of x = z - g(x), of each image for itself."""
        layers = self.net(z.shape[1:])

        def largest(x):
            return jnp.max(jnp.abs(x), axis=(1, 2, 3), keepdims=True)

        tolerance = 10 * jnp.finfo(z.dtype).eps * (1.0 + largest(z))

        def unfinished(state):
            i, _, moving = state
            return (i < MAX_ITERATIONS) & jnp.any(moving)

        def improve(state):
            i, x, moving = state
            new = jnp.where(moving, z - lipschitz.evaluate(layers, x)[0], x)
            return i + 1, new, largest(new - x) > tolerance  # not of NaN

        start = 0, z, jnp.full((z.shape[0], 1, 1, 1), True)
        x = jax.lax.while_loop(unfinished, improve, start)[1]
        return self.act_norm.inverse_and_log_det(x)[0]

    def inverse_and_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """z [B, H, W, C] -> (x, log_det [B])."""
        x = self.inverse(z)
        return x, -self.forward_and_log_det(x)[1]

    def forward_step(self, carry: tuple[jax.Array, jax.Array]):
        """The body of the scan over steps: (x, log_det) -> ((z, log_det), None)."""
        z, change = self.forward_and_log_det(carry[0])
        return (z, carry[1] + change), None

    def train_step(self, carry: tuple[jax.Array, jax.Array]):
        """The same for training: probes for each image, a random number of terms for all."""
        x, change = self.act_norm.forward_and_log_det(carry[0])
        probe_key, terms_key = jax.random.split(self.make_rng("probe"))
        probe = power_series.draw_probe(probe_key, x.shape, x.dtype)
        terms = power_series.draw_terms(terms_key)
        z, log_det = residual_and_log_det(self.net(x.shape[1:], train=True), x, probe, terms)
        return (z, carry[1] + change + log_det.astype(jnp.float32)), None

    def inverse_step(self, z: jax.Array):
        """The body of the scan back: z -> (x, None)."""
        return self.inverse(z), None


class ResidualFlow(MultiScale):
    """Residual Flow for images: `levels` times squeeze and `depth` residual blocks.

    Pixels pass a logit first (`ecood.flows.logit`: the paper's on images, and finite where noise
    has moved a pixel out of [0, 1]). The base distribution is a standard normal, after a last
    act-norm; nothing is split off. The paper's first blocks work on the image before the first
    squeeze; ours, like Glow's, after it, where a block costs a quarter. The attributes from
    `squeeze_first` on are for flows that the paper's code trained (`ecood.flows.published`).

    `log_prob` at evaluation is deterministic for a key "probe": it estimates the trace with the
    same random vectors for each image.
    With `train=True` it is one draw of an unbiased estimate, with the Neumann series' gradient,
    and updates the collection "lipschitz": report bits/dim by evaluation only.

    Attributes:
      image_shape: (H, W, C); H and W divisible by 2**levels.
      depth: residual blocks of a level; the paper's is 16.
      levels: the paper's is 3.
      width: hidden channels of g; the paper's is 512.
      margin: of the logit; the papers' is 0.05 for natural images and 1e-6 for digits.
      terms: of the log-determinant's power series at evaluation.
      probes: random vectors that its trace is averaged over at evaluation.
      squeeze_first: whether a level's blocks come after its squeeze, as in Glow; else there is a
        squeeze between levels only.
      dense: fully connected blocks after the last level; their act-norms, and then the last one,
        have a mean and scale of their own for each dimension.
      dense_width: hidden units of them.
      settled: the kernels are taken as they are, their norms being right already. Such a flow
        scores, and faster; it cannot be trained.
      unbiased: after `terms` terms the series goes on for a random number of reweighted ones, so
        that it has no bias; else it ends there (`power_series.truncation_bound`).

    Source: Chen et al. 2019, "Residual Flows for Invertible Generative Modeling".
    """

    image_shape: tuple[int, int, int]
    depth: int = 6
    levels: int = 3
    width: int = 96
    margin: float = 1e-4
    terms: int = 20
    probes: int = 1
    squeeze_first: bool = True
    dense: int = 0
    dense_width: int = 128
    settled: bool = False
    unbiased: bool = False

    def __post_init__(self) -> None:
        check_sizes(self, "terms", "probes")
        super().__post_init__()

    def setup(self):  # noqa: D102
        self.logit = Logit(self.margin)
        self.squeeze = Squeeze()
        shared = (self.terms, self.probes, self.unbiased, self.settled)
        self.steps = self.stacks(ResidualStep, self.width, *shared)
        if self.dense:
            scanned = scan_steps(ResidualStep, self.dense)
            self.dense_steps = scanned(self.dense_width, *shared, (1, 1, 1), name="dense_steps")
        self.act_norm = ActNorm()

    @property
    def squeezes(self) -> int:
        """How often an image is squeezed."""
        return self.levels if self.squeeze_first else self.levels - 1

    def log_prob(self, x: jax.Array, train: bool = False) -> jax.Array:
        """float32 [B, H, W, C], dequantised -> log-density in nats [B], estimated."""
        z, log_det = self.forward_and_log_det(x, train)
        return jnp.sum(jax.scipy.stats.norm.logpdf(z), axis=1) + log_det

    def forward_and_log_det(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """x [B, H, W, C] -> (z [B, H * W * C], log_det [B])."""
        if train and self.settled:
            raise InputError(
                "this ResidualFlow's kernels are settled, so that it scores and cannot be trained; "
                "train one whose attribute `settled` is False."
            )
        x, log_det = self.logit.forward_and_log_det(x)
        for level, steps in enumerate(self.steps):
            if level or self.squeeze_first:
                x, _ = self.squeeze.forward_and_log_det(x)
            step = steps.train_step if train else steps.forward_step
            (x, log_det), _ = step((x, log_det))
        if self.dense:
            x = x.reshape(x.shape[0], 1, 1, math.prod(x.shape[1:]))
            step = self.dense_steps.train_step if train else self.dense_steps.forward_step
            (x, log_det), _ = step((x, log_det))
        z, change = self.act_norm.forward_and_log_det(x)
        return z.reshape(z.shape[0], math.prod(z.shape[1:])), log_det + change

    def inverse_and_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """z [B, H * W * C] -> (x [B, H, W, C], log_det [B])."""
        x = self._inverse(z)
        return x, -self.forward_and_log_det(x)[1]

    def sample(self, key: jax.Array, n: int, temperature: float = 1.0) -> jax.Array:
        """Draws n images, float32 [n, H, W, C], near [0, 1).

        The temperature scales the latents' standard deviation; at 1 they are of the density itself.
        """
        shape = (n, math.prod(self.image_shape))
        return self._inverse(temperature * jax.random.normal(key, shape, jnp.float32))

    def _inverse(self, z: jax.Array) -> jax.Array:
        h, w, c = self.image_shape
        shape = (h >> self.squeezes, w >> self.squeezes, c << (2 * self.squeezes))
        flat = (1, 1, math.prod(shape))
        z = z.reshape(z.shape[0], *(flat if self.dense else shape))
        x, _ = self.act_norm.inverse_and_log_det(z)
        if self.dense:
            x = self.dense_steps.inverse_step(x)[0].reshape(z.shape[0], *shape)
        for level, steps in reversed(list(enumerate(self.steps))):
            x, _ = steps.inverse_step(x)
            if level or self.squeeze_first:
                x, _ = self.squeeze.inverse_and_log_det(x)
        return self.logit.inverse_and_log_det(x)[0]
