"""What an operator chooses, and one pure function that settles what they left open."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax.numpy as jnp

from mell_jax.models.config import ModelConfig
from mell_jax.pallas_kernels.attention.backends import (
    Call,
    KernelTarget,
    choose_backend,
)
from mell_jax.worker.layout import Bucket
from mell_jax.worker.pool import PAGE_TOKENS, pool_head

DEMO = "demo"
DType = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """One engine. None and "auto" are settled by `settle` once the model is known.

    Raises:
      ValueError: a value is out of range, naming the flag and the rule.
    """

    model: str = DEMO  # a directory, or the demo model that ships with the package
    served_model_name: str | None = None
    dtype: DType = "auto"  # of weights and KV pages
    max_model_len: int | None = None  # tokens of prompt and output together
    max_rows: int | None = None  # sequences that run at once
    token_budget: int | None = None  # tokens computed per step
    kv_pages: int | None = None
    kv_memory_fraction: float = 0.9  # of what is free once the weights are loaded
    prefix_cache: bool = True
    instances: int = 1
    tensor_parallel: int = 1  # devices per instance
    devices: tuple[int, ...] | None = None
    """Indices into `jax.devices()`, `tensor_parallel` of them for each instance in
    turn; None for the first ones. Instances may share devices."""
    attention_backend: str = "auto"
    decode_rows: tuple[int, ...] = ()  # compiled batch sizes; () for a default
    compilation_cache_dir: Path | None = None
    seed: int = 0  # of the seeds drawn for requests without one

    def __post_init__(self) -> None:
        for name, value in (
            ("max_model_len", self.max_model_len),
            ("max_rows", self.max_rows),
            ("token_budget", self.token_budget),
            ("kv_pages", self.kv_pages),
            ("instances", self.instances),
            ("tensor_parallel", self.tensor_parallel),
        ):
            if value is not None and not (1 <= value <= 2**31 - 1):
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not (0.0 < self.kv_memory_fraction <= 1.0):
            raise ValueError(
                f"kv_memory_fraction must be in (0, 1], got {self.kv_memory_fraction}"
            )
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise ValueError(
                f"dtype must be auto, float32 or bfloat16, got {self.dtype!r}"
            )
        if any(rows < 1 for rows in self.decode_rows):
            raise ValueError(f"decode_rows must be positive, got {self.decode_rows}")
        _check_devices(self)

    @property
    def name(self) -> str:
        """What clients call the model."""
        if self.served_model_name or self.model == DEMO:
            return self.served_model_name or DEMO
        return Path(self.model).resolve().name


def _check_devices(config: EngineConfig) -> None:
    if config.devices is None:
        return
    wanted = config.instances * config.tensor_parallel
    if len(config.devices) != wanted or not (min(config.devices) >= 0):
        raise ValueError(
            f"devices must name {wanted} devices by their numbers from 0, "
            f"{config.tensor_parallel} for each of {config.instances} instances, got "
            f"{config.devices}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledConfig:
    """An `EngineConfig` with nothing left open, except the size of the KV pool."""

    dtype: jnp.dtype
    max_model_len: int
    max_rows: int
    token_budget: int
    attention_backend: str
    decode_rows: tuple[int, ...]
    mixed_tokens: tuple[int, ...]

    @property
    def max_pages(self) -> int:
        """Pages of the longest sequence."""
        return -(-self.max_model_len // PAGE_TOKENS)

    def buckets(self) -> list[Bucket]:
        """The shapes to compile."""
        decode = [
            Bucket(tokens=rows, rows=rows, pages=self.max_pages, is_decode=True)
            for rows in self.decode_rows
        ]
        mixed = [
            Bucket(
                tokens=tokens, rows=self.max_rows, pages=self.max_pages, is_decode=False
            )
            for tokens in self.mixed_tokens
        ]
        return decode + mixed


def parse_mesh(text: str) -> tuple[int, int]:
    """Instances, and devices of each: (4, 2) of "4x2".

    Raises:
      ValueError: the text says something else.
    """
    match = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", text)
    if match is None:
        raise ValueError(
            "mesh must be INSTANCESxDEVICES, such as 4x2 for four instances of two "
            f"devices each, got {text[:50]!r}"
        )
    return int(match[1]), int(match[2])


def settle(
    config: EngineConfig,
    *,
    model: ModelConfig,
    platform: str,
    capacity_tokens: int,
    device_kind: str = "",
) -> SettledConfig:
    """Chooses what `config` leaves open for a model on a platform.

    A CPU gets float32 and few shapes, since compiling is what it is slow at and a
    padding row costs it little; other platforms get bfloat16 and finer shapes.

    Args:
      capacity_tokens: what the largest possible KV pool holds; bounds the context when
        the operator did not choose one.
      device_kind: what jax calls the device, such as "NVIDIA H200".

    Raises:
      ValueError: choices that contradict each other or the model.
    """
    is_cpu = platform == "cpu"
    dtype = config.dtype
    if dtype == "auto":
        dtype = "float32" if is_cpu else "bfloat16"
    max_rows = config.max_rows or (64 if is_cpu else 256)
    token_budget = config.token_budget or max(max_rows, 512 if is_cpu else 2048)
    if not (max_rows <= token_budget):
        raise ValueError(
            f"token_budget ({token_budget}) must be at least max_rows ({max_rows}), so "
            "that all rows can decode in one step"
        )
    context = model.max_position_embeddings
    if not (capacity_tokens >= 2):
        raise ValueError(
            f"the KV pool would hold {capacity_tokens} tokens: give more kv_pages "
            "(page 0 is scratch), or free memory"
        )
    max_model_len = config.max_model_len or min(context, capacity_tokens)
    if not (2 <= max_model_len <= context):
        raise ValueError(
            f"max_model_len must be from 2 to the model's context of {context} tokens, "
            f"got {max_model_len}"
        )
    ratio = 4 if is_cpu else 2
    decode_rows = config.decode_rows or _ladder(1, max_rows, ratio=ratio)
    backend = _attention_backend(
        config,
        model=model,
        dtype=dtype,
        target=KernelTarget(platform=platform, device_kind=device_kind),
        table_entries=max_rows * -(-max_model_len // PAGE_TOKENS),
    )
    return SettledConfig(
        dtype=jnp.dtype(dtype),
        max_model_len=max_model_len,
        max_rows=max_rows,
        token_budget=token_budget,
        attention_backend=backend,
        decode_rows=tuple(
            sorted({r for r in decode_rows if r < max_rows} | {max_rows})
        ),
        mixed_tokens=_ladder(min(64, token_budget), token_budget, ratio=8),
    )


def _attention_backend(
    config: EngineConfig,
    *,
    model: ModelConfig,
    dtype: str,
    target: KernelTarget,
    table_entries: int,
) -> str:
    """The name of the attention body that all steps of an engine use."""
    wanted = None if config.attention_backend == "auto" else config.attention_backend
    call = Call(
        q_dtype=dtype,
        kv_dtype=dtype,
        is_quantized=False,
        head=pool_head(model, platform=target.platform),
        group=model.num_heads // model.num_kv_heads,
        kv_heads=model.num_kv_heads,
        page_tokens=PAGE_TOKENS,
        pool_bytes=0,
        table_entries=table_entries,
        decode=False,
    )
    return choose_backend(wanted, target=target, call=call)


def _ladder(first: int, last: int, *, ratio: int) -> tuple[int, ...]:
    """first, first * ratio, ... and `last`: (1, 4, 16, 64) for 1 to 64 by 4."""
    sizes = []
    size = first
    while size < last:
        sizes.append(size)
        size *= ratio
    return (*sizes, last)
