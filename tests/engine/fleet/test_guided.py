"""Answers with a grammar: its texts, and the same tokens whatever happens."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from mell_jax.engine.admin import (
    OpenRequests,
    Pause,
    Resume,
    Sleep,
    UpdateWeights,
    Wake,
)
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.fleet_view import MoveOutcome
from mell_jax.engine.frames import FinishReason, Handle, Submit
from mell_jax.engine.params import SamplingParams
from mell_jax.grammar import Grammar, GuideMaker
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.transfer import Mode
from tests.engine.fleet.toy_fleet import toy_fleet
from tests.engine.fleet.versioned import ToyWeights
from tests.toy import TOY_END, VOCAB, Transcript, expected, toy_table, toy_text

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "is_good": {"type": "boolean"},
        "sizes": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
    },
    "required": ["name", "is_good", "sizes"],
    "additionalProperties": False,
}
GRAMMARS = {
    "schema": Grammar.from_json_schema(SCHEMA),
    "regex": Grammar.from_regex("[a-c]{3,9}(-[0-9]{2}){2}"),
    "choice": Grammar.from_choice(["a long choice of words", "another", "true"]),
    "thought": Grammar.from_choice(["yes", "no"]).after("ab"),
}
STREAMS = 24
FLEET = FleetConfig()
DEVICES = 3


def is_whole(name: str, text: str) -> bool:
    """Whether a text is one of its grammar's."""
    if name == "schema":
        answer = json.loads(text)
        return list(answer) == ["name", "is_good", "sizes"] and len(answer["sizes"]) < 4
    if name == "thought":
        return re.fullmatch(r".*?ab(yes|no)", text) is not None
    if name == "choice":
        return text in ("a long choice of words", "another", "true")
    return re.fullmatch("[a-c]{3,9}(-[0-9]{2}){2}", text) is not None


def grammar_of(handle: int) -> str | None:
    """Every third stream is free."""
    return None if handle % 3 == 0 else list(GRAMMARS)[handle % len(GRAMMARS)]


def stream(handle: int) -> Submit:
    name = grammar_of(handle)
    rng = np.random.default_rng(handle)
    return Submit(
        handle=Handle(handle),
        prompt=rng.integers(0, VOCAB, 1 + handle * 2).astype(np.int32),
        params=SamplingParams(
            temperature=(0.0, 1.0, 0.7)[handle % 3 if handle % 4 else 0],
            top_p=0.9 if handle % 5 == 0 else 1.0,
            presence_penalty=1.0 if handle % 7 == 0 else 0.0,
            logprobs=2 if handle % 11 == 0 else None,
            logit_bias={5: 2.0, TOY_END: 1.0} if handle % 6 == 1 else {},
            seed=handle,
            max_tokens=60 if name else 30,
            ignore_eos=name is None,
            grammar=GRAMMARS[name] if name else None,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    config: FleetConfig = FLEET
    devices: int = DEVICES
    num_pages: int = 65
    is_used: Callable[[Fleet], bool] = lambda _: True
    between: Callable[[Fleet, int], None] = lambda fleet, step: None


def moved_all(fleet: Fleet) -> bool:
    return fleet.stats().count(MoveOutcome.COMMITTED) > STREAMS


CASES = {
    "pages": Case(
        config=FleetConfig(mode=Mode.KV, fault=Fault(move_every=1)), is_used=moved_all
    ),
    "tokens": Case(
        config=FleetConfig(mode=Mode.TOKENS, fault=Fault(move_every=3)),
        is_used=moved_all,
    ),
    "lost": Case(
        config=FleetConfig(fault=Fault(raise_on=(DeviceGroupId(0), 9))),
        is_used=lambda fleet: fleet.stats().replays > 0,
    ),
    "preempted": Case(
        devices=1,
        num_pages=17,
        is_used=lambda fleet: fleet.stats().preemptions > 0,
    ),
}


def update(fleet: Fleet, then: OpenRequests, *, scale: int = 1) -> None:
    weights = ToyWeights(fleet, factor=1, scale=scale)
    fleet.administer(UpdateWeights(weights=weights, open_requests=then))


def update_now_and_then(fleet: Fleet, step: int) -> None:
    """The weights that are there: those that go on say the same."""
    if step % 3 == 0:
        update(fleet, "restart" if step % 9 == 0 else "keep")


def rest_now_and_then(fleet: Fleet, step: int) -> None:
    commands = {2: Pause(), 5: Resume(), 7: Sleep(), 9: Wake()}
    if command := commands.get(step % 12):
        fleet.administer(command)


MOVING = FleetConfig(fault=Fault(move_every=2))
CASES |= {
    "updates": Case(config=MOVING, between=update_now_and_then),
    "rests": Case(config=MOVING, between=rest_now_and_then),
}


def serve(case: Case) -> Transcript:
    fleet = toy_fleet(
        devices=case.devices,
        num_pages=case.num_pages,
        config=case.config,
        has_grammars=True,
    )
    for handle in range(STREAMS):
        fleet.submit(stream(handle))
    seen, steps = Transcript(), 0
    while len(seen.finished) < STREAMS or fleet.has_work:
        steps += 1
        case.between(fleet, steps)
        seen.read(fleet.step())
        fleet.machine.ledger.check()
    assert fleet.conductor.is_at_rest
    assert case.is_used(fleet), f"it did not do what it is called: {fleet.stats()}"
    fleet.close()
    return seen


@pytest.fixture(scope="module")
def still() -> Transcript:
    return serve(Case(devices=1))


def test_every_answer_is_one_of_its_grammar(still: Transcript) -> None:
    for handle in range(STREAMS):
        name, end = grammar_of(handle), still.finished[handle]
        if name is None:
            assert end.reason is FinishReason.LENGTH
            continue
        text = toy_text(still.tokens[handle])
        assert end.reason in (FinishReason.STOP, FinishReason.LENGTH), end
        if end.reason is FinishReason.STOP:
            assert is_whole(name, text), (name, text)
    reasons = [still.finished[handle].reason for handle in range(STREAMS)]
    assert reasons.count(FinishReason.STOP) > STREAMS // 3


def test_free_rows_give_what_they_give_alone(still: Transcript) -> None:
    checked = 0
    for handle in range(0, STREAMS, 3):
        params = stream(handle).params
        is_plain = not params.logit_bias and not params.has_penalty
        if params.temperature == 0.0 and is_plain:
            prompt = stream(handle).prompt.tolist()
            assert still.tokens[handle] == expected(prompt, count=30)
            checked += 1
    assert checked > 1


@pytest.mark.parametrize("name", CASES)
def test_tokens_are_those_of_a_stream_left_alone(still: Transcript, name: str) -> None:
    seen = serve(CASES[name])
    assert seen.tokens == still.tokens
    assert {h: (e.reason, e.stop_token) for h, e in seen.finished.items()} == {
        h: (e.reason, e.stop_token) for h, e in still.finished.items()
    }


def test_greedy_tokens_are_the_best_that_the_grammar_lets_through() -> None:
    """Token by token, as a search by hand would: forced ones have no step of theirs."""
    maker = GuideMaker(toy_table())
    for name, grammar in GRAMMARS.items():
        prompt = [3, 1, 4]
        fleet = toy_fleet(devices=1, has_grammars=True)
        params = SamplingParams(temperature=0.0, max_tokens=40, grammar=grammar)
        fleet.submit(
            Submit(handle=Handle(0), prompt=np.array(prompt, np.int32), params=params)
        )
        seen = Transcript()
        while fleet.has_work or fleet.machine.waiting:
            seen.read(fleet.step())
        assert seen.tokens[0] == search(maker, grammar, prompt=prompt, most=40), name


def search(
    maker: GuideMaker, grammar: Grammar, *, prompt: list[int], most: int
) -> list[int]:
    guide = maker.make(grammar, stop_ids=(TOY_END,), forces=False)
    total, out = sum(prompt), list[int]()
    guidance = guide.advance([])
    while guidance.mask is not None and len(out) < most:
        bits = np.unpackbits(guidance.mask.view(np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits[:VOCAB]).tolist()
        best = total % VOCAB if total % VOCAB in allowed else allowed[0]
        out.append(best)
        total += best
        if best == TOY_END:
            break
        guidance = guide.advance([best])
    return out


@pytest.mark.parametrize(("guided", "free"), [(1, 0), (2, 0), (8, 0), (5, 3), (1, 7)])
def test_rows_with_grammars_share_steps_and_free_ones_wait_for_none(
    guided: int, free: int
) -> None:
    fleet = toy_fleet(devices=1, has_grammars=True)
    grammar = Grammar.from_regex("[a-z]{200}")
    for handle in range(guided + free):
        has_grammar = handle < guided
        params = SamplingParams(
            temperature=0.0,
            max_tokens=40,
            logprobs=0,
            ignore_eos=True,
            grammar=grammar if has_grammar else None,
        )
        prompt = np.array([handle + 1] * (1 + handle), np.int32)
        fleet.submit(Submit(handle=Handle(handle), prompt=prompt, params=params))
    seen, free_steps = Transcript(), 0
    while fleet.has_work or fleet.machine.waiting:
        seen.read(fleet.step())
        if free and not all(handle in seen.finished for handle in range(guided, 8)):
            free_steps = fleet.load().steps
    steps = fleet.load().steps
    if free:
        assert free_steps <= 40 + 4
        assert steps <= 2 * 40 + 8
    else:
        assert steps <= 40 + 6, "they took turns"


def ends_with(params: SamplingParams) -> tuple[list[int], object]:
    fleet = toy_fleet(devices=1, has_grammars=True)
    fleet.submit(
        Submit(handle=Handle(0), prompt=np.array([1, 2], np.int32), params=params)
    )
    seen = Transcript()
    while fleet.has_work or fleet.machine.waiting:
        seen.read(fleet.step())
    return seen.tokens.get(0, []), seen.finished[0]


def test_a_row_with_nothing_allowed_ends_with_an_error() -> None:
    params = SamplingParams(
        temperature=0.0, grammar=Grammar.from_choice(["x", "y"]), allowed_token_ids=(5,)
    )
    tokens, end = ends_with(params)
    assert tokens == []
    assert end.reason is FinishReason.ERROR
    assert "allows no token" in end.message


def test_a_grammar_that_ends_before_min_tokens_is_an_error() -> None:
    params = SamplingParams(
        temperature=0.0, grammar=Grammar.from_choice(["xyz"]), min_tokens=9
    )
    _, end = ends_with(params)
    assert end.reason is FinishReason.ERROR
    assert "complete after 3 tokens" in end.message


def test_min_tokens_holds_a_grammar_open_that_may_go_on() -> None:
    params = SamplingParams(
        temperature=0.0,
        grammar=Grammar.from_regex("[a-z]+"),
        min_tokens=7,
        logit_bias={TOY_END: 100.0},
    )
    tokens, end = ends_with(params)
    assert (len(tokens), end.reason) == (8, FinishReason.STOP)
    assert tokens[-1] == TOY_END


def test_what_cannot_be_compiled_ends_its_row_alone() -> None:
    bad = SamplingParams(grammar=Grammar(lark="start: /(/"))
    _, end = ends_with(bad)
    assert end.reason is FinishReason.ERROR
    assert end.message.startswith("grammar ")
    assert "cannot be used" in end.message
    assert end.field == "grammar"


def test_answers_are_of_their_grammar_whatever_weights_come() -> None:
    def between(fleet: Fleet, step: int) -> None:
        if step % 4 == 0:
            then: OpenRequests = "restart" if step % 8 == 0 else "keep"
            update(fleet, then, scale=1 + step % 5)

    seen = serve(Case(config=MOVING, between=between))
    for handle in range(STREAMS):
        name = grammar_of(handle)
        if name is not None and seen.finished[handle].reason is FinishReason.STOP:
            assert is_whole(name, toy_text(seen.tokens[handle]))
        assert len(seen.versions[handle]) == len(seen.tokens[handle])
    assert sum(len(set(each)) > 1 for each in seen.versions.values()) > STREAMS / 2
