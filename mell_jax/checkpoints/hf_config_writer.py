"""Writes `config.json` and `generation_config.json` for a `ModelConfig`.

The inverse of `hf_config`: the architecture is the first one that can express all of
the config, which is proved by reading the result back.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.families import FAMILIES
from mell_jax.checkpoints.families.reading import common_values
from mell_jax.checkpoints.generation import GENERATION_FILE
from mell_jax.checkpoints.hf_config import (
    CONFIG_FILE,
    CheckpointSpec,
    parse_spec,
)
from mell_jax.checkpoints.json_file import Fields
from mell_jax.models.config import ModelConfig


def spec_of(
    config: ModelConfig,
    *,
    eos_ids: Sequence[int] = (),
    bos_id: int | None = None,
    dtype_name: str | None = None,
) -> CheckpointSpec:
    """Describes a model as the first architecture that has all of its options.

    Raises:
      CheckpointError: when no architecture of `FAMILIES` has all of its options.
    """
    for architecture, family in FAMILIES.items():
        spec = CheckpointSpec(
            config=config,
            architecture=architecture,
            model_type=family.model_type,
            eos_ids=tuple(eos_ids),
            bos_id=bos_id,
            dtype_name=dtype_name,
        )
        if _reads_back(spec):
            return spec
    raise CheckpointError(
        f"none of {', '.join(FAMILIES)} has this combination of options: {config}"
    )


def spec_in_memory(
    config: ModelConfig, *, eos_ids: Sequence[int] = (), bos_id: int | None = None
) -> CheckpointSpec:
    """Describes a model that need not be written: any options will do.

    One whose options no architecture has is called "Decoder".
    """
    try:
        return spec_of(config, eos_ids=eos_ids, bos_id=bos_id)
    except CheckpointError:  # it can be served, though not saved
        return CheckpointSpec(
            config=config,
            architecture="Decoder",
            model_type="decoder",
            eos_ids=tuple(eos_ids),
            bos_id=bos_id,
        )


def config_values(spec: CheckpointSpec) -> dict[str, Any]:
    """Returns what `config.json` says about `spec`."""
    config, family = spec.config, FAMILIES[spec.architecture]
    values = {
        "architectures": [spec.architecture],
        "model_type": spec.model_type,
        **common_values(config),
        "bos_token_id": spec.bos_id,
        "eos_token_id": list(spec.eos_ids) or None,
        "pad_token_id": None,  # some classes default to one of a larger vocabulary
        "dtype": spec.dtype_name,
        **family.write(config),
    }
    empty = [key for key in family.never_null if values[key] is None]
    return {key: value for key, value in values.items() if key not in empty}


def write_spec(directory: Path, spec: CheckpointSpec) -> None:
    """Writes both files into `directory`."""
    values = config_values(spec)
    generation = {key: values.get(key) for key in ("bos_token_id", "eos_token_id")}
    for name, content in ((CONFIG_FILE, values), (GENERATION_FILE, generation)):
        (directory / name).write_text(json.dumps(content, indent=2) + "\n")


def _reads_back(spec: CheckpointSpec) -> bool:
    try:
        read = parse_spec(
            Fields(config_values(spec), CONFIG_FILE),
            generation=Fields({}, GENERATION_FILE),
        )
    except CheckpointError:
        return False
    whole = spec.config.for_context(spec.context_tokens)  # a file says no other one
    return read == dataclasses.replace(spec, config=whole)
