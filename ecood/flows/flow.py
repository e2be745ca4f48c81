"""A density of images as one pytree, and the modules that it may be of."""

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from ecood import keys, models
from ecood.errors import InputError
from ecood.flows.class_glow import ClassGlow
from ecood.flows.distributions import (
    Density,
    check_image_shape,
    density_of,
    distribution_class,
)
from ecood.flows.glow import Glow
from ecood.flows.jet import Jet
from ecood.flows.pixelcnn import PixelCNN
from ecood.flows.residual import ResidualFlow
from ecood.flows.tarflow import TarFlow
from ecood.words import number_of

if TYPE_CHECKING:
    import distrax

__all__ = ["MODULES", "Flow", "bind", "bits_per_dim", "from_distribution"]

MODULES = {
    module.__name__: module for module in (Glow, ClassGlow, ResidualFlow, TarFlow, Jet, PixelCNN)
}


@flax.struct.dataclass
class Flow:
    """A density of images, one pytree. Anything of this form can be scored.

    `Flow(function, variables)` makes one of your own pure function, `bind(module, variables)` one
    of a linen module, `from_distribution` one of a distribution.

    Attributes:
      density: static: a linen module with the method `log_prob(x)`, or a pure function
        `(variables, key, x) -> [B]`, in nats, of x float32 [B, H, W, C].
      variables: the pytree that it takes.
      latent: static: for a function that has a latent, `(variables, key, x) ->
        (z [B, D], log_det [B])`, z standard normal under the density; a module has a method
        `forward_and_log_det(x)` for it. Only detectors that look at the latent need it.
      trained_on: fingerprints of the images that it was trained on (`ecood.splits.remember`),
        uint32 [M, 2], or None if they are not known.
    """

    density: nn.Module | Callable[[Any, jax.Array, jax.Array], jax.Array] = flax.struct.field(
        pytree_node=False
    )
    variables: Any
    latent: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, jax.Array]] | None = (
        flax.struct.field(pytree_node=False, default=None)
    )
    trained_on: Any = None

    def __repr__(self) -> str:
        kind = getattr(self.density, "__name__", type(self.density).__name__)
        size = number_of(models.size(self.variables), "parameter")
        return f"Flow({kind} of images {self.image_shape}, {size})"

    def log_prob(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """The log-density in nats, float [B].

        Args:
          key: for flows that estimate their log-determinant; others ignore it.
          x: float32 [B, H, W, C], pixels dequantised to [0, 1) (`ecood.images.dequantise`) and
            possibly perturbed beyond.

        Raises:
          InputError: for images of another shape than a module says that it is of, or that are no
            floats.
        """
        if isinstance(self.density, nn.Module):
            return self._apply("log_prob", key, x)
        return self.density(self.variables, key, x)

    def forward_and_log_det(self, key: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The standard normal latent and the log-determinant: (z [B, D], log_det [B]).

        Raises:
          InputError: if the density has no latent.
        """
        if not self.has_latent:
            raise InputError(
                "this flow has no forward_and_log_det; give it one, or choose a detector that "
                "needs log_prob only."
            )
        if self.latent is not None:
            return self.latent(self.variables, key, x)
        return self._apply("forward_and_log_det", key, x)

    def log_prob_of_levels(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """The terms of the log-density in nats, one a level, the coarsest last: float [B, L].

        A plain function counts as one level.

        Raises:
          InputError: if the module does not tell its levels apart.
        """
        if not isinstance(self.density, nn.Module):
            return self.log_prob(key, x)[:, None]
        if not hasattr(self.density, "log_prob_of_levels"):
            raise InputError(
                f"{type(self.density).__name__} does not tell what each level adds to the "
                "log-density; give a Glow, or choose a detector that needs log_prob only."
            )
        return self._apply("log_prob_of_levels", key, x)

    def log_prob_map(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Nats of each pixel, float [B, H, W], whose sum is the log-density, where `has_map`.

        Other densities have terms that belong to no place: the log-determinant of a Residual
        Flow's block is one number, a mixture's a function of all pixels.
        """
        if not self.has_map:
            raise InputError(
                "the log-density of this flow is no sum over pixels; choose a flow with a method "
                "log_prob_map, such as Glow, TarFlow, Jet or PixelCNN."
            )
        return self._apply("log_prob_map", key, x)

    def sample(self, key: jax.Array, n: int, temperature: float = 1.0) -> jax.Array:
        """Draws n images, float [n, H, W, C], of a module or a distribution.

        The temperature scales the latents of a module (`Glow.sample`). An `InputError` for what
        cannot be drawn from, or not at another temperature than 1.
        """
        key = keys.threefry(key)
        with keys.same_bits():
            if isinstance(self.density, Density) and temperature == 1:
                return self.density.sample(self.variables, key, n)
            if isinstance(self.density, nn.Module) and hasattr(self.density, "sample"):
                return _sample(self, key, n, temperature)
        raise InputError(
            f"this flow's images cannot be drawn at temperature {temperature:g}; expected a module "
            "with the method sample, or a distribution at temperature 1."
        )

    def distribution(self, seed: int = 0) -> "distrax.Distribution":
        """The flow as a distribution of distrax, over images [H, W, C], dequantised to [0, 1).

        It has `sample(seed=..., sample_shape=...)`, `log_prob(value)` and `sample_and_log_prob`,
        and is a pytree. `seed` is of log-densities that are estimated: the same estimate for the
        same image.
        """
        if self.image_shape is None:
            raise InputError(
                "this flow is a plain function, which does not say the shape of its images; bind a "
                "linen module, or make one of a distribution."
            )
        return distribution_class()(self, keys.make(seed))

    def _apply(self, method: str, key: jax.Array, x: jax.Array) -> Any:
        if self.image_shape is not None:
            check_image_shape(x.shape[1:], self.image_shape)
        x = _floats(x)
        rngs = {"probe": keys.threefry(key)}
        with keys.same_bits():
            return self.density.apply(self.variables, x, method=method, rngs=rngs)

    @property
    def has_latent(self) -> bool:
        """Whether there is a latent to look at."""
        return self.latent is not None or hasattr(self.density, "forward_and_log_det")

    @property
    def has_map(self) -> bool:
        """Whether the log-density is a sum over pixels (`log_prob_map`)."""
        return hasattr(self.density, "log_prob_map")

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(H, W, C) of its images, or None where the density does not say."""
        return getattr(self.density, "image_shape", None)

    @property
    def architecture(self) -> dict[str, Any] | None:
        """What `ecood.models.build` needs to make the module again, or None if it cannot."""
        return models.describe(self.density, MODULES.values())

    @property
    def described(self) -> tuple[str, dict[str, Any]]:
        """The kind of the density, as people are told it, and a known module's attributes."""
        of_a_module = isinstance(self.density, nn.Module)
        kind = type(self.density).__name__ if of_a_module else "a function"
        known = self.architecture or {"kind": kind, "attributes": {}}
        return known["kind"], known["attributes"]


def _floats(x: jax.Array) -> jax.Array:
    """Images of float32 at least, which is what modules compute in; the numbers stay the same."""
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(
            f"the images are {dtype}; expected floats, pixels dequantised to [0, 1): see "
            "ecood.images.dequantise(key, images)."
        )
    return x if jnp.finfo(dtype).bits >= 32 else jnp.asarray(x, jnp.float32)


@functools.partial(jax.jit, static_argnames="n")
def _sample(flow: Flow, key: jax.Array, n: int, temperature: float) -> jax.Array:
    return flow.density.apply(flow.variables, key, n, temperature, method="sample")


def bind(module: nn.Module, variables: Any, trained_on: Any = None) -> Flow:
    """A linen flow and its trained variables as a `Flow`; an `InputError` for another module."""
    models.check_linen(module)
    return Flow(module, variables, trained_on=trained_on)


def from_distribution(distribution: Any, trained_on: Any = None) -> Flow:
    """A distribution of distrax, or of TFP on JAX, as a `Flow`; its parameters are the variables.

    Its events are images [H, W, C] in [0, 1): pixels (u + v) / 256, v uniform. It can be scored and
    exported; to save a scorer around it, say where it is made (`made_by` of `ecood.score.fit`).

    Raises:
      InputError: for another event shape, several distributions at once, or what is none.
    """
    return Flow(density_of(distribution), distribution, trained_on=trained_on)


def bits_per_dim(log_prob: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Nats of a dequantised 8-bit image in [0, 1) to bits per dimension of the 8-bit image.

    8 - log_prob / (D ln 2) for log-densities of any shape, D = H * W * C of the image's shape.

    Source: Theis et al. 2016, "A note on the evaluation of generative models", section 3.1.
    """
    return 8.0 - log_prob / (math.prod(shape) * math.log(2.0))
