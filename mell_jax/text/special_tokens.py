"""Reads which tokens begin and end a text from the files beside a tokenizer.

Data only: `tokenizer_config.json`, then `special_tokens_map.json`; names of classes and
code in them are ignored.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from mell_jax.model_files.folder import File, Folder
from mell_jax.model_files.gguf_file import GgufError

_FILES = ("tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """The tokens are kept by their contents, not ids; None where no file says.

    Attributes:
        by_name: all that the files name, as in "bos_token".
    """

    by_name: Mapping[str, str] = field(default_factory=dict)
    bos: str | None = None
    eos: str | None = None
    add_bos: bool | None = None
    add_eos: bool | None = None


def read_json_object(path: File) -> dict[str, object]:
    """Returns the object in a JSON file.

    Raises:
        ValueError: the file is not JSON or not an object; names the file.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except GgufError:
        raise
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply to be read") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def read_special_tokens(directory: Folder) -> SpecialTokens:
    """Returns what the files in `directory` say; the first that names a token wins.

    Raises:
        ValueError: a file is there but is not a JSON object.
    """
    paths = [directory / name for name in _FILES]
    settings = [read_json_object(path) for path in paths if path.is_file()]
    names = {name for each in settings for name in each if name.endswith("_token")}
    found = {name: _first_content(settings, key=name) for name in sorted(names)}
    return SpecialTokens(
        by_name={name: token for name, token in found.items() if token is not None},
        bos=found.get("bos_token"),
        eos=found.get("eos_token"),
        add_bos=_first_bool(settings, key="add_bos_token"),
        add_eos=_first_bool(settings, key="add_eos_token"),
    )


def read_added_tokens(directory: Folder) -> dict[str, int]:
    """Returns the tokens that were added to a tokenizer's own ones, and their ids.

    `added_tokens.json` has {"<|im_end|>": 321}, `tokenizer_config.json` has
    {"added_tokens_decoder": {"321": {"content": "<|im_end|>"}}}.

    Raises:
        ValueError: a file is there but is not as it should be; names the file.
    """
    found: dict[str, int] = {}
    path = directory / "tokenizer_config.json"
    decoder = (read_json_object(path) if path.is_file() else {}).get(
        "added_tokens_decoder"
    )
    if isinstance(decoder, dict):
        for number, token in decoder.items():
            content = token.get("content") if isinstance(token, dict) else token
            if not (isinstance(content, str) and number.isdecimal()):
                raise ValueError(
                    f"{path}: added_tokens_decoder must map ids to tokens, found "
                    f"{number[:60]!r}"
                )
            found[content] = int(number)
    path = directory / "added_tokens.json"
    for content, number in (read_json_object(path) if path.is_file() else {}).items():
        if not isinstance(number, int):
            raise ValueError(
                f"{path} must map tokens to ids, found {content[:60]!r}: {number!r:.60}"
            )
        found[content] = number
    return found


def missing_token(key: str, token: str, *, directory: Folder, where: str) -> ValueError:
    """Returns the error for a special token that a file names and no file has."""
    return ValueError(
        f"{directory}: {key} is {token[:60]!r}, which is no token of {where}; correct "
        f"{' or '.join(_FILES)}, or add the token to {where}"
    )


def _first_content(settings: list[dict[str, object]], *, key: str) -> str | None:
    for setting in settings:
        token = setting.get(key)  # "</s>" or {"content": "</s>", "lstrip": false, ...}
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str):
            return content
    return None


def _first_bool(settings: list[dict[str, object]], *, key: str) -> bool | None:
    for setting in settings:
        value = setting.get(key)
        if isinstance(value, bool):
            return value
    return None
