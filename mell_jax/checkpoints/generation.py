"""Reads how a model's tokens are to be chosen where a request does not say.

`generation_config.json` tells it. Only what stands there counts: what transformers
takes where the file is silent (`top_k` 50, no sampling at all) is not read into it,
as in other servers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.json_file import MAX_CONFIG_BYTES, Fields, read_object

GENERATION_FILE = "generation_config.json"
WAY_OUT = (
    "correct it, or leave the file's sampling defaults out: "
    'generation_config="none" in the library, [engine] generation_config = "none" in '
    "the file of mell-serve"
)
_NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty")
_NEUTRAL: Mapping[str, tuple[object, ...]] = {  # values that change nothing
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0,),
    "guidance_scale": (1,),
    "typical_p": (1,),
    "top_h": (),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "encoder_repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "diversity_penalty": (0,),
    "exponential_decay_length_penalty": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "max_new_tokens": (),
    "stop_strings": ([],),
    "bad_words_ids": ([],),
    "sequence_bias": ({}, []),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDefaults:
    """A model directory proposes these parameters; None proposes none.

    Attributes:
      passed_over: keys that say more about the choice of tokens, and that are not
        taken: requests cannot say it either, or only they should (`max_new_tokens`).
    """

    temperature: float | None = None  # 0.0: the likeliest token
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    passed_over: tuple[str, ...] = ()

    def proposed(self) -> dict[str, Any]:
        """Returns the parameters that the directory names, by name."""
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}


NO_SAMPLING = SamplingDefaults()


def read_sampling(directory: Path) -> SamplingDefaults:
    """Returns what the directory's `generation_config.json` proposes, if it is there.

    `do_sample: false` is a temperature of 0, whatever temperature stands beside it.
    Values get their type here and are not checked further.

    Raises:
      CheckpointError: the file is not as it should be; names file, key and way out.
    """
    path = directory / GENERATION_FILE
    if not path.exists():
        return NO_SAMPLING
    fields = Fields(read_object(path, max_bytes=MAX_CONFIG_BYTES), str(path))
    try:
        return _parse(fields)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {WAY_OUT}") from error


def _parse(fields: Fields) -> SamplingDefaults:
    numbers = {name: fields.number(name) for name in _NUMBERS if fields.has(name)}
    if not fields.flag("do_sample", default=True):
        numbers["temperature"] = 0.0
    return SamplingDefaults(
        **numbers,
        top_k=fields.integer("top_k") if fields.has("top_k") else None,
        passed_over=tuple(
            name
            for name, neutral in _NEUTRAL.items()
            if fields.has(name) and fields.values[name] not in neutral
        ),
    )
