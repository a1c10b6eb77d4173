"""The Triton programs of an attention call, compiled to machine code by `triton`."""

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mell_jax.pallas_kernels import ragged_paged_attention
from tests.pallas_kernels.devices import A100, H100, tracing_for

DEVICES = {"a100": A100, "h100": H100}


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One Triton program."""

    name: str
    bytecode: bytes
    num_warps: int
    num_stages: int


def kernels_of(device: str, *, decode: bool) -> list[Kernel]:
    """The programs of one bfloat16 call with heads of 128, in order."""
    shape = jax.ShapeDtypeStruct
    call = functools.partial(
        ragged_paged_attention, sm_scale=0.1, decode=decode, backend="triton"
    )
    with tracing_for(DEVICES[device]):
        lowered = (
            jax.jit(call)
            .trace(
                shape((64 if decode else 512, 32, 128), jnp.bfloat16),
                shape((2048, 4, 2, 8, 16, 128), jnp.bfloat16),
                layer=shape((), jnp.int32),
                page_table=shape((64, 256), jnp.int32),
                kv_lens=shape((64,), jnp.int32),
                cu_q_lens=shape((65,), jnp.int32),
            )
            .lower(lowering_platforms=("cuda",))
        )
    found: list[Kernel] = []

    def visit(operation: Any) -> Any:
        from jaxlib.mlir import ir  # noqa: PLC0415

        if operation.name == "stablehlo.custom_call":
            attributes = operation.attributes
            if "triton" in ir.StringAttr(attributes["call_target_name"]).value:
                config = ir.DictAttr(attributes["mhlo.backend_config"])
                found.append(
                    Kernel(
                        name=ir.StringAttr(config["name"]).value,
                        bytecode=ir.StringAttr(config["ir"]).value_bytes,
                        num_warps=ir.IntegerAttr(config["num_warps"]).value,
                        num_stages=ir.IntegerAttr(config["num_stages"]).value,
                    )
                )
        return ir.WalkResult.ADVANCE

    lowered.compiler_ir("stablehlo").operation.walk(visit)
    return found


def compile_ir(kernel: Kernel, *, capability: int, folder: Path) -> tuple[str, bytes]:
    """PTX and cubin for a compute capability such as 90."""
    import triton  # noqa: PLC0415
    from jax._src.interpreters import mlir  # noqa: PLC0415
    from jax._src.lib import triton as _  # noqa: F401, PLC0415
    from jaxlib.mlir import ir  # noqa: PLC0415
    from jaxlib.triton import dialect as triton_dialect  # noqa: PLC0415
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415

    with mlir.make_ir_context() as context:
        triton_dialect.register_dialect(context)
        text = str(ir.Module.parse(kernel.bytecode))
    path = folder / f"{kernel.name}.ttir"
    path.write_text(re.sub(r" loc\(.*\)$", "", text, flags=re.MULTILINE))
    compiled = triton.compile(
        str(path),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": kernel.num_warps, "num_stages": kernel.num_stages},
    )
    return compiled.asm["ptx"], compiled.asm["cubin"]
