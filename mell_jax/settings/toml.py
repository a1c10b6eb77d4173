"""Settings in a file: TOML with one table for each configuration.

    [server]
    drain_s = 5

Reading refuses what is not a setting and names the nearest one. What is printed can be
read again.
"""

import json
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from mell_jax.settings.names import nearest
from mell_jax.settings.setting import Setting, Value

_WIDTH = 86


def read_file(path: Path, *, settings: Sequence[Setting]) -> dict[str, Value]:
    """Returns the values of a file, by the names of settings.

    Raises:
      ValueError: the file is not TOML, has an unknown key or a value of a wrong type.
      OSError: it cannot be read.
    """
    try:
        return parse(path.read_text("utf-8"), settings=settings)
    except ValueError as error:  # wrong bytes and wrong TOML are ones, too
        raise ValueError(f"{path}: {error}") from error


def parse(text: str, *, settings: Sequence[Setting]) -> dict[str, Value]:
    """Returns the values of a TOML text, by the names of settings.

    Raises:
      ValueError: it is not TOML, has an unknown key or a value of a wrong type.
    """
    tables = {one.table for one in settings}
    given: dict[str, Value] = {}
    for table, content in tomllib.loads(text).items():
        if table not in tables:
            raise ValueError(_unknown_table(table, settings=settings))
        if not isinstance(content, dict):
            raise ValueError(f"{table} must be a table: write [{table}] on a line")
        for key, value in content.items():
            given[key] = _find(key, table=table, settings=settings).check(value)
    return given


def _find(key: str, *, table: str, settings: Sequence[Setting]) -> Setting:
    homes = {one.name: one for one in settings}
    found = homes.get(key)
    if found is not None and found.table == table:
        return found
    if found is not None:
        raise ValueError(
            f"[{table}] has no {key}: it belongs to [{found.table}], move it there"
        )
    near = nearest(key, known=homes)
    advice = "--print_config shows all keys"
    if near:
        home = homes[near.partition("=")[0]]
        place = "" if home.table == table else f" of [{home.table}]"
        advice = f"did you mean {near}{place}?"
    raise ValueError(f"[{table}] has no {key}; {advice}")


def _unknown_table(name: str, *, settings: Sequence[Setting]) -> str:
    """Says what to do about a table, or about a key that stands above all tables."""
    tables = list(dict.fromkeys(one.table for one in settings))
    homes = {one.name: one.table for one in settings}
    if name in homes:
        return f"{name} must stand in its table: write [{homes[name]}] above it"
    near = nearest(name, known=tables)
    advice = f"did you mean [{near}]? " if near else ""
    every = ", ".join(f"[{table}]" for table in tables)
    return f"there is no table {name}; {advice}there are {every}"


def render(values: Mapping[str, Value], *, settings: Sequence[Setting]) -> str:
    """Returns TOML with every setting below its help; those left open are comments.

    Args:
      values: by the names of settings; a setting that is missing is left open.
    """
    lines: list[str] = []
    for table, members in groupby(settings, key=lambda one: one.table):
        lines += [f"[{table}]"]
        for one in members:
            lines += textwrap.wrap(
                one.help, _WIDTH, initial_indent="# ", subsequent_indent="# "
            )
            value = values.get(one.name)
            if value is None:
                lines += [f"# {one.name} is left open.", ""]
            else:
                lines += [f"{one.name} = {render_value(value)}", ""]
    return "\n".join(lines)


def render_value(value: Value) -> str:
    """Returns a value as TOML spells it.

    >>> render_value(("a", "b"))
    '["a", "b"]'
    """
    match value:
        case tuple():
            return f"[{', '.join(map(render_value, value))}]"
        case str():
            # As in JSON, but for the one control character that JSON lets stand.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case bool():
            return str(value).lower()
        case float() if value.is_integer():
            return f"{value:.0f}"  # a whole number is read as a number, too
        case _:
            return str(value)
