"""The choices of an operator about one engine; `settled.py` makes those left open."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mell_jax.engine.params import LOGPROBS_MODES, LogprobsMode
from mell_jax.model_files.gguf_path import SUFFIX, model_name
from mell_jax.settings.setting import setting

DEMO = "demo"
DType = Literal["auto", "float32", "bfloat16"]
GenerationConfig = Literal["model", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """One engine is described; None and "auto" are settled once the model is known.

    Attributes:
      model: a directory or a GGUF file, or "demo" for the model that ships with the
        package.
      served_model_name: the name that clients use; None for that of the directory.
      instances: copies of the model, each on devices of its own.
      tensor_parallel: devices of each instance.
      device_ids: indices into `jax.devices()`, `tensor_parallel` of them for each
        instance in turn; instances may share devices.

    Raises:
      ValueError: a value is out of range, naming the setting and the rule.
    """

    model: str = DEMO
    served_model_name: str | None = None
    checkpoint_step: int | None = setting(
        None,
        help="This step of an Orbax checkpoint is served; by default the newest.",
    )
    dtype: DType = setting(
        "auto",
        is_flag=True,
        help="Weights and cached keys and values have this type; auto chooses float32 "
        "on a CPU and bfloat16 elsewhere.",
    )
    max_model_len: int | None = setting(
        None,
        is_flag=True,
        help="Prompt and output together have at most this many tokens; by default as "
        "many as the model and the memory allow.",
    )
    max_rows: int | None = setting(
        None,
        is_flag=True,
        help="At most this many sequences run at once; by default 64 on a CPU and 256 "
        "elsewhere.",
    )
    token_budget: int | None = setting(
        None,
        is_flag=True,
        help="A step computes at most this many tokens; by default 512 on a CPU and "
        "2048 elsewhere.",
    )
    decode_rows: tuple[int, ...] = setting(
        (),
        help="A decode step is compiled for each of these batch sizes; an empty list "
        "leaves the choice to the engine.",
    )
    kv_pages: int | None = setting(
        None,
        is_flag=True,
        help="The KV pool of an instance has this many pages of 16 tokens; by default "
        "as many as the memory holds.",
    )
    kv_memory_fraction: float = setting(
        0.9,
        is_flag=True,
        help="KV pages take this part of the memory that is free once the weights are "
        "loaded.",
    )
    prefix_cache: bool = setting(
        True, is_flag=True, help="Prompts that begin alike share their KV pages."
    )
    instances: int = 1
    tensor_parallel: int = 1
    device_ids: tuple[int, ...] | None = setting(
        None,
        is_flag=True,
        help="The engine uses the devices with these numbers, counted from 0; by "
        "default it uses the first ones.",
    )
    attention_backend: str = setting(
        "auto",
        is_flag=True,
        help="This body computes paged attention: triton or mosaic_gpu on a GPU, "
        "mosaic_tpu on a TPU, xla anywhere; auto chooses for the device.",
    )
    compilation_cache_dir: str = setting(
        "",
        is_flag=True,
        help="This folder keeps compiled steps for the next start; it must be yours "
        "alone. An empty text keeps none.",
    )
    generation_config: GenerationConfig = setting(
        "model",
        help="Requests that leave temperature, top_p, top_k, min_p or "
        "repetition_penalty out get those of the model's generation_config.json; none "
        "leaves them at what changes nothing. Its end tokens count either way.",
    )
    deterministic: bool = setting(
        False,
        help="A sequence's numbers, to the last bit, do not depend on what runs beside "
        "it, on moves or on cached pages; all steps have one size, token_budget (by "
        "default max_rows), which costs speed. It is for a CPU so far.",
    )
    logprobs_mode: LogprobsMode = setting(
        "raw",
        help="Requests that do not say get log probabilities of the model's own logits "
        "(raw) or of the distribution that tokens were drawn from (processed).",
    )
    is_cache_optional: bool = False
    """Goes on without the folder of compiled steps where it cannot be used."""
    seed: int = setting(
        0, help="Requests that bring no seed get theirs from this number."
    )

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
        if self.checkpoint_step is not None and not (self.checkpoint_step >= 0):
            raise ValueError(
                f"checkpoint_step must be at least 0, got {self.checkpoint_step}"
            )
        if not (0.0 < self.kv_memory_fraction <= 1.0):
            raise ValueError(
                f"kv_memory_fraction must be in (0, 1], got {self.kv_memory_fraction}"
            )
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise ValueError(
                f"dtype must be auto, float32 or bfloat16, got {self.dtype!r}"
            )
        if self.generation_config not in ("model", "none"):
            raise ValueError(
                f"generation_config must be model or none, got "
                f"{self.generation_config!r}"
            )
        if self.logprobs_mode not in LOGPROBS_MODES:
            raise ValueError(
                f"logprobs_mode must be raw or processed, got {self.logprobs_mode!r}"
            )
        if any(rows < 1 for rows in self.decode_rows):
            raise ValueError(f"decode_rows must be positive, got {self.decode_rows}")
        _check_device_ids(self)
        _check_deterministic(self)

    @property
    def name(self) -> str:
        """Returns the name by which clients call the model."""
        if self.served_model_name or self.model == DEMO:
            return self.served_model_name or DEMO
        path = Path(self.model)
        return model_name(path) if path.suffix == SUFFIX else path.resolve().name


def _check_deterministic(config: EngineConfig) -> None:
    if config.deterministic and config.decode_rows:
        raise ValueError(
            "decode_rows must be empty with deterministic, where all steps have "
            f"the one size token_budget, got {config.decode_rows}"
        )
    if config.deterministic and config.attention_backend not in ("auto", "invariant"):
        raise ValueError(
            "attention_backend must be auto with deterministic: the others sum in "
            f"an order that depends on the batch, got {config.attention_backend!r}"
        )


def _check_device_ids(config: EngineConfig) -> None:
    if config.device_ids is None:
        return
    wanted = config.instances * config.tensor_parallel
    if len(config.device_ids) != wanted or not (min(config.device_ids) >= 0):
        raise ValueError(
            f"device_ids must name {wanted} devices by their numbers from 0, "
            f"{config.tensor_parallel} for each of {config.instances} instances, got "
            f"{config.device_ids}"
        )


def parse_mesh(text: str) -> tuple[int, int]:
    """Returns instances, and devices of each: (4, 2) for "4x2".

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsConfig:
    """Models are served on a mesh of devices, which they share.

    Raises:
      ValueError: a value is out of range, or two say the same.
    """

    model: tuple[str, ...] = setting(
        (DEMO,),
        is_flag=True,
        help="A model directory or GGUF file, or demo for the model that comes along, "
        "is served; several NAME=DIRECTORY share the devices.",
    )
    served_model_name: str | None = setting(
        None,
        is_flag=True,
        help="Clients call the one model by this name; by default it is the name of "
        "its directory or file.",
    )
    mesh: str | None = setting(
        None,
        is_flag=True,
        help="4x2 makes four instances of two devices each, with tensor parallelism; "
        "by default it is 1x1.",
    )
    devices: int | None = setting(
        None,
        is_flag=True,
        help="This many instances have one device each; it is short for --mesh=Nx1.",
    )
    cpu_devices: int | None = setting(
        None,
        is_flag=True,
        help="The CPU of a machine without accelerators is shown as this many devices.",
    )

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError(f"model must name a directory or {DEMO}, got none")
        if self.served_model_name is not None and len(self.model) > 1:
            raise ValueError(
                "served_model_name is for one model; name several by "
                "--model=name=directory"
            )
        if self.mesh is not None and self.devices is not None:
            raise ValueError(
                "give devices or mesh, not both: --devices=N is --mesh=Nx1"
            )
        if self.cpu_devices is not None and not (self.cpu_devices >= 1):
            raise ValueError(f"cpu_devices must be at least 1, got {self.cpu_devices}")

    def models(self) -> list[tuple[str | None, str]]:
        """Returns name, None for that of the directory, and directory of each model."""
        named = [split_model(text) for text in self.model]
        if self.served_model_name is None:
            return named
        return [(self.served_model_name, directory) for _, directory in named]

    def shape(self) -> tuple[int, int]:
        """Returns instances, and devices of each.

        Raises:
          ValueError: the mesh says something else.
        """
        if self.devices is not None:
            return self.devices, 1
        return parse_mesh("1x1" if self.mesh is None else self.mesh)


def split_model(text: str) -> tuple[str | None, str]:
    """Returns name and directory of "name=directory"; no name for a directory alone."""
    name, is_named, directory = text.partition("=")
    return (name, directory) if is_named else (None, text)
