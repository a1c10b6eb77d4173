"""Clients that keep a number of streams open, and note when tokens come."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np

from benchmarks.service.server import channels, generate

CHANNELS = 4  # to each server


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Requests are of this shape; answers are from half as long to as long."""

    prompt_tokens: int
    answer_tokens: int
    vocab_size: int


@dataclass(slots=True, kw_only=True)
class Noted:
    """A stream's messages came at these times, in seconds."""

    at_s: list[float] = field(default_factory=list)
    tokens: int = 0
    error: str = ""

    def next_after(self, moment_s: float) -> float | None:
        """Returns when the first message after a moment came."""
        return next((at_s for at_s in self.at_s if at_s > moment_s), None)

    def silence_s(self, begin_s: float, end_s: float) -> float:
        """Returns the longest silence of which a part lies between two moments."""
        pairs = zip(self.at_s[:-1], self.at_s[1:], strict=True)
        return max(
            (
                later - sooner
                for sooner, later in pairs
                if sooner < end_s and later > begin_s
            ),
            default=0.0,
        )


async def follow(
    channel: grpc.aio.Channel, prompt: Sequence[int], *, tokens: int, noted: Noted
) -> None:
    """Asks for an answer of so many tokens, and notes what comes until its end."""
    call = generate(
        channel, prompt, temperature=0.0, max_tokens=tokens, ignore_eos=True
    )
    try:
        async for response in call:
            if count := len(response.chunk.token_ids):
                noted.at_s.append(time.monotonic())
                noted.tokens += count
    except grpc.aio.AioRpcError as error:
        noted.error = f"{error.code().name}: {error.details()}"
    finally:
        call.cancel()  # does nothing after the end


@contextlib.asynccontextmanager
async def following(
    address: str, prompts: Sequence[Sequence[int]], *, tokens: int
) -> AsyncIterator[list[Noted]]:
    """Asks a server for answers to all prompts at once; yields what is noted of each.

    What is not over in the end is cancelled.
    """
    noted = [Noted() for _ in prompts]
    async with channels(address, count=CHANNELS) as links:
        streams = [
            follow(links[i % CHANNELS], prompt, tokens=tokens, noted=noted[i])
            for i, prompt in enumerate(prompts)
        ]
        async with _cancelled_in_the_end(streams):
            yield noted


@contextlib.asynccontextmanager
async def _cancelled_in_the_end(
    todo: Sequence[Coroutine[None, None, None]],
) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(each) for each in todo]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Load:
    """So many clients ask a server, each again and again.

    Args:
      address: of the server.
      streams: that are open at any time.
      shape: of what is asked for.
      seed: of prompts and lengths.
    """

    def __init__(self, address: str, *, streams: int, shape: Shape, seed: int) -> None:
        self._address = address
        self._streams = streams
        self._shape = shape
        self._seed = seed
        self._noted: list[Noted] = []

    @property
    def tokens(self) -> int:
        """Returns how many have come so far.

        Raises:
          RuntimeError: a stream has failed.
        """
        for noted in self._noted:
            if noted.error:
                raise RuntimeError(f"a stream has failed: {noted.error}")
        return sum(noted.tokens for noted in self._noted)

    @property
    def is_under_way(self) -> bool:
        """Returns whether every client has got something."""
        begun = sum(1 for noted in self._noted[: self._streams] if noted.tokens)
        return begun >= self._streams

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps the streams open meanwhile, and cancels them in the end."""
        async with channels(self._address, count=CHANNELS) as links:
            clients = [
                self._ask_on(links[number % CHANNELS], number)
                for number in range(self._streams)
            ]
            async with _cancelled_in_the_end(clients):
                yield

    async def _ask_on(self, channel: grpc.aio.Channel, number: int) -> None:
        shape = self._shape
        rng = np.random.default_rng([self._seed, number])
        noted = Noted()
        while not noted.error:
            noted = Noted()
            self._noted.append(noted)
            prompt = rng.integers(1, shape.vocab_size, shape.prompt_tokens)
            tokens = int(rng.integers(shape.answer_tokens // 2, shape.answer_tokens))
            await follow(channel, prompt.tolist(), tokens=tokens, noted=noted)
