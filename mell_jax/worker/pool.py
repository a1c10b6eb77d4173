"""Makes the KV pool of one instance: sizes it, chooses its type, fills it with zeros.

Kernels see it as [P, L, 2, K, S, H], L being the layers of a page (`cache_layout`).
Between steps it is kept as [P, 2L, KS, H], the same bytes in the same order: when an
axis of a step's argument has the length 1, as K has where a device keeps one KV head,
XLA:CPU moves that axis in the memory layout and copies the pool into it and back, every
step.
"""

import math
import os
from pathlib import Path

import jax
import jax.numpy as jnp

from mell_jax.models.config import ModelConfig
from mell_jax.worker.cache_layout import lay_out
from mell_jax.worker.group import DeviceGroup

PAGE_TOKENS = 16
MAX_HOST_SHARE = 0.25
"""Share of free host memory that a pool on a CPU device may take by itself."""


def pool_head(config: ModelConfig, *, platform: str) -> int:
    """Returns the pool's head size: TPUs pad to 128, or else copy the pool."""
    if platform == "tpu":
        return -(-config.head_dim // 128) * 128
    return config.head_dim


def pool_shape(
    config: ModelConfig,
    *,
    num_pages: int,
    page_tokens: int = PAGE_TOKENS,
    platform: str = "cpu",
) -> tuple[int, int, int, int]:
    """Returns [P, 2L, KS, H]: a page is contiguous over its L layers, moves as one."""
    return (
        num_pages,
        lay_out(config).layers_per_page * 2,
        config.num_kv_heads * page_tokens,
        pool_head(config, platform=platform),
    )


def page_bytes(
    config: ModelConfig,
    *,
    dtype: jnp.dtype,
    page_tokens: int = PAGE_TOKENS,
    platform: str = "cpu",
) -> int:
    shape = pool_shape(config, num_pages=1, page_tokens=page_tokens, platform=platform)
    return math.prod(shape) * jnp.dtype(dtype).itemsize


def make_pool(
    config: ModelConfig, *, num_pages: int, dtype: jnp.dtype, group: DeviceGroup
) -> jax.Array:
    """Returns a pool of zeros on `group`; never uninitialised, since 0 * NaN is NaN.

    Raises:
      ValueError: bfloat16 on a CPU with a jax that copies the whole pool per write.
    """
    platform = group.devices[0].platform
    check_pool_dtype(dtype, platform=platform)
    shape = pool_shape(config, num_pages=num_pages, platform=platform)
    # Compiled, so that every device makes its part and none ever holds the whole.
    zeros = jax.jit(jnp.zeros, static_argnums=(0, 1), out_shardings=group.pool_sharding)
    pool: jax.Array = zeros(shape, dtype)
    return pool


def check_pool_dtype(dtype: jnp.dtype, *, platform: str) -> None:
    """Refuses a pool type whose writes are not in place on `platform`."""
    is_old = jax.__version_info__ < (0, 11)
    if platform == "cpu" and jnp.dtype(dtype) != jnp.float32 and is_old:
        raise ValueError(
            f"a {jnp.dtype(dtype).name} KV pool on a CPU is copied whole by every "
            f"write in jax {jax.__version__}; use float32, or jax 0.11 and later"
        )


def free_bytes(group: DeviceGroup) -> int:
    """Returns memory that a pool on `group` could take now, in bytes of whole pages.

    That of the device with the least, times the parts that a page is cut into. The
    devices of a CPU are all the host: groups of them count the same bytes.
    """
    stats = [
        device.memory_stats() if device.platform != "cpu" else None
        for device in group.devices
    ]
    free = [int(s["bytes_limit"] - s["bytes_in_use"]) for s in stats if s is not None]
    if len(free) == group.size:
        return min(free) * group.kv_shards
    return int(_available_host_bytes() * MAX_HOST_SHARE) // group.copies


def _available_host_bytes() -> int:
    """Memory that can be had without swapping; page cache counts as free on Linux."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def choose_num_pages(
    config: ModelConfig,
    *,
    dtype: jnp.dtype,
    budget_bytes: int,
    per_sequence: int,
    max_rows: int,
    platform: str = "cpu",
) -> int:
    """Returns pages (scratch page included) that fit `budget_bytes`, at most what is
    useful.

    More than `max_rows` sequences of `per_sequence` pages can never be used.

    Raises:
      ValueError: when not even one such sequence fits.
    """
    size = page_bytes(config, dtype=dtype, platform=platform)
    pages = min(budget_bytes // size, max_rows * per_sequence + 1)
    if not (pages >= per_sequence + 1):
        raise ValueError(
            f"{budget_bytes / 2**20:.0f} MiB for the KV pool hold {pages} pages of "
            f"{size} bytes; one sequence of the longest kind needs "
            f"{per_sequence + 1}: shorten the context or give more memory"
        )
    return pages
