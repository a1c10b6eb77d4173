"""Grammars and tools that nobody means well with, beside ten good streams."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.serving import grammar_attacks
from tests.serving.siege import Siege

GOOD_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9},
        "sizes": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
    },
    "required": ["name", "sizes"],
    "additionalProperties": False,
}
ALL = grammar_attacks.bodies()
CHATS = "/v1/chat/completions"
ROWS = [
    name
    if name in grammar_attacks.QUICK
    else pytest.param(name, marks=pytest.mark.slow)
    for name in ALL
]
MAX_GAP_S = 10.0
"""Between tokens of a good stream, on two cores that have other work, too."""


@pytest.fixture(scope="module")
def siege(compiled_dir: Path) -> Iterator[Siege]:
    running = Siege(compiled_dir, flags=("--tool_format=hermes",))
    yield running
    running.close()


@dataclass(slots=True)
class Stream:
    """A chat, asked again and again, of which each answer must be the same."""

    siege: Siege
    body: dict[str, Any]
    gaps_s: list[float] = field(default_factory=list)

    def ask(self) -> str:
        """The text of the answer; notes how long the longest wait was."""
        text, last_s = "", time.perf_counter()
        body = {**self.body, "stream": True}
        with self.siege.http.stream("POST", CHATS, json=body) as answer:
            assert answer.status_code == 200, answer.read()
            for line in answer.iter_lines():
                now_s = time.perf_counter()
                self.gaps_s.append(now_s - last_s)
                last_s = now_s
                data = line.removeprefix("data: ")
                if data and data != "[DONE]":
                    for choice in json.loads(data)["choices"]:
                        text += choice["delta"].get("content") or ""
        return text

    def go_on(self, is_over: threading.Event, *, alone: str) -> int:
        count = 0
        while not is_over.is_set() or count < 2:
            assert self.ask() == alone
            count += 1
        return count


@contextlib.contextmanager
def good_chats(siege: Siege) -> Iterator[None]:
    """Two more good streams, one of them of a schema; neither waits for long."""
    free = {**grammar_attacks.CHAT, "max_tokens": 40, "temperature": 0.0}
    shaped = {
        **grammar_attacks.shaped(GOOD_SCHEMA),
        **{"max_tokens": 60, "temperature": 0.0},
    }
    streams = [Stream(siege, free), Stream(siege, shaped)]
    alone = [stream.ask() for stream in streams]
    is_over = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        going = [
            pool.submit(stream.go_on, is_over, alone=text)
            for stream, text in zip(streams, alone, strict=True)
        ]
        try:
            yield
        finally:
            is_over.set()
        assert all(each.result(timeout=60) >= 2 for each in going)
    for stream in streams:
        assert max(stream.gaps_s) < MAX_GAP_S


@pytest.fixture(scope="class", autouse=True)
def good_streams_go_on(siege: Siege) -> Iterator[None]:
    with siege.good_streams(), good_chats(siege):
        yield


def check_clean(answer: httpx2.Response) -> None:
    """It is an answer, or an error that names a rule; nothing of it is ours."""
    assert answer.status_code in {200, 400, 413}, answer.text[:300]
    if answer.status_code == 200:
        (choice,) = answer.json()["choices"]
        assert choice["finish_reason"] in {"stop", "length", "tool_calls"}
        return
    error = answer.json()["error"]
    assert error["message"]
    assert len(error["message"]) < 2000
    for word in ("Traceback", "panic", "llguidance", "unwrap"):
        assert word not in answer.text


BLAMED = {
    "lark tokens": "structured_outputs",  # known by the engine alone
    "regex (a+)+b": None,
    "schema doubled": "response_format",
    "a tool of doubled": "tools",
    "1000 tools": "tools",
}


class TestBlame:
    @pytest.mark.parametrize("row", BLAMED)
    def test_it_is_named(self, siege: Siege, row: str) -> None:
        answer = siege.http.post(CHATS, content=ALL[row])
        if BLAMED[row] is None:
            assert answer.status_code == 200
        else:
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == BLAMED[row]


class TestAttacks:
    @pytest.mark.parametrize("row", ROWS)
    def test_row(self, siege: Siege, row: str) -> None:
        headers = {"x-mell-tenant": "attacker", "content-type": "application/json"}
        check_clean(siege.http.post(CHATS, content=ALL[row], headers=headers))


@pytest.mark.parametrize("count", [24, pytest.param(300, marks=pytest.mark.slow)])
def test_a_flood_of_grammars_of_one_tenant_delays_no_other(
    siege: Siege, count: int
) -> None:
    def attack(body: bytes) -> httpx2.Response:
        headers = {"x-mell-tenant": "attacker", "content-type": "application/json"}
        return siege.http.post(CHATS, content=body, headers=headers)

    with ThreadPoolExecutor(12) as pool:
        for answer in pool.map(attack, grammar_attacks.flood(count)):
            check_clean(answer)
