"""Reads Hugging Face's `config.json` and `generation_config.json` as frozen values.

Each architecture is a file of `families`. Whatever would change the arithmetic and is
not supported is refused.
"""

from dataclasses import dataclass
from pathlib import Path

from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.families import ARCHITECTURES
from mell_jax.checkpoints.families.family import Family
from mell_jax.checkpoints.json_file import Fields, read_object
from mell_jax.checkpoints.known_keys import check_known
from mell_jax.models.config import ModelConfig

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
MAX_CONFIG_BYTES = 1 << 20
TEXT_SECTION = "text_config"
SHARED_KEYS = (
    *("tie_word_embeddings", "bos_token_id", "eos_token_id", "dtype", "torch_dtype"),
)
"""What may stand beside `text_config` and holds for it as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSpec:
    """A spec is what a model directory says about its model, besides the weights."""

    config: ModelConfig
    architecture: str  # "LlamaForCausalLM"
    model_type: str  # "llama"
    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    dtype_name: str | None = None
    """The precision of the weights as the directory names it, such as "bfloat16"."""

    def __post_init__(self) -> None:
        bos = () if self.bos_id is None else (self.bos_id,)
        for token in (*self.eos_ids, *bos):
            if not (0 <= token < self.config.vocab_size):
                raise ValueError(
                    f"special token {token} is outside the vocabulary of "
                    f"{self.config.vocab_size}"
                )

    @property
    def context_tokens(self) -> int:
        """Returns the longest context that the model can be served with, in tokens."""
        return self.config.max_position_embeddings


def read_spec(directory: Path) -> CheckpointSpec:
    """Returns the `CheckpointSpec` of a model directory.

    Raises:
      CheckpointError: naming the file, the key and what is supported.
    """
    path = directory / CONFIG_FILE
    fields = Fields(read_object(path, max_bytes=MAX_CONFIG_BYTES), str(path))
    generation_path = directory / GENERATION_FILE
    generation = Fields({}, str(generation_path))
    if generation_path.exists():
        values = read_object(generation_path, max_bytes=MAX_CONFIG_BYTES)
        generation = Fields(values, str(generation_path))
    return parse_spec(fields, generation=generation)


def read_eos_ids(directory: Path) -> tuple[int, ...]:
    """Returns the tokens that end a text, by the two files.

    Files that are not there say nothing.

    Raises:
      CheckpointError: a file is not as it should be.
    """
    found = []
    for name in (GENERATION_FILE, CONFIG_FILE):
        path = directory / name
        if path.exists():
            values = read_object(path, max_bytes=MAX_CONFIG_BYTES)
            found.append(Fields(values, str(path)))
    return _union(*found)


def _union(*files: Fields) -> tuple[int, ...]:
    """The tokens that any of the files takes for the end of a text."""
    found = dict.fromkeys(
        token
        for fields in files
        if fields.has("eos_token_id")
        for token in fields.integers("eos_token_id")
    )
    return tuple(found)


def parse_spec(fields: Fields, *, generation: Fields) -> CheckpointSpec:
    """Returns the `CheckpointSpec` that a `config.json` and a `generation_config.json`
    describe.
    """
    family = _family(fields)
    if fields.has("quantization_config"):
        fields.fail(
            "quantization_config",
            "is not supported; use the float32, float16 or bfloat16 weights",
        )
    decoder = text_fields(fields)
    start = generation if generation.has("bos_token_id") else decoder
    dtype_key = "dtype" if decoder.has("dtype") else "torch_dtype"
    try:
        config = family.parse(decoder)
        check_known(decoder, architecture=family.architecture)
        return CheckpointSpec(
            config=config,
            architecture=family.architecture,
            model_type=family.model_type,
            eos_ids=_union(generation, decoder),
            bos_id=start.integer("bos_token_id") if start.has("bos_token_id") else None,
            dtype_name=decoder.text(dtype_key) if decoder.has(dtype_key) else None,
        )
    except CheckpointError:
        raise
    except ValueError as error:  # a range that ModelConfig checks
        raise CheckpointError(f"{fields.where}: {error}") from error


def text_fields(fields: Fields) -> Fields:
    """Returns the part of a `config.json` that describes the decoder.

    Models that see or hear have it under `text_config`; what is missing there holds
    for the whole model.
    """
    if not fields.has(TEXT_SECTION):
        return fields
    inner = fields.section(TEXT_SECTION)
    outer = {key: fields.values[key] for key in SHARED_KEYS if fields.has(key)}
    known = {
        key: value
        for key, value in inner.values.items()
        if value is not None or key not in outer
    }
    return Fields({**outer, **known}, inner.where)


def _family(fields: Fields) -> Family:
    architectures = fields.texts("architectures")
    if len(architectures) != 1 or architectures[0] not in ARCHITECTURES:
        fields.fail(
            "architectures",
            f"must name one of {', '.join(ARCHITECTURES)}; found {list(architectures)}",
        )
    family = ARCHITECTURES[architectures[0]]
    is_whole = not fields.has(TEXT_SECTION)
    model_type = fields.text("model_type", default=family.model_type)
    if is_whole and model_type not in (family.model_type, *family.model_types):
        fields.fail(
            "model_type",
            f"is {model_type[:60]!r}, but architectures names {architectures[0]}, "
            f"whose model_type is {family.model_type}: correct the one that is wrong",
        )
    return family
