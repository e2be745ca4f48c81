"""A batch shared by devices: its rows are split, everything else is on each of them."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ecood.errors import InputError

__all__ = ["Placement", "check", "follow", "loosen", "put", "share", "without_mesh"]


class Placement(NamedTuple):
    """Where arrays go when devices share a batch."""

    rows: NamedSharding  # of arrays [B, ...], split evenly; B is a multiple of `count`
    everywhere: NamedSharding  # of parameters and all else: a copy on each device

    @property
    def count(self) -> int:
        """The number of devices."""
        return self.rows.mesh.size

    def replicate(self, tree: Any) -> Any:
        """A copy of the arrays on each device, for a jitted function."""

        # Keys stay where they are: they cannot be sent to devices of other processes, and a
        # jitted function does it itself.
        def copy(leaf: Any) -> Any:
            keys = jax.dtypes.prng_key
            if not (isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, keys)):
                return put(leaf, self.everywhere)
            if not isinstance(leaf.sharding, NamedSharding):
                return leaf
            # It was made where a mesh was set, which is part of its type.
            words = np.asarray(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))

        return jax.tree.map(copy, tree)

    def split(self, batch: Any) -> Any:
        """The arrays [B, ...] with their rows shared out."""
        return jax.tree.map(lambda leaf: put(leaf, self.rows), batch)


def check() -> None:
    """Refuses a platform that JAX_PLATFORMS asks for and JAX cannot have."""
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:
        reason = str(error).split("\n")[0] or "it is not installed"
        raise InputError(
            f"JAX has no device on the platform {jax.config.jax_platforms} ({reason}); install jax "
            "for it, or set JAX_PLATFORMS=cpu."
        ) from error


@contextlib.contextmanager
def without_mesh() -> Iterator[None]:
    """A block that sees no mesh that the caller has set (`jax.set_mesh`): it places by itself."""
    if jax.sharding.get_abstract_mesh().empty:
        yield
        return
    with jax.set_mesh(None):
        yield


def put(values: Any, sharding: NamedSharding) -> jax.Array:
    """An array that all processes have, on devices of all: each puts what its own devices hold.

    `jax.device_put` would first send it to all processes, to see whether it is the same.
    """
    if sharding.is_fully_addressable or getattr(values, "sharding", None) == sharding:
        return jax.device_put(values, sharding)
    values = np.asarray(values)
    return jax.make_array_from_callback(values.shape, sharding, values.__getitem__)


def loosen(tree: Any) -> Any:
    """Copies that were put on devices, free to go where an array of the tree is shared out.

    So a flow that many devices trained goes with a bank of which each has a part.
    """

    def spec(leaf: Any) -> tuple | None:
        sharding = getattr(leaf, "sharding", None)
        return sharding.spec if isinstance(sharding, NamedSharding) else None

    if not any(any(spec(leaf) or ()) for leaf in jax.tree.leaves(tree)):
        return tree

    def free(leaf: Any) -> Any:
        copied = spec(leaf) is not None and not any(spec(leaf))
        return jnp.asarray(np.asarray(leaf)) if copied else leaf

    return jax.tree.map(free, tree)


def share(devices: Sequence[jax.Device]) -> Placement:
    """The placement of a batch that these devices share."""
    mesh = Mesh(np.asarray(devices), ("batch",))
    rows, everywhere = PartitionSpec("batch"), PartitionSpec()
    return Placement(NamedSharding(mesh, rows), NamedSharding(mesh, everywhere))


def follow(arguments: Any) -> Placement | None:
    """The placement of a batch that is computed with `arguments`, a pytree of arrays.

    The devices that hold the arguments share it, if somebody has put them there; else
    all devices, of all processes; under `jax.default_device`, none. It is None on one
    device, or with an argument that is itself shared out (`ecood.memory.shard`): all
    devices work on the whole batch.
    """
    leaves = jax.tree.leaves(arguments)
    placed = [leaf.sharding for leaf in leaves if getattr(leaf, "committed", False)]
    if not all(sharding.is_fully_replicated for sharding in placed):
        return None
    if placed and isinstance(placed[0], NamedSharding):
        devices = placed[0].mesh.devices.flatten()  # in the order that the arrays have them
    elif placed:
        devices = sorted(placed[0].device_set, key=lambda device: device.id)
    elif jax.config.jax_default_device is not None:
        return None
    else:
        devices = jax.devices()
    return share(devices) if len(devices) > 1 else None
