"""Settings in a file."""

import math
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mell_jax.settings.toml import parse, read_file, render, render_value
from tests.settings.toy_config import SETTINGS


def test_a_file_gives_values_by_their_names() -> None:
    text = '[pot]\ncups = 5\nwarm_s = 60\nguests = ["ann"]\n[table]\nlegs = 3\n'
    values = {"cups": 5, "warm_s": 60.0, "guests": ("ann",), "legs": 3}
    assert parse(text, settings=SETTINGS) == values
    assert parse("", settings=SETTINGS) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[pot]\ncup = 1", "[pot] has no cup; did you mean cups?"),
        ("[pot]\nleg = 1", "[pot] has no leg; did you mean legs of [table]?"),
        ("[pot]\nlegs = 1", "[pot] has no legs: it belongs to [table], move it there"),
        ("[pot]\nxyzzy = 1", "[pot] has no xyzzy; --print_config shows all keys"),
        (
            "[pots]\ncups = 1",
            "there is no table pots; did you mean [pot]? there",
        ),
        ("xyzzy = 1", "there is no table xyzzy; there are [pot], [table]"),
        ("cups = 1", "cups must stand in its table: write [pot] above it"),
        ("pot = 1", "pot must be a table: write [pot] on a line"),
        ("[pot]\ncups = '1'", "cups must be a whole number, got '1'"),
        ("[pot\n", "Expected ']' at the end of a table declaration (at line 1"),
        ("[pot]\ncups = 1\ncups = 2", "Cannot overwrite a value (at "),
    ],
)
def test_what_is_no_setting_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text, settings=SETTINGS)
    assert str(caught.value).startswith(message)


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "pot.toml"
    path.write_bytes(b"[pot]\ncup = 1")
    with pytest.raises(ValueError, match=r"pot.toml: \[pot\] has no cup; did you"):
        read_file(path, settings=SETTINGS)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"pot.toml: 'utf-8' codec can't decode"):
        read_file(path, settings=SETTINGS)
    with pytest.raises(OSError, match="No such file"):
        read_file(tmp_path / "none.toml", settings=SETTINGS)


def test_all_settings_are_rendered_with_their_help() -> None:
    values = {"cups": 2, "roast": "dark", "sweet": True, "guests": (), "legs": 4}
    assert render(values, settings=SETTINGS) == (
        "[pot]\n"
        "# The pot holds this many cups.\n"
        "cups = 2\n\n"
        "# The pot stays warm for so long.\n"
        "# warm_s is left open.\n\n"
        "# The beans were roasted like this.\n"
        'roast = "dark"\n\n'
        "# Sugar is in it.\n"
        "sweet = true\n\n"
        "# These people drink it.\n"
        "guests = []\n\n"
        "# The cups have these sizes.\n"
        "# sizes is left open.\n\n"
        "[table]\n"
        "# The table has this many legs.\n"
        "legs = 4\n"
    )


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "cups": st.integers(-(2**63), 2**63 - 1),
        "warm_s": st.floats(allow_nan=False),
        "roast": st.sampled_from(["light", "dark"]),
        "sweet": st.booleans(),
        "guests": st.lists(TEXTS).map(tuple),
        "sizes": st.lists(st.integers(0, 99)).map(tuple),
    },
)


@given(VALUES)
def test_what_is_rendered_can_be_read_again(values) -> None:
    assert parse(render(values, settings=SETTINGS), settings=SETTINGS) == values


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (30.0, "30"), (0.5, "0.5"), (math.inf, "inf"), ("é\x7f", None)],
)
def test_a_value_is_spelled_as_toml_does(value, text) -> None:
    if text is not None:
        assert render_value(value) == text
    assert tomllib.loads(f"a = {render_value(value)}") == {"a": value}
