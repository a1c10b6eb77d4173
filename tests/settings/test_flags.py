"""Settings on the command line."""

import pytest
from absl import flags

from mell_jax.launch import SETTINGS as OURS
from mell_jax.settings.flags import define_flags, explain_unknown, given_flags
from mell_jax.settings.names import OTHER_SERVERS, nearest
from tests.settings.toy_config import SETTINGS

RENAMED = {"mugs": "cups", "heat_ms": "warm_s=1.5", "feet": "legs"}


def make_flags() -> flags.FlagValues:
    values = flags.FlagValues()
    basic = [one for one in SETTINGS if one.is_flag]
    define_flags(basic, values=values, titles={"pot": "the pot", "table": "the table"})
    return values


def given(*args: str) -> dict[str, object]:
    values = make_flags()
    assert values(["pot", *args]) == ["pot"]
    return dict(given_flags(values, settings=SETTINGS))


def test_only_what_was_typed_is_given() -> None:
    assert given() == {}
    typed = given("--cups=2", "--sweet", "--guests=ann", "--guests=bob")
    assert typed == {"cups": 2, "sweet": True, "guests": ("ann", "bob")}
    assert given("--nosweet", "--roast=dark") == {"sweet": False, "roast": "dark"}


def test_help_has_the_flags_below_their_title() -> None:
    text = make_flags().get_help()
    assert (
        "the pot:\n  --cups: The pot holds this many cups.\n    (default: '2')" in text
    )
    assert "--roast: <light|dark>: The beans were roasted like this." in text
    assert "legs" not in text


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--cup=1", "unknown flag --cup; did you mean --cups?"),
        ("--xyzzy", "unknown flag --xyzzy; --help lists all flags"),
        (
            "--legs=3",
            "legs is set in a file: --config=FILE with [table] legs = 3",
        ),
        ("--legs", "legs is set in a file: --config=FILE with [table] legs = 4"),
        ("--legs=x", "legs is set in a file: --config=FILE with [table] legs = 4"),
        (
            "--warm_s=x",
            "warm_s is set in a file: --config=FILE with [pot] warm_s = ...",
        ),
        ("--sizes=5", "sizes is set in a file: --config=FILE with [pot] sizes = [5]"),
        ("--feet=3", "feet is set in a file: --config=FILE with [table] legs = 3"),
        (
            "--heat_ms=9",
            "heat_ms is set in a file: --config=FILE with [pot] warm_s = ",
        ),
        (
            "--leg=3",
            "unknown flag --leg; did you mean legs? It is set in a file: "
            "--config=FILE with [table] legs = 4",
        ),
    ],
)
def test_an_unknown_flag_is_answered_with_what_was_meant(flag, message) -> None:
    values = make_flags()
    with pytest.raises(flags.UnrecognizedFlagError) as caught:
        values(["pot", flag])
    told = explain_unknown(
        caught.value, values=values, settings=SETTINGS, renamed=RENAMED
    )
    assert told.startswith(message)


def test_names_of_other_servers_are_known() -> None:
    known = ("max_rows", "mesh", "port")
    assert nearest("max_num_seqs", known=known) == "max_rows"
    assert nearest("max-num-seqs", known=known) == "max_rows"
    assert nearest("tensor_parallel_size", known=known) == "mesh=1xN"
    assert nearest("gpu_memory_utilization", known=known) == ""  # not here
    assert nearest("prot", known=known) == "port"


def test_no_name_of_another_server_is_ours() -> None:
    names = {one.name for one in OURS}
    assert not names & OTHER_SERVERS.keys()
    assert {text.partition("=")[0] for text in OTHER_SERVERS.values()} <= names
