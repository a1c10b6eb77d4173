"""Finds the text of a model's chat template; nothing of it runs here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mell_jax.model_files.folder import File, open_folder
from mell_jax.text.special_tokens import (
    SpecialTokens,
    read_json_object,
    read_special_tokens,
)

MAX_SOURCE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateSource:
    """A template and where it stands."""

    text: str
    path: File
    special: Mapping[str, str] = field(default_factory=dict)
    """Tokens by what the template calls them, such as `bos_token`."""

    def __post_init__(self) -> None:
        if not (len(self.text.encode("utf-8")) <= MAX_SOURCE_BYTES):
            raise ValueError(
                f"{self.path}: a chat template may have {MAX_SOURCE_BYTES} bytes, this "
                "one has more"
            )


def find_template(
    model: Path, *, override: Path | None = None
) -> TemplateSource | None:
    """Returns the template of a model, None if it has none.

    Args:
        model: a directory or a GGUF file; `chat_template.jinja`, else what
            `tokenizer_config.json` has.
        override: the operator's own file.

    Raises:
        ValueError: a template is there but cannot be used; names the file.
        OSError: `override` cannot be read.
    """
    directory = open_folder(model)
    special = read_special_tokens(directory)
    path: File = override or directory / "chat_template.jinja"
    if override is not None or path.is_file():
        return read_template(path, special=special)
    path = directory / "tokenizer_config.json"
    text = _text_of(read_json_object(path)) if path.is_file() else None
    return None if text is None else _source(text, path=path, special=special)


def read_template(path: File, *, special: SpecialTokens) -> TemplateSource:
    """Reads a file.

    Raises:
        ValueError: it is too long, or not UTF-8; names the file.
        OSError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a chat template is UTF-8; {error}") from error
    return _source(text, path=path, special=special)


def _source(text: str, *, path: File, special: SpecialTokens) -> TemplateSource:
    return TemplateSource(text=text, path=path, special=special.by_name)


def _text_of(config: Mapping[str, object]) -> str | None:
    """`"chat_template": "..."` or `[{"name": "default", "template": "..."}, ...]`."""
    value = config.get("chat_template")
    if isinstance(value, list):
        named = {
            entry.get("name"): entry.get("template")
            for entry in value
            if isinstance(entry, dict)
        }
        value = named.get("default")
    return value if isinstance(value, str) else None
