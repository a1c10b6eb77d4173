"""Chooses the body of the attention op for a device, and says why others cannot run.

A body is chosen from facts known when a step is traced: the platform and the kind of
device, and shapes and types. `None` takes the first body that fits in the platform's
order; a name is a wish that is granted or refused with the reason and what would work.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from mell_jax.pallas_kernels.attention.tuning import for_device
from mell_jax.pallas_kernels.pool import Pool, QuantizedPool

ORDER = {  # the back ends of a platform, the preferred one first
    "cpu": ("xla", "invariant"),
    "gpu": ("triton", "mosaic_gpu", "xla"),
    "tpu": ("mosaic_tpu", "xla"),
}
BACKENDS = ("mosaic_gpu", "mosaic_tpu", "triton", "xla", "invariant")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTarget:
    """A target is what the op is compiled for."""

    platform: str  # cpu, gpu or tpu
    device_kind: str  # such as "NVIDIA H100 80GB HBM3" or "TPU v6 lite"

    @property
    def capability(self) -> int:
        """Returns an NVIDIA device's: 80 for 8.0; the tuned sizes know its kind."""
        return int(for_device("triton", self.device_kind)["capability"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call is described by the static facts that decide whether a body can run it."""

    q_dtype: str
    kv_dtype: str
    is_quantized: bool
    head: int  # H
    group: int  # N / K
    kv_heads: int  # K
    page_tokens: int  # S
    pool_bytes: int
    table_entries: int  # B * M
    decode: bool


def current_target() -> KernelTarget:
    """Returns the device that is being traced for.

    That is the abstract device of `jax.sharding.use_abstract_mesh`, to compile for a
    device that is not here; else the mesh's; else the default device.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        device = jax.default_device.value or jax.devices()[0]
    if isinstance(device, str):
        device = jax.devices(device)[0]
    platform = device.platform
    if platform in ("cuda", "rocm"):
        platform = "gpu"
    return KernelTarget(platform=platform, device_kind=device.device_kind)


def describe(q: jax.Array, pool: Pool, page_table: jax.Array, *, decode: bool) -> Call:
    """Returns the facts of a call whose arguments have been checked."""
    kv_heads, page_tokens, head = pool.shape[3:]
    return Call(
        q_dtype=q.dtype.name,
        kv_dtype=pool.dtype.name,
        is_quantized=isinstance(pool, QuantizedPool),
        head=head,
        group=q.shape[1] // kv_heads,
        kv_heads=kv_heads,
        page_tokens=page_tokens,
        pool_bytes=pool.size * jnp.dtype(pool.dtype).itemsize,
        table_entries=page_table.shape[0] * page_table.shape[1],
        decode=decode,
    )


def choose_backend(
    wanted: str | None, *, target: KernelTarget, call: Call, interpret: bool = False
) -> str:
    """Returns the name of the body that runs a call on a target.

    Args:
      wanted: a name, or None for the best one.
      interpret: the kernel will be interpreted, so that any platform will do.

    Raises:
      ValueError: the wish cannot be granted.
    """
    if target.platform not in ORDER:
        raise ValueError(
            f"there is no attention for platform {target.platform!r}; it runs on "
            f"{', '.join(sorted(ORDER))}"
        )
    able = [n for n in ORDER[target.platform] if not why_not(n, target, call)]
    if wanted is None:
        return able[0]
    if wanted not in BACKENDS:
        raise ValueError(
            f"unknown backend {wanted!r}; choose from {', '.join(BACKENDS)}"
        )
    reason = why_not(wanted, target, call, interpret=interpret)
    if reason:
        raise ValueError(
            f"attention backend {wanted!r} {reason}; on this device "
            f"({target.platform}, {target.device_kind}) these work: {', '.join(able)}"
        )
    return wanted


def why_not(
    name: str, target: KernelTarget, call: Call, *, interpret: bool = False
) -> str:
    """Tells why a body cannot run a call on a target; "" when it can."""
    if name == "xla":
        return ""
    platforms = [p for p, names in ORDER.items() if name in names]
    if not interpret and target.platform not in platforms:
        return f"runs on {platforms[0]} only"
    if name == "invariant":
        return ""
    page, head = call.page_tokens, call.head
    if page < 8 or page & (page - 1):
        return f"needs pages of a power of two and at least 8 tokens, not {page}"
    if not (8 <= head <= 256 and head % 8 == 0):
        return f"needs a head size of 8 to 256 in steps of 8, not {head}"
    check: dict[str, Callable[[KernelTarget, Call, bool], str]] = {
        "triton": _why_not_triton,
        "mosaic_gpu": _why_not_mosaic_gpu,
        "mosaic_tpu": _why_not_mosaic_tpu,
    }
    return check[name](target, call, interpret)


def _why_not_triton(target: KernelTarget, call: Call, interpret: bool) -> str:
    if call.is_quantized and 2**31 <= call.pool_bytes <= 2**32:
        # Pallas takes 32-bit offsets up to 2**32 bytes, and they are signed.
        return "cannot address a one-byte pool between 2 and 4 GiB"
    if interpret:
        return ""
    if target.capability < 80:
        return "needs compute capability 8.0"
    if target.capability < 89 and call.kv_dtype == "float8_e4m3fn":
        return "needs compute capability 8.9 for float8_e4m3fn (int8 works)"
    return ""


def _why_not_mosaic_gpu(target: KernelTarget, call: Call, interpret: bool) -> str:
    if interpret and jax.__version_info__ < (0, 11):
        return "can be interpreted from jax 0.11 on only"
    if not interpret and target.capability != 90:
        return "needs a Hopper GPU (compute capability 9.0)"
    if call.q_dtype != "bfloat16" or call.kv_dtype != "bfloat16":
        return f"needs bfloat16, not {call.q_dtype} over {call.kv_dtype}"
    if call.head not in (64, 128):
        return f"needs a head size of 64 or 128, not {call.head}"
    if call.page_tokens > 64 or call.group > 64:
        return (
            "needs pages of at most 64 tokens and as many query heads per KV head, not "
            f"{call.page_tokens} and {call.group}"
        )
    return ""


def _why_not_mosaic_tpu(target: KernelTarget, call: Call, interpret: bool) -> str:
    del target
    if call.head % 128 and not interpret:
        return (
            f"needs heads of a multiple of 128 in the pool, not {call.head}: XLA would "
            "copy the whole pool. Make a pool of wider heads; queries may be narrower"
        )
    if call.table_entries > 200_000:
        return (
            "keeps the page table in 1 MiB of scalar memory, too little for "
            f"{call.table_entries} entries"
        )
    return ""


def body(name: str) -> Callable[..., jax.Array]:
    """Returns the function of a back end, imported at its first use: Pallas is slow to
    load.
    """
    module: Any = importlib.import_module(f"{__package__}.{name}")
    function: Callable[..., jax.Array] = module.ragged_paged_attention
    return function
