"""A PyTorch module as an encoder, called on the host from within JAX's program."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ecood.encoders.encoder import Encoder
from ecood.errors import InputError

__all__ = ["from_torch"]

EXPECTED = "a tensor [B, d] of images [B, C, H, W]: pool, flatten, or wrap the module in one"


def from_torch(
    module: Callable[[Any], Any], preprocess: Callable[[Any], Any], *, name: str | None = None
) -> Encoder:
    """An encoder around a PyTorch module, which JAX calls back on the host (`pure_callback`).

    It is fitted with, scores and explains as any other. What is lost: scores are no longer one
    XLA program, so the scorer cannot be exported, and only be saved by import path
    (`ecood.score.fit`, `made_by`); images go to the host and embeddings come back, a batch at a
    time; and there are no gradients by the images.

    Args:
      module: a `torch.nn.Module` in evaluation mode, or a function, of what `preprocess` makes; it
        gives a tensor [B, d]. It runs on the device that its parameters are on.
      preprocess: takes a uint8 tensor [B, C, H, W], as transforms of torchvision do, on that
        device.
      name: for reports and messages; the class's or function's if None.

    Raises:
      InputError: if the module is in training mode, where an embedding depends on its batch, or,
        as soon as it meets images, if it gives something else.
    """
    name = name or getattr(module, "__name__", type(module).__name__)
    if getattr(module, "training", False):
        raise InputError(
            f"the module {name} is in training mode, where an embedding depends on its batch; give "
            "module.eval()."
        )
    return Encoder(TorchModule(module, preprocess, name, _digest(module)), {}, name)


@dataclasses.dataclass(frozen=True, eq=False)  # equal where it is the same
class TorchModule:
    """`(variables, images) -> float32 [B, d]`; the variables are PyTorch's own, here {}."""

    module: Callable[[Any], Any]
    preprocess: Callable[[Any], Any]
    name: str
    digest: str  # of the weights, for `identity`

    def __call__(self, variables: Any, images: jax.Array) -> jax.Array:
        """Traces the call; what the module gives is found out by two black images."""
        del variables
        probe = self.embed(np.zeros((2, *images.shape[1:]), np.uint8))
        found = jax.ShapeDtypeStruct((images.shape[0], probe.shape[1]), jnp.float32)
        return jax.pure_callback(self.embed, found, images)

    def embed(self, images: Any) -> np.ndarray:
        """Embeds on the host, uint8 [B, H, W, C] to float32 [B, d]."""
        import torch

        parameters = getattr(self.module, "parameters", tuple)()
        device = next((each.device for each in parameters), "cpu")
        tensor = torch.from_numpy(np.array(np.asarray(images).transpose(0, 3, 1, 2), order="C"))
        with torch.inference_mode():
            found = self.module(self.preprocess(tensor.to(device)))
        if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != len(images):
            what = list(found.shape) if hasattr(found, "shape") else f"a {type(found).__name__}"
            raise InputError(f"the module {self.name} gives {what}; expected {EXPECTED}.")
        return found.float().cpu().numpy()


def _digest(module: Any) -> str:
    """SHA-256 of a module's weights, or of nothing for a function."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in getattr(module, "state_dict", dict)().items():
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
