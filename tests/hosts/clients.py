"""Clients of a real fleet: streams of many kinds, and what each has got."""

import http.client
import json
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CUT = "the connection was cut"
_ANIMALS = ["cat", "dog", "duck", "bear", "fox", "owl", "pig", "hen"]
_KINDS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.8},
    {"temperature": 0.9, "top_p": 0.9, "logprobs": 2},
    {"temperature": 0.8, "n": 2},
    {"temperature": 0.8, "stop": [" the"]},
    {"temperature": 0.7, "structured_outputs": {"regex": "([a-z]{1,9} ){20}end"}},
    {"temperature": 0.0, "logprobs": 1},
    {"temperature": 1.0, "presence_penalty": 0.5, "frequency_penalty": 0.5},
)


def bodies(count: int, *, tokens: int) -> list[dict[str, Any]]:
    """Returns requests of all kinds, each with a seed of its own."""
    return [
        {
            "model": "demo",
            "prompt": f"Once upon a time there was a {_ANIMALS[i // 8 % 8]} and",
            "max_tokens": tokens,
            "seed": i,
            "stream": True,
            **_KINDS[i % len(_KINDS)],
        }
        for i in range(count)
    ]


@dataclass(slots=True, kw_only=True)
class Got:
    """A client has got this; `error` is what its stream ended with, if not well."""

    texts: dict[int, str] = field(default_factory=dict)  # by choice
    ends: dict[int, str] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)  # that have log probabilities
    logprobs: list[float] = field(default_factory=list)
    is_whole: bool = False
    error: str = ""
    gap_s: float = 0.0  # the longest silence

    @property
    def answer(self) -> tuple[object, ...]:
        """Returns all that must not depend on what happens to hosts."""
        return self.texts, self.ends, self.tokens, self.is_whole, self.error


Door = Path | str
"""Where a server listens: a Unix socket's file, or host:port."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, *, most_s: float) -> None:
        super().__init__("localhost", timeout=most_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _connection(door: Door, *, most_s: float) -> http.client.HTTPConnection:
    if isinstance(door, Path):
        return _UnixConnection(door, most_s=most_s)
    return http.client.HTTPConnection(door, timeout=most_s)


def fetch(door: Door, url: str, *, most_s: float = 10.0) -> str:
    """Returns what a server answers."""
    connection = _connection(door, most_s=most_s)
    try:
        connection.request("GET", url)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def first_moment(door: Door, *, most_s: float = 30.0) -> dict[str, Any]:
    """Returns the first moment that somebody hears who watches the page's feed."""
    connection = _connection(door, most_s=most_s)
    try:
        connection.request("GET", "/fleet/events")
        for line in connection.getresponse():
            if line.startswith(b"data: "):
                found: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
                return found
        raise AssertionError("nothing was told")
    finally:
        connection.close()


def stream(
    door: Door, body: dict[str, Any], *, most_s: float = 120.0, got: Got | None = None
) -> Got:
    """Asks, and reads until the end, whatever that is.

    Args:
      got: takes what comes as it comes; by default a new one.
    """
    got, connection = got or Got(), _connection(door, most_s=most_s)
    try:
        connection.request(
            "POST",
            "/v1/completions",
            json.dumps(body),
            {"content-type": "application/json"},
        )
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            got.error = f"{response.status} {response.read().decode()}"
            return got
        _read(response, got)
        if not (got.is_whole or got.error):
            got.error = CUT  # which http.client does not tell
    except (OSError, http.client.HTTPException) as error:
        got.error = f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    return got


def _read(response: http.client.HTTPResponse, got: Got) -> None:
    last_s = time.monotonic()
    for line in response:
        if not line.startswith(b"data: "):
            continue
        now_s = time.monotonic()
        got.gap_s, last_s = max(got.gap_s, now_s - last_s), now_s
        if line.startswith(b"data: [DONE]"):
            got.is_whole = True
            continue
        event = json.loads(line.removeprefix(b"data: "))
        if "error" in event:
            got.error = str(event["error"])
        for choice in event.get("choices", ()):
            _add(got, choice)


def _add(got: Got, choice: dict[str, Any]) -> None:
    index = choice["index"]
    got.texts[index] = got.texts.get(index, "") + choice["text"]
    if choice["finish_reason"]:
        got.ends[index] = choice["finish_reason"]
    if found := choice.get("logprobs"):
        got.tokens += found["tokens"]
        got.logprobs += found["token_logprobs"]


class Wave:
    """These requests are asked all at once, each by a client in a thread."""

    def __init__(self, door: Door, wanted: list[dict[str, Any]]) -> None:
        self.got = [Got() for _ in wanted]  # so far
        self._threads = [
            threading.Thread(
                target=stream, args=(door, body), kwargs={"got": got}, daemon=True
            )
            for body, got in zip(wanted, self.got, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def is_over(self) -> bool:
        """Returns whether all streams are over."""
        return not any(thread.is_alive() for thread in self._threads)

    def end(self) -> list[Got]:
        """Waits until all streams are over; returns what came."""
        for thread in self._threads:
            thread.join()
        return self.got

    def wait_under_way(self) -> None:
        """Waits until half of the streams have got something."""
        while sum(bool(got.texts) for got in self.got) < len(self.got) / 2:
            assert not self.is_over, [got.error for got in self.got]
            time.sleep(0.02)
