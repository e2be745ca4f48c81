"""An encoder that is computed elsewhere: its embeddings come beside the images."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ecood.encoders.encoder import Encoder, encoder
from ecood.errors import InputError

__all__ = ["Elsewhere", "beside", "elsewhere", "width"]


class Elsewhere(nn.Module):
    """What is known of such an encoder: how many numbers an embedding has."""

    width: int

    def __call__(self, images: jax.Array) -> jax.Array:
        """Raises an `InputError`: images alone have no embedding."""
        if self.is_initializing():
            return jnp.zeros((images.shape[0], self.width))
        raise InputError(
            "this encoder's embeddings are computed elsewhere; give them beside the images, float "
            f"[N, {self.width}]: embeddings= of a scorer and its fit, or --embeddings of a command."
        )


def elsewhere(width: int, *, name: str) -> Encoder:
    """Stands for an encoder that ecood does not run, a service or another framework, say.

    `ecood.score.fit(flow, encoder, split, embeddings=...)` takes its embeddings beside the images,
    and so does the scorer that it gives, which is saved as any other.

    Args:
      width: d, the numbers of an embedding.
      name: by which a memory bank knows it: name the network, its weights and preprocessing.
    """
    return encoder(Elsewhere(width), {}, name=name)


def beside(encoder: Encoder, embeddings: jax.Array) -> Encoder:
    """The encoder of one batch, whose embeddings, float [B, d], are its variables."""
    return Encoder(_of_this_batch, embeddings, encoder.name)


def _of_this_batch(embeddings: jax.Array, images: jax.Array) -> jax.Array:
    del images
    return embeddings


def width(encoder: Encoder, image_shape: tuple[int, ...]) -> int:
    """d, the numbers of an encoder's embedding of an image (H, W, C)."""
    if isinstance(encoder.function, Elsewhere):
        return encoder.function.width
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
    return jax.eval_shape(encoder.embed, images).shape[-1]
