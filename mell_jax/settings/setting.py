"""A setting has name, help, default and type, read from a field of a configuration.

A type is bool, int, float, str, a Literal of strings, a tuple of these, or one of them
or None; None means that the setting is left open.
"""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Value = bool | int | float | str | tuple[int, ...] | tuple[str, ...] | None
ConfigT = TypeVar("ConfigT")

_KEY = "mell_jax.setting"
_NOUNS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """A field carries this part of its setting."""

    help: str
    is_flag: bool
    name: str | None


def setting(
    default: Any, *, help: str, is_flag: bool = False, name: str | None = None
) -> Any:
    """Declares a field of a frozen dataclass that an operator may set.

    Args:
      default: the value of those who set nothing.
      help: sentences for `--help` and `--print_config`.
      is_flag: True for what is typed often; other settings stand in a file only.
      name: what operators call it; by default the name of the field.
    """
    told = _Told(help=help, is_flag=is_flag, name=name)
    return dataclasses.field(default=default, metadata={_KEY: told})


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting belongs to one table of the file.

    Attributes:
      table: the table of the file, such as "engine".
      name: the key in that table, and the flag.
      field: the field of the configuration.
      default: the value in force when nobody sets another one.
      scalar: bool, int, float or str: the type of the value or of its items.
      is_many: True for a list of values.
      is_optional: True when the setting may be left open.
      choices: the texts that are allowed; empty for all.
    """

    table: str
    name: str
    field: str
    help: str
    default: Value
    is_flag: bool
    scalar: type
    is_many: bool
    is_optional: bool
    choices: tuple[str, ...]

    def check(self, value: object) -> Value:
        """Returns the value as the configuration wants it.

        Raises:
          ValueError: it has another type, or is none of the choices.
        """
        if not self.is_many:
            return self._check_one(value)
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(self._check_one(item) for item in items)  # type: ignore[return-value]

    def _check_one(self, value: object) -> bool | int | float | str:
        wanted = (int, float) if self.scalar is float else (self.scalar,)
        if not isinstance(value, wanted) or (
            isinstance(value, bool) and self.scalar is not bool
        ):
            noun = "a list, each item " if self.is_many else ""
            raise ValueError(
                f"{self.name} must be {noun}{_NOUNS[self.scalar]}, got {value!r}"
            )
        if self.choices and value not in self.choices:
            known = ", ".join(map(repr, self.choices))
            raise ValueError(f"{self.name} must be one of {known}, got {value!r}")
        one: bool | int | float | str = self.scalar(value)
        return one


def settings_of(config: object, *, table: str) -> tuple[Setting, ...]:
    """Returns the settings of a configuration, in the order of its fields.

    Args:
      config: a dataclass instance; its values are the defaults.
      table: the table of the file that holds them.
    """
    assert dataclasses.is_dataclass(config), f"{config!r} is no configuration"
    hints = get_type_hints(type(config))
    found = []
    for field in dataclasses.fields(config):
        told = field.metadata.get(_KEY)
        if told is not None:
            scalar, is_many, is_optional, choices = _take_apart(hints[field.name])
            found.append(
                Setting(
                    table=table,
                    name=told.name or field.name,
                    field=field.name,
                    help=told.help,
                    default=getattr(config, field.name),
                    is_flag=told.is_flag,
                    scalar=scalar,
                    is_many=is_many,
                    is_optional=is_optional,
                    choices=choices,
                )
            )
    return tuple(found)


def build(config: ConfigT, *, given: Mapping[str, Value], **others: object) -> ConfigT:
    """Returns `config` with the settings that are given, and other fields.

    Args:
      config: a dataclass instance; its values hold where nothing is given.
      given: values by the names of settings; those of other configurations are skipped.
      others: values by the names of fields; they win.

    Raises:
      ValueError: the configuration refuses a value.
    """
    fields: dict[str, Any] = {
        one.field: given[one.name]
        for one in settings_of(config, table="")
        if one.name in given
    }
    changed: ConfigT = dataclasses.replace(config, **(fields | others))  # type: ignore[type-var]
    return changed


def values_of(config: object, *, settings: Sequence[Setting]) -> dict[str, Value]:
    """Returns the values that a configuration has for its settings, by their names."""
    return {one.name: getattr(config, one.field) for one in settings}


def _take_apart(hint: Any) -> tuple[type, bool, bool, tuple[str, ...]]:
    """Returns scalar type, is_many, is_optional and choices of an annotation."""
    if get_origin(hint) in (Union, types.UnionType):
        (inner,) = (part for part in get_args(hint) if part is not types.NoneType)
        scalar, is_many, _, choices = _take_apart(inner)
        return scalar, is_many, True, choices
    if get_origin(hint) is tuple:
        scalar, _, _, choices = _take_apart(get_args(hint)[0])
        return scalar, True, False, choices
    if get_origin(hint) is Literal:
        return str, False, False, get_args(hint)
    assert hint in _NOUNS, f"a setting cannot be {hint}"
    return hint, False, False, ()
