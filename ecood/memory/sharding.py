"""A bank shared out over devices: every device searches its own rows, and only maxima travel."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ecood.memory.compress import Compressed

__all__ = ["over_devices", "shard"]

AXIS = "bank"


def shard(
    bank: jax.Array | Compressed, devices: Sequence[jax.Device] | None = None
) -> jax.Array | Compressed:
    """Shares the rows of a bank out over devices; whoever searches it need not know.

    The sharding is part of the array's type, so the compiled search sees it: each device
    compares the queries with its own rows, and one float a query crosses between devices.

    Args:
      bank: [N, d].
      devices: all if None.

    Returns:
      The same rows on the devices, the last one repeated until N is a multiple of their number,
      which no maximum notices.
    """
    if isinstance(bank, Compressed):
        return bank._replace(bank=shard(bank.bank, devices))
    devices = np.asarray(jax.devices() if devices is None else devices)
    missing = -len(bank) % len(devices)
    padded = jnp.concatenate([bank, jnp.repeat(bank[-1:], missing, axis=0)])
    mesh = Mesh(devices, (AXIS,), axis_types=(AxisType.Explicit,))
    return jax.device_put(padded, NamedSharding(mesh, PartitionSpec(AXIS, None)))


def over_devices(
    search: Callable[[jax.Array, jax.Array], jax.Array], bank: jax.Array, embeddings: jax.Array
) -> jax.Array:
    """`search(bank, embeddings)`, a maximum over the bank's rows, on each device's own rows.

    Args:
      search: (rows [n, d], embeddings [B, d]) -> [B].
      bank: [N, d], shared out by `shard` or not.
      embeddings: [B, d].

    Returns:
      [B], on every device that holds a part of the bank.
    """
    sharding = jax.typeof(bank).sharding
    axis = sharding.spec[0]
    if axis is None:
        return search(bank, embeddings)

    def local(rows: jax.Array, embeddings: jax.Array) -> jax.Array:
        return jax.lax.pmax(search(rows, embeddings), axis)

    everywhere = PartitionSpec()
    return jax.shard_map(
        local,
        mesh=sharding.mesh,
        in_specs=(PartitionSpec(axis, None), everywhere),
        out_specs=everywhere,
        check_vma=False,
    )(bank, embeddings)
