"""A door that forgets what guards does not run: each of these has no default."""

import dataclasses
from typing import Any

import pytest

from mell_jax.engine.params import SamplingParams
from mell_jax.frontend import Ask, Caller, Origin
from mell_jax.serving.asker import Asker
from mell_jax.serving.http import make_app
from mell_jax.serving.security.gate import Gate

ALICE = Caller(tenant="alice", scope="ali", may_send_special_tokens=False)
WHOLE: dict[type, dict[str, Any]] = {
    Caller: {"tenant": "alice", "scope": "ali", "may_send_special_tokens": False},
    Ask: {"caller": ALICE, "prompt": [1], "params": SamplingParams()},
    Asker: {"caller": ALICE, "origin": Origin()},
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind, fields in WHOLE.items() for name in fields],
)
def test_what_guards_has_no_default(kind: type, name: str) -> None:
    fields = WHOLE[kind]
    assert dataclasses.is_dataclass(kind(**fields))
    without = {each: value for each, value in fields.items() if each != name}
    with pytest.raises(TypeError, match=f"argument: '{name}'"):
        kind(**without)


@pytest.mark.parametrize("call", [Gate, make_app], ids=["a gate", "the application"])
def test_no_door_is_open_by_default(call: Any) -> None:
    with pytest.raises(TypeError, match=r"'tokens_file'|'gate'"):
        call()


def test_a_caller_keeps_cached_prompts_and_request_ids_apart() -> None:
    assert (ALICE.salt, ALICE.scoped("r"), ALICE.scoped("")) == (b"alice", "ali/r", "")
    ask = Ask(caller=ALICE, prompt=[1], params=SamplingParams(), request_id="r")
    assert ask.scoped_id == "ali/r"


def test_the_library_may_do_everything_under_its_own_names() -> None:
    ours = Caller.of_library()
    assert (ours.salt, ours.scoped("r")) == (b"", "r")
    assert ours.may_send_special_tokens


def test_an_asker_hands_on_all_that_it_is_given() -> None:
    asked: dict[str, Any] = {
        "prompt": "a",
        "params": SamplingParams(max_tokens=3),
        "model": "letters",
        "request_id": "r",
        "is_text_wanted": False,
        "kept_ids": frozenset((7,)),
        "default_max_tokens": 16,
        "following": 7,
    }
    here = Origin(operation="chat", traceparent="00-1")
    ask = Asker(caller=ALICE, origin=here, model="other").ask(**asked)
    assert ask == Ask(caller=ALICE, origin=here, **asked)
    names = {field.name for field in dataclasses.fields(Ask)}
    assert names == {"caller", "origin", *asked}  # none is left out here
