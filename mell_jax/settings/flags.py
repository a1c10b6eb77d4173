"""Settings on the command line: absl flags, made of the ones that are typed often."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from mell_jax.settings.names import nearest
from mell_jax.settings.setting import Setting, Value
from mell_jax.settings.toml import render_value


def define_flags(
    settings: Sequence[Setting], *, values: flags.FlagValues, titles: Mapping[str, str]
) -> None:
    """Defines a flag for each of `settings`.

    Args:
      values: the registry that gets them.
      titles: for each table, what `--help` writes above its flags.
    """
    for one in settings:
        group: dict[str, Any] = {
            "flag_values": values,
            "module_name": titles[one.table],
        }
        default: Any = one.default
        if one.choices:
            flags.DEFINE_enum(one.name, default, one.choices, one.help, **group)
        elif one.scalar is bool:
            flags.DEFINE_bool(one.name, default, one.help, **group)
        else:
            _DEFINE[one.scalar, one.is_many](one.name, default, one.help, **group)


_DEFINE: dict[tuple[type, bool], Callable[..., object]] = {
    (str, False): flags.DEFINE_string,
    (str, True): flags.DEFINE_multi_string,
    (int, False): flags.DEFINE_integer,
    (int, True): flags.DEFINE_multi_integer,
    (float, False): flags.DEFINE_float,
    (float, True): flags.DEFINE_multi_float,
}


def given_flags(
    values: flags.FlagValues, *, settings: Sequence[Setting]
) -> dict[str, Value]:
    """Returns the values that stand on the command line, by the names of settings."""
    return {
        one.name: one.check(values[one.name].value)
        for one in settings
        if one.name in values and values[one.name].present
    }


def explain_unknown(
    error: flags.UnrecognizedFlagError,
    *,
    values: flags.FlagValues,
    settings: Sequence[Setting],
    renamed: Mapping[str, str],
) -> str:
    """Says how to set what an unknown flag was meant to set.

    Args:
      values: the flags that there are.
      settings: all settings, also those that only a file may have.
      renamed: settings by their former names, perhaps with "=" and an example that is
        shown in place of what was typed.
    """
    name = error.flagname
    text = str(error.flagvalue).partition("=")[2]
    homes = {one.name: one for one in settings}
    for former, is_no in ((name, False), (name.removeprefix("no"), True)):
        key, _, example = renamed.get(former, former).partition("=")
        one = homes.get(key)
        if one is not None and key not in values:
            shown = "false" if is_no and one.scalar is bool else example or text
            return f"{former} is set in a file: {_in_file(one, text=shown)}"
    near = nearest(name, known=[*homes, *values])
    key, _, text = near.partition("=")
    if not near:
        return f"unknown flag --{name}; --help lists all flags"
    if key in values:
        return f"unknown flag --{name}; did you mean --{near}?"
    return (
        f"unknown flag --{name}; did you mean {key}? It is set in a file: "
        f"{_in_file(homes[key], text=text)}"
    )


def _in_file(one: Setting, *, text: str) -> str:
    """Returns how a file would say what stood on a command line.

    Where that is no value of the setting, the default is the example.
    """
    value = _read(one, text=text) if text else None
    shown = one.default if value is None else value
    return f"--config=FILE with [{one.table}] {one.name} = " + (
        "..." if shown is None else render_value(shown)
    )


def _read(one: Setting, *, text: str) -> Value:
    try:
        if one.scalar is bool:
            return {"true": True, "false": False}.get(text.lower())
        return one.check(one.scalar(text))
    except ValueError:
        return None
