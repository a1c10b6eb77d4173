"""Reads JSON of untrusted files: bounded, without duplicates, every value checked.

`Fields` is a JSON object that remembers its file, so that each refusal names the file,
the key, the value found and the rule it breaks.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from mell_jax.checkpoints.errors import CheckpointError

JsonObject = dict[str, Any]


def parse_object(text: bytes, *, where: str) -> JsonObject:
    """Returns the JSON object in `text`, strictly: no NaN, no infinity, no key twice.

    Raises:
      CheckpointError: when `text` is anything else; `where` names its origin.
    """
    try:
        value = json.loads(
            text.decode("utf-8"),
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique_keys,
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: expected a JSON object, found {kind(value)}")
    return value


def read_object(path: Path, *, max_bytes: int) -> JsonObject:
    """Returns the JSON object in the file `path`.

    Raises:
      CheckpointError: when the file is absent, larger than `max_bytes` or not JSON.
    """
    try:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
        with path.open("rb") as file:
            text = file.read(max_bytes + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if len(text) > max_bytes:
        raise CheckpointError(f"{path}: larger than the {max_bytes} bytes allowed")
    return parse_object(text, where=str(path))


def shown(name: str) -> str:
    """Returns a name out of a file, fit for a message: short, and escaped where it must
    be.
    """
    return name if name.isprintable() and 0 < len(name) <= 100 else repr(name[:100])


def kind(value: object) -> str:
    """Returns what JSON calls the type of `value`, for messages."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string"}
    return names.get(type(value), "a list" if isinstance(value, list) else "an object")


@dataclass(frozen=True, slots=True)
class Fields:
    """The values of a JSON object are checked as they are taken.

    A key that is absent or null takes the default; without a default it is refused.
    """

    values: JsonObject
    where: str  # file, and key of the section: "model/config.json: rope_scaling"
    asked: set[str] = field(default_factory=set, compare=False)
    """The keys that somebody has asked for."""

    def has(self, key: str) -> bool:
        self.asked.add(key)
        return self.values.get(key) is not None

    def with_defaults(self, defaults: Mapping[str, Any]) -> "Fields":
        """Returns the same with `defaults` for keys that are absent; null stays null.

        What is asked of it counts as asked of these fields.
        """
        return Fields({**defaults, **self.values}, self.where, self.asked)

    def fail(self, key: str, rule: str) -> NoReturn:
        """Refuses the value of `key` because of `rule`."""
        raise CheckpointError(f"{self.where}: {shown(key)} {rule}")

    def integer(self, key: str, *, default: int | None = None) -> int:
        """Returns a whole number; a boolean is none."""
        value = self._get(key, default)
        if type(value) is not int:
            self.fail(key, f"must be an integer, found {_described(value)}")
        return value

    def number(self, key: str, *, default: float | None = None) -> float:
        """Returns a finite number, whole or not."""
        value = self._get(key, default)
        if not _is_finite(value):
            self.fail(key, f"must be a finite number, found {_described(value)}")
        return float(value)

    def flag(self, key: str, *, default: bool | None = None) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            self.fail(key, f"must be true or false, found {_described(value)}")
        return value

    def text(self, key: str, *, default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            self.fail(key, f"must be a string, found {_described(value)}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Returns a list of strings."""
        value = self._get(key, None)
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            self.fail(key, f"must be a list of strings, found {_described(value)}")
        return tuple(value)

    def integers(self, key: str) -> tuple[int, ...]:
        """Returns one whole number or a list of them; () when absent."""
        if not self.has(key):
            return ()
        value = self.values[key]
        listed = value if isinstance(value, list) else [value]
        if not all(type(v) is int for v in listed):
            self.fail(
                key, f"must be an integer or a list of them, found {_described(value)}"
            )
        return tuple(listed)

    def numbers(self, key: str) -> tuple[float, ...]:
        """Returns a list of finite numbers."""
        value = self._get(key, None)
        if not isinstance(value, list) or not all(map(_is_finite, value)):
            self.fail(
                key, f"must be a list of finite numbers, found {_described(value)}"
            )
        return tuple(float(v) for v in value)

    def section(self, key: str) -> "Fields":
        """Returns the object under `key`, as fields of its own; empty when absent."""
        self.asked.add(key)
        value = self.values.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            self.fail(key, f"must be an object, found {_described(value)}")
        return Fields(value, f"{self.where}: {shown(key)}")

    def _get(self, key: str, default: object) -> Any:
        self.asked.add(key)
        value = self.values.get(key)
        if value is not None:
            return value
        if default is None:
            self.fail(key, "is missing")
        return default


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and -1e308 <= value <= 1e308


def _described(value: object) -> str:
    text = str(value) if _is_printable(value) else "a huge integer"
    return f"{kind(value)}, {text[:60]}"


def _is_printable(value: object) -> bool:
    """Whether `value` can be printed: Python refuses integers of many digits."""
    return not isinstance(value, int) or value.bit_length() < 1_000


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _unique_keys(pairs: Iterable[tuple[str, Any]]) -> JsonObject:
    result: JsonObject = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key[:60]!r} occurs twice")
        result[key] = value
    return result
