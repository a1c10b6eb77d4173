"""The library door: text from a model in one line, in the same process.

    print(LLM().generate("Once upon a time")[0].text)

An engine thread and an event loop thread work behind it; every method may be called
from any thread, and requests that are made at the same time share the engine's steps.
"""

import asyncio
import contextlib
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Coroutine,
    Iterator,
    Sequence,
)
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, final

from mell_jax.checkpoints import spec_in_memory
from mell_jax.engine.build import BuiltEngine, build_engine, build_from_module
from mell_jax.engine.config import DEMO, EngineConfig
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.frames import EngineInfo, EngineLoad
from mell_jax.engine.params import SamplingParams
from mell_jax.frontend import (
    Ask,
    Caller,
    Delta,
    FrontEnd,
    FrontModel,
    TokenLogprobs,
    generate,
)
from mell_jax.models.decoder import Decoder
from mell_jax.text.tokenizer import Tokenizer, load_tokenizer

Prompt = str | Sequence[int]
T = TypeVar("T")
MAX_OPEN = 1_000_000
"""Open requests; a program that makes its own requests is not kept from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One generated sample."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None  # one per token, when asked for
    finish_reason: str  # "stop", "length" or "abort"
    stop_token: int | None
    stop_string: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutput:
    """Everything generated for one prompt."""

    completions: tuple[Completion, ...]  # n of them
    prompt_tokens: int
    cached_tokens: int  # prompt tokens that came from the prefix cache
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None

    @property
    def text(self) -> str:
        """Text of the first sample."""
        return self.completions[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Tokens of the first sample."""
        return self.completions[0].token_ids


@final
class LLM:
    """A model that answers prompts.

    Args:
      model: a model directory (Hugging Face or Orbax), or "demo".
      tokenizer: a folder with a tokenizer; by default the model's own.
      fleet: how several instances work together, with `instances=N` among the options.
      progress: show bars while loading and compiling.
      options: any field of `EngineConfig`, such as `max_rows=8`.

    Raises:
      CheckpointError: the model directory cannot be used.
      ValueError: an option is out of range or does not fit the model.
      TypeError: an option does not exist.
    """

    def __init__(
        self,
        model: str | PathLike[str] = DEMO,
        *,
        tokenizer: str | PathLike[str] | None = None,
        fleet: FleetConfig | None = None,
        progress: bool = False,
        **options: Any,
    ) -> None:
        config = EngineConfig(model=fspath(model), **options)
        built = build_engine(config, fleet=fleet, progress=progress)
        folder = Path(tokenizer) if tokenizer is not None else built.models[0].directory
        assert folder is not None, "a loaded model has a directory"
        self._start(built, load_tokenizer(folder))

    @classmethod
    def from_nnx(
        cls,
        module: Decoder,
        *,
        tokenizer: str | PathLike[str] | Tokenizer | None = None,
        eos_ids: Sequence[int] | None = None,
        fleet: FleetConfig | None = None,
        progress: bool = False,
        **options: Any,
    ) -> Self:
        """Serves a decoder that is in memory, such as one that was just trained.

        Args:
          module: the decoder; its weights are copied, it can be trained further.
          tokenizer: a folder with a tokenizer, or one that is loaded; None for token
            ids in and out.
          eos_ids: tokens that end a text; by default the tokenizer's own.
        """
        if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
            tokenizer = load_tokenizer(Path(tokenizer))
        if eos_ids is None:
            own = tokenizer.eos_id if tokenizer is not None else None
            eos_ids = () if own is None else (own,)
        spec = spec_in_memory(
            module.config,
            eos_ids=eos_ids,
            bos_id=tokenizer.bos_id if tokenizer is not None else None,
        )
        built = build_from_module(
            module,
            spec=spec,
            config=EngineConfig(**options),
            fleet=fleet,
            progress=progress,
        )
        llm = cls.__new__(cls)
        llm._start(built, tokenizer)
        return llm

    def _start(self, built: BuiltEngine, tokenizer: Tokenizer | None) -> None:
        self._engine = built.thread
        self.tokenizer = tokenizer
        self._front_end = FrontEnd(
            built.thread.send,
            models=[FrontModel(info=built.thread.infos[0], tokenizer=tokenizer)],
            max_open=MAX_OPEN,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="mell-llm", daemon=True
        )
        self._thread.start()
        self._engine.start(self._front_end.sink(self._loop))

    @property
    def info(self) -> EngineInfo:
        """What is served: vocabulary, context, limits."""
        return self._engine.infos[0]

    def load(self) -> EngineLoad:
        """How busy the engine is, and its counters."""
        return self._engine.load()

    # -- answers -----------------------------------------------------------------

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Answers prompts together and returns when all are done, in their order.

        Args:
          prompts: a text, a list of token ids, or a list of these.
          params: for all prompts, or one for each.

        Raises:
          InvalidRequestError: a prompt or parameter breaks a rule; nothing is returned
            and the other prompts are given up.
        """
        return self._wait(self.agenerate(prompts, params))

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None
    ) -> Iterator[Delta]:
        """Yields what is new as it comes; leaving the loop early ends the request."""
        deltas = self._deltas(prompt, params)
        try:
            while (delta := self._wait(_next_or_none(deltas))) is not None:
                yield delta
        finally:
            self._wait(deltas.aclose())

    async def agenerate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """`generate` for callers in an event loop of their own."""
        many = _as_prompts(prompts)
        each = _as_params(params, count=len(many))
        jobs = self._collect_all(list(zip(many, each, strict=True)))
        return await self._bridge(jobs)

    async def astream(
        self, prompt: Prompt, params: SamplingParams | None = None
    ) -> AsyncIterator[Delta]:
        """`stream` for callers in an event loop of their own."""
        deltas = self._deltas(prompt, params)
        try:
            while (delta := await self._bridge(_next_or_none(deltas))) is not None:
                yield delta
        finally:
            await self._bridge(deltas.aclose())

    # -- ending ------------------------------------------------------------------

    def close(self) -> None:
        """Stops the engine; open requests fail. Closing twice does nothing."""
        if self._loop.is_closed():
            return
        self._engine.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- crossing into the loop thread -------------------------------------------

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _bridge(self, work: Coroutine[Any, Any, T]) -> T:
        if asyncio.get_running_loop() is self._loop:
            return await work
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        return await asyncio.wrap_future(future)

    def _deltas(
        self, prompt: Prompt, params: SamplingParams | None
    ) -> AsyncGenerator[Delta]:
        ask = Ask(
            caller=Caller.of_library(), prompt=prompt, params=params or SamplingParams()
        )
        return generate(self._front_end, ask)

    async def _collect_all(
        self, requests: Sequence[tuple[Prompt, SamplingParams]]
    ) -> list[RequestOutput]:
        tasks = [
            asyncio.create_task(self._collect(prompt, params))
            for prompt, params in requests
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:  # one failed or the caller left: give up the others
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _collect(self, prompt: Prompt, params: SamplingParams) -> RequestOutput:
        deltas: list[list[Delta]] = [[] for _ in range(params.n)]
        async with contextlib.aclosing(self._deltas(prompt, params)) as stream:
            async for delta in stream:
                deltas[delta.index].append(delta)
        first = deltas[0][0]
        return RequestOutput(
            completions=tuple(_completion(parts) for parts in deltas),
            prompt_tokens=first.prompt_tokens,
            cached_tokens=first.cached_tokens,
            prompt_logprobs=first.prompt_logprobs,
        )


async def _next_or_none(deltas: AsyncGenerator[Delta]) -> Delta | None:
    return await anext(deltas, None)


def _completion(parts: Sequence[Delta]) -> Completion:
    """A sample from all of its deltas; the last one tells how it ended."""
    finish = parts[-1].finish
    assert finish is not None, "a stream ended without a finish"
    logprobs = [part.logprobs for part in parts if part.logprobs is not None]
    return Completion(
        index=parts[0].index,
        text="".join(part.text for part in parts),
        token_ids=tuple(token for part in parts for token in part.token_ids),
        logprobs=tuple(one for some in logprobs for one in some) if logprobs else None,
        finish_reason=finish.reason,
        stop_token=finish.stop_token,
        stop_string=finish.stop_string,
    )


def _as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A text and a list of ids are one prompt; a list of either is many."""
    if isinstance(prompts, str) or (prompts and isinstance(prompts[0], int)):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]


def _as_params(
    params: SamplingParams | Sequence[SamplingParams] | None, *, count: int
) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if len(params) != count:
        raise ValueError(f"{count} prompts need as many params, got {len(params)}")
    return list(params)
