"""Rotary embeddings of published models, as their `config.json` spells them.

The lists of longrope are of the published length, with numbers of our own.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mell_jax.models.rope import RopeConfig
from mell_jax.models.rope_scaling import (
    DynamicRope,
    LinearRope,
    Llama3Rope,
    LongRope,
    YarnRope,
)

GOLDENS = Path(__file__).parent / "rope_goldens.json"
SHORT = tuple(1.0 + pair / 64 for pair in range(48))
LONG = tuple(1.0 + pair * pair / 32 for pair in range(48))
LONGROPE_PHI = LongRope(
    short_factor=SHORT,
    long_factor=LONG,
    original_context=4096,
    factor=32.0,
    is_long=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a file says, and what that means."""

    model_type: str  # of transformers
    values: dict[str, Any]  # of config.json, all that a rope depends on
    head_dim: int
    rope: RopeConfig
    context: int  # tokens
    family: dict[str, Any] = field(default_factory=dict)
    """What the family gives `read_rope`."""
    is_known_to_transformers: bool = True
    """Its version 5 does not read this spelling any more where this is False."""


def published_goldens() -> dict[str, dict[str, Any]]:
    """Frequencies and gain of each by transformers; "NAME, short" with the short list
    of a longrope.
    """
    goldens: dict[str, dict[str, Any]] = json.loads(GOLDENS.read_text())
    return goldens


PUBLISHED: dict[str, Published] = {
    "Llama 2": Published(
        model_type="llama",
        values={"max_position_embeddings": 4096, "rope_scaling": None},
        head_dim=128,
        rope=RopeConfig(),
        context=4096,
    ),
    "Llama 3.1": Published(
        model_type="llama",
        values={
            "max_position_embeddings": 131072,
            "rope_theta": 500000.0,
            "rope_scaling": {
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
        },
        head_dim=128,
        rope=RopeConfig(
            theta=500_000.0,
            scaling=Llama3Rope(
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_context=8192,
            ),
        ),
        context=131072,
    ),
    "deepseek-coder": Published(
        model_type="llama",
        values={
            "max_position_embeddings": 16384,
            "rope_theta": 100000,
            "rope_scaling": {"factor": 4.0, "type": "linear"},
        },
        head_dim=128,
        rope=RopeConfig(theta=100_000.0, scaling=LinearRope(factor=4.0)),
        context=16384,
    ),
    "Vicuna 16k": Published(
        model_type="llama",
        values={
            "max_position_embeddings": 4096,
            "max_sequence_length": 16384,
            "rope_scaling": {"factor": 4.0, "type": "linear"},
        },
        head_dim=128,
        rope=RopeConfig(scaling=LinearRope(factor=4.0)),
        context=16384,
    ),
    "InternLM3": Published(
        model_type="llama",
        values={
            "max_position_embeddings": 32768,
            "rope_theta": 50000000,
            "rope_scaling": {"factor": 6.0, "rope_type": "dynamic"},
        },
        head_dim=128,
        rope=RopeConfig(theta=50_000_000.0, scaling=DynamicRope(factor=6.0)),
        context=32768,
    ),
    "Qwen2.5 long": Published(
        model_type="qwen2",
        values={
            "max_position_embeddings": 32768,
            "rope_theta": 1000000.0,
            "rope_scaling": {
                "factor": 4.0,
                "original_max_position_embeddings": 32768,
                "type": "yarn",
            },
        },
        head_dim=128,
        rope=RopeConfig(
            theta=1_000_000.0, scaling=YarnRope(factor=4.0, original_context=32768)
        ),
        context=131072,
    ),
    "Qwen3 long, transformers 5": Published(
        model_type="qwen3",
        values={
            "max_position_embeddings": 40960,
            "rope_parameters": {
                "rope_theta": 1000000.0,
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32768,
            },
        },
        head_dim=128,
        rope=RopeConfig(
            theta=1_000_000.0, scaling=YarnRope(factor=4.0, original_context=32768)
        ),
        context=131072,
    ),
    "Yarn-Llama-2 64k": Published(
        model_type="llama",
        values={
            "max_position_embeddings": 65536,
            "rope_scaling": {
                "factor": 16.0,
                "original_max_position_embeddings": 4096,
                "type": "yarn",
                "finetuned": True,
            },
        },
        head_dim=128,
        rope=RopeConfig(scaling=YarnRope(factor=16.0, original_context=4096)),
        context=65536,
    ),
    "GPT-OSS": Published(
        model_type="gpt_oss",
        values={
            "max_position_embeddings": 131072,
            "rope_theta": 150000,
            "rope_scaling": {
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "factor": 32.0,
                "original_max_position_embeddings": 4096,
                "rope_type": "yarn",
                "truncate": False,
            },
        },
        head_dim=64,
        rope=RopeConfig(
            theta=150_000.0,
            scaling=YarnRope(factor=32.0, original_context=4096, is_truncated=False),
        ),
        context=131072,
    ),
    "yarn of DeepSeek V2": Published(
        model_type="llama",
        values={
            "max_position_embeddings": 163840,
            "rope_theta": 10000,
            "rope_scaling": {
                "beta_fast": 32,
                "beta_slow": 1,
                "factor": 40,
                "mscale": 1.0,
                "mscale_all_dim": 0.707,
                "original_max_position_embeddings": 4096,
                "type": "yarn",
            },
        },
        head_dim=64,
        rope=RopeConfig(
            scaling=YarnRope(
                factor=40.0, original_context=4096, mscale=1.0, mscale_all_dim=0.707
            )
        ),
        context=163840,
    ),
    "Phi-3 mini 128k": Published(
        model_type="phi3",
        values={
            "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096,
            "rope_theta": 10000.0,
            "rope_scaling": {
                "long_factor": list(LONG),
                "short_factor": list(SHORT),
                "type": "longrope",
            },
        },
        head_dim=96,
        rope=RopeConfig(scaling=LONGROPE_PHI),
        context=131072,
    ),
    "Phi-3 mini 128k, at first": Published(
        model_type="phi3",
        values={
            "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096,
            "rope_theta": 10000.0,
            "rope_scaling": {
                "long_factor": list(LONG),
                "short_factor": list(SHORT),
                "type": "su",
            },
        },
        head_dim=96,
        rope=RopeConfig(scaling=LONGROPE_PHI),
        context=131072,
        is_known_to_transformers=False,
    ),
    "Phi-4-mini": Published(
        model_type="phi3",
        values={
            "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096,
            "partial_rotary_factor": 0.75,
            "rope_theta": 10000.0,
            "rope_scaling": {
                "long_factor": list(LONG),
                "short_factor": list(SHORT),
                "type": "longrope",
            },
        },
        head_dim=128,
        rope=RopeConfig(dims=96, scaling=LONGROPE_PHI),
        context=131072,
    ),
    "Phi-4-mini, transformers 5": Published(
        model_type="phi3",
        values={
            "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096,
            "rope_parameters": {
                "long_factor": list(LONG),
                "original_max_position_embeddings": 4096,
                "partial_rotary_factor": 0.75,
                "rope_theta": 10000.0,
                "rope_type": "longrope",
                "short_factor": list(SHORT),
                "type": "longrope",
            },
        },
        head_dim=128,
        rope=RopeConfig(dims=96, scaling=LONGROPE_PHI),
        context=131072,
    ),
    "GLM-4 0414": Published(
        model_type="glm4",
        values={
            "max_position_embeddings": 32768,
            "partial_rotary_factor": 0.5,
            "rope_theta": 10000.0,
        },
        head_dim=128,
        rope=RopeConfig(dims=64, is_interleaved=True),
        context=32768,
        family={"is_interleaved": True, "default_share": 0.5},
    ),
    "StableLM 2": Published(
        model_type="stablelm",
        values={
            "max_position_embeddings": 4096,
            "partial_rotary_factor": 0.25,
            "rope_theta": 10000,
        },
        head_dim=64,
        rope=RopeConfig(dims=16),
        context=4096,
        family={"default_share": 0.25},
    ),
    "Minitron": Published(
        model_type="nemotron",
        values={"max_position_embeddings": 4096, "rope_theta": 10000},
        head_dim=128,
        rope=RopeConfig(dims=64),
        context=4096,
        family={"default_share": 0.5},
    ),
    "Command-R": Published(
        model_type="cohere",
        values={"max_position_embeddings": 8192, "rope_theta": 8000000.0},
        head_dim=128,
        rope=RopeConfig(theta=8_000_000.0, is_interleaved=True),
        context=8192,
        family={"is_interleaved": True},
    ),
    "CWM": Published(
        model_type="llama",
        values={
            "max_position_embeddings": 131072,
            "rope_theta": 1000000.0,
            "rope_scaling": {
                "factor": 16.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
        },
        head_dim=128,
        rope=RopeConfig(
            theta=1_000_000.0,
            scaling=Llama3Rope(
                factor=16.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_context=8192,
            ),
        ),
        context=131072,
        family={"default_theta": 1_000_000.0},
    ),
}
