"""Fields of configurations as settings."""

import pytest

from mell_jax.settings.setting import build, settings_of, values_of
from tests.settings.toy_config import POT, Pot

BY_NAME = {one.name: one for one in POT}


def test_a_setting_is_read_from_its_field() -> None:
    assert list(BY_NAME) == ["cups", "warm_s", "roast", "sweet", "guests", "sizes"]
    sweet, sizes = BY_NAME["sweet"], BY_NAME["sizes"]
    assert (sweet.field, sweet.table, sweet.scalar) == ("is_sweet", "pot", bool)
    assert (sizes.scalar, sizes.is_many, sizes.is_optional) == (int, True, True)
    assert BY_NAME["roast"].choices == ("light", "dark")
    assert [one.name for one in POT if not one.is_flag] == ["warm_s", "sizes"]


def test_defaults_are_those_of_the_instance() -> None:
    found = settings_of(Pot(cups=9), table="pot")
    assert next(one.default for one in found if one.name == "cups") == 9


def test_a_configuration_is_built_of_what_is_given() -> None:
    given = {"cups": 3, "sweet": True, "legs": 3}
    pot = build(Pot(guests=("ann",)), given=given, maker="me")
    assert pot == Pot(cups=3, is_sweet=True, guests=("ann",), maker="me")
    assert values_of(pot, settings=POT) == {
        "cups": 3,
        "warm_s": None,
        "roast": "light",
        "sweet": True,
        "guests": ("ann",),
        "sizes": None,
    }
    with pytest.raises(ValueError, match="cups must be at least 1, got 0"):
        build(Pot(), given={"cups": 0})


@pytest.mark.parametrize(
    ("name", "value", "checked"),
    [
        ("cups", 3, 3),
        ("warm_s", 3, 3.0),
        ("roast", "dark", "dark"),
        ("sweet", True, True),
        ("guests", ["ann", "bob"], ("ann", "bob")),
        ("guests", "ann", ("ann",)),
        ("sizes", [], ()),
    ],
)
def test_a_value_of_the_right_type_is_taken(name, value, checked) -> None:
    found = BY_NAME[name].check(value)
    assert (found, type(found)) == (checked, type(checked))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cups", 3.0, "cups must be a whole number, got 3.0"),
        ("cups", True, "cups must be a whole number, got True"),
        ("cups", "3", "cups must be a whole number, got '3'"),
        ("warm_s", "3", "warm_s must be a number, got '3'"),
        ("warm_s", True, "warm_s must be a number, got True"),
        ("roast", "burnt", "roast must be one of 'light', 'dark', got 'burnt'"),
        ("roast", 1, "roast must be a text, got 1"),
        ("sweet", 1, "sweet must be true or false, got 1"),
        ("guests", [1], "guests must be a list, each item a text, got 1"),
        ("sizes", {"a": 1}, "sizes must be a list, each item a whole number, got"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused(name, value, message) -> None:
    with pytest.raises(ValueError) as caught:
        BY_NAME[name].check(value)
    assert str(caught.value).startswith(message)
