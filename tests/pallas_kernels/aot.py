"""Devices that only compilers know: whole programs compiled without the hardware."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mell_jax.models.config import ModelConfig
from mell_jax.models.decoder import Decoder
from mell_jax.models.uniform import uniform_config
from mell_jax.worker.cache_layout import lay_out
from mell_jax.worker.layout import Bucket, vector_size
from mell_jax.worker.pool import PAGE_TOKENS, pool_shape
from mell_jax.worker.sampling import ROW_COLUMNS, Logits, init_row_state
from mell_jax.worker.step import (
    StepOptions,
    make_forward,
    make_programs,
    prompt_chunk,
    split_model,
)

LLAMA_8B = uniform_config(
    vocab_size=128_256,
    hidden_size=4096,
    intermediate_size=14_336,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    max_position_embeddings=8192,
)
PAGES = 8192  # 16 GiB of bfloat16
_GPU = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {per_core} shared_memory_per_block_optin: {per_block}
  threads_per_core_limit: 2048 core_count: {cores} fpus_per_core: {fpus}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth} l2_cache_size: {l2} clock_rate_ghz: {clock}
  device_memory_size: 84942979072 registers_per_core_limit: 65536
  registers_per_block_limit: 65536 cuda_compute_capability {{ {capability} }}
  driver_version: "12.9.0" runtime_version: "12.9.0"
  compile_time_toolkit_version: "12.9.0"
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{name}"
"""
GPUS = {
    "h100": _GPU.format(
        per_core=233472,
        per_block=232448,
        cores=132,
        fpus=128,
        bandwidth=3352320000000,
        l2=52428800,
        clock=1.98,
        capability="major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES",
        name="NVIDIA H100 80GB HBM3",
    ),
    "a100": _GPU.format(
        per_core=167936,
        per_block=166912,
        cores=108,
        fpus=64,
        bandwidth=2039000000000,
        l2=41943040,
        clock=1.41,
        capability="major: 8 minor: 0",
        name="NVIDIA A100-SXM4-80GB",
    ),
}


def gpu_mesh(name: str) -> Mesh:
    """One GPU that is not here; needs the wheels of jax's CUDA plugin."""
    topology = topologies.get_topology_desc(
        name, platform="cuda", target_config=GPUS[name], topology="1x1x1"
    )
    return Mesh(np.array(topology.devices), "x")


def tpu_mesh(name: str) -> Mesh:
    """One TPU core of a topology such as "v6e:2x2"; needs libtpu."""
    topology = topologies.get_topology_desc(name, platform="tpu")
    return Mesh(np.array(topology.devices)[:1], "x")


def place(tree: Any, mesh: Mesh) -> Any:
    """The shapes of `tree` on the mesh."""
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )


@dataclass(frozen=True, kw_only=True)
class CompiledStep:
    """A decode step of a model."""

    compiled: Any
    pool_bytes: int
    pool_shape: tuple[int, ...]


def compile_step(
    mesh: Mesh, *, bucket: Bucket, platform: str, backend: str, layers: int
) -> CompiledStep:
    """Compiles a step of `layers` layers of an 8B model, over a pool of 16 GiB or less.

    Fewer layers than 32 compile faster and have proportionally smaller pools.
    """
    config = nnx_config(layers)
    decoder = nnx.eval_shape(
        lambda: Decoder(config, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    )
    parts, weights = split_model(*nnx.split(decoder))
    shape = pool_shape(config, num_pages=PAGES, platform=platform)
    pool = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    last_token = jax.ShapeDtypeStruct((65,), jnp.int32)
    options = StepOptions(
        attention_backend=backend,
        page_tokens=PAGE_TOKENS,
        places=lay_out(config).places,
    )
    step = jax.jit(
        make_forward(parts, bucket=bucket, options=options), donate_argnums=1
    )
    vector = jax.ShapeDtypeStruct((vector_size(bucket),), jnp.int32)
    arguments = place((weights, pool, last_token, vector), mesh)
    # Flax widens bfloat16 by itself.
    promotion = jax.numpy_dtype_promotion("standard")
    with promotion, jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        compiled = step.lower(*arguments).compile()
    return CompiledStep(
        compiled=compiled, pool_bytes=2 * int(np.prod(shape)), pool_shape=shape
    )


def compile_rest(
    mesh: Mesh, *, bucket: Bucket, platform: str, backend: str
) -> list[Any]:
    """Compiles what a step of an 8B model has beside the forward pass.

    Those are the sampler's programs and, for a mixed bucket, the scores of a prompt.
    """
    config = nnx_config(1)
    decoder = nnx.eval_shape(
        lambda: Decoder(config, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    )
    parts, weights = split_model(*nnx.split(decoder))
    options = StepOptions(
        attention_backend=backend,
        page_tokens=PAGE_TOKENS,
        places=lay_out(config).places,
    )
    programs = make_programs(
        parts, buckets=[bucket], options=options, platform=platform
    )
    shape = jax.ShapeDtypeStruct
    state = jax.eval_shape(
        functools.partial(
            init_row_state, rows=bucket.rows, vocab_size=config.vocab_size
        )
    )
    logits = Logits(
        values=shape((bucket.rows, config.vocab_size), jnp.float32),
        are_finite=shape((bucket.rows,), jnp.bool_),
    )
    rows = shape((ROW_COLUMNS, bucket.rows), jnp.int32)
    traced = programs.samplers[bucket.rows].traced(*place((logits, state, rows), mesh))
    if not bucket.is_decode:
        hidden = shape((bucket.tokens, config.hidden_size), jnp.bfloat16)
        targets = shape((prompt_chunk(bucket),), jnp.int32)
        temperatures = shape(targets.shape, jnp.float32)
        arguments = (weights, hidden, targets, temperatures, shape((), jnp.int32))
        with jax.numpy_dtype_promotion("standard"):
            traced.append(programs.scores[bucket].trace(*place(arguments, mesh)))
    return [program.lower().compile() for program in traced]


def control_flow(compiled: Any) -> list[str]:
    """Instructions for which a GPU's host would wait: branches and loops."""
    kinds = (" conditional(", " while(")
    return [
        line.strip()
        for line in compiled.as_text().splitlines()
        if any(kind in line for kind in kinds)
    ]


def nnx_config(layers: int) -> ModelConfig:
    """An 8B model cut to so many layers."""
    return dataclasses.replace(LLAMA_8B, layers=LLAMA_8B.layers[:layers])


def pool_sized_copies(step: CompiledStep) -> list[str]:
    """Instructions of the program that make another array of the pool's size."""
    size = int(np.prod(step.pool_shape))
    found = []
    for line in step.compiled.as_text().splitlines():
        _, _, right = line.partition(" = ")
        if not right.startswith("bf16["):
            continue
        dims = right[5 : right.index("]")]
        elements = int(np.prod([int(d) for d in dims.split(",") if d]))
        makes_new = any(f" {op}(" in right for op in ("copy", "convert", "transpose"))
        if elements == size and makes_new:
            found.append(line.strip())
    return found
