"""The calls of `vllm.grpc.engine.VllmEngine` are here, without gRPC around them.

Messages in, messages out; errors are raised as they are and become statuses in `rpcs`.
It runs wherever the front end does: in the engine's process or in one of its own.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import UTC, datetime
from typing import final

from smg_grpc_proto.generated import common_pb2
from smg_grpc_proto.generated import vllm_engine_pb2 as pb

from mell_jax.engine.frames import EngineInfo, EngineLoad
from mell_jax.frontend import Delta, FrontEnd, TokenLogprobs, generate
from mell_jax.serving.asker import Asker
from mell_jax.serving.client_values import checked_request_id
from mell_jax.serving.problem import DrainingError, MissingTokenizerError
from mell_jax.serving.served_model import ServedModel
from mell_jax.serving.version import own_version
from mell_jax.serving.vllm import convert, tokenizer_archive

_RATE_WINDOW_S = 1.0


@final
class Servicer:
    """Answers the calls; `drain` makes it refuse new generations."""

    def __init__(
        self,
        front_end: FrontEnd,
        *,
        load: Callable[[], EngineLoad],
        models: Sequence[ServedModel],
    ) -> None:
        self._front_end = front_end
        self._load = load
        self._models = {model.name: model for model in models}
        self._is_leaving = self._is_draining = False
        self._stuck = ""  # what makes no progress
        self._started_s = time.monotonic()
        self._last_request_s = 0.0  # of the wall clock
        self._rate = _TokenRate()
        self._archives: dict[str, bytes] = {}  # of tokenizers, by model

    def leave(self) -> None:
        """Tells clients that ask that it will end soon; requests are still taken."""
        self._is_leaving = True

    def drain(self) -> None:
        """Takes no more requests."""
        self._is_leaving = self._is_draining = True

    @property
    def trouble(self) -> str:
        """Tells why no request should be sent; empty while all is well."""
        if self._front_end.stopped is not None:
            return self._front_end.stopped or "stopped"
        if self._is_leaving:
            return "shutting down"
        return f"{self._stuck} makes no progress" if self._stuck else ""

    def set_progress(self, *, engine: bool, front_end: bool) -> None:
        """Keeps whether engine and front end make progress, for `trouble`."""
        self._stuck = ""
        if not (engine and front_end):
            self._stuck = "the front end" if engine else "the engine"

    def check_open(self) -> None:
        """Refuses new work of any door while the server drains.

        Raises:
          DrainingError: the server finishes what it has.
        """
        if self._is_draining:
            self._front_end.meter.refuse("draining")
            raise DrainingError("the server is shutting down; ask another one")

    async def generate(
        self, request: pb.GenerateRequest, asker: Asker
    ) -> AsyncGenerator[pb.GenerateResponse]:
        """Yields chunks as they come, or none, and one complete message per sample."""
        self._last_request_s = time.time()
        request_id = checked_request_id(request.request_id)
        if request_id:
            asker.echo_id(request_id)
        self.check_open()
        convert.check_supported(request)
        info = self._front_end.models.find(asker.model).info
        params = convert.params_of(
            request.sampling_params, defaults=info.default_params
        )
        ask = asker.ask(
            prompt=convert.prompt_of(request),
            params=params,
            model=asker.model,
            request_id=request_id,
            is_text_wanted=False,
        )
        deltas = generate(self._front_end, ask)
        samples = [_Sample(request.stream) for _ in range(params.n)]
        async with contextlib.aclosing(deltas):
            async for delta in deltas:
                sample = samples[delta.index]
                sample.add(delta)
                if request.stream:
                    yield convert.chunk_of(delta)
                if delta.finish is not None:
                    yield sample.complete(delta)

    async def abort(self, request: pb.AbortRequest, asker: Asker) -> pb.AbortResponse:
        """Ends requests by id; ids that are not in flight, or others', are ignored."""
        self._front_end.abort(map(asker.caller.scoped, request.request_ids))
        return pb.AbortResponse()

    async def health_check(
        self, request: pb.HealthCheckRequest, asker: Asker
    ) -> pb.HealthCheckResponse:
        cause = self.trouble
        return pb.HealthCheckResponse(healthy=not cause, message=cause or "ok")

    async def get_model_info(
        self, request: pb.GetModelInfoRequest, asker: Asker
    ) -> pb.GetModelInfoResponse:
        info, model = self._find(asker)
        directory = model.tokenizer_dir
        return convert.model_info_of(
            info,
            served_name=model.name,
            model_path=model.path,
            tokenizer_path="" if directory is None else str(directory),
        )

    async def get_server_info(
        self, request: pb.GetServerInfoRequest, asker: Asker
    ) -> pb.GetServerInfoResponse:
        info, _ = self._find(asker)
        return pb.GetServerInfoResponse(
            active_requests=self._front_end.num_open_in_all,
            last_receive_timestamp=self._last_request_s,
            uptime_seconds=time.monotonic() - self._started_s,
            server_type="vllm-grpc",
            data_parallel_size=1,
            block_size=info.page_tokens,
            max_num_seqs=info.max_rows,
        )

    async def get_loads(
        self, request: pb.GetLoadsRequest, asker: Asker
    ) -> pb.GetLoadsResponse:
        load = self._load()
        rate = self._rate.update(load.generated_tokens, now_s=time.monotonic())
        is_asked = request.dp_rank == 0
        info, _ = self._find(asker)
        loads = [convert.load_of(load, info=info, tokens_per_s=rate)]
        return pb.GetLoadsResponse(
            timestamp=datetime.now(UTC).isoformat(),
            version=own_version(),
            dp_rank_count=1,
            loads=loads if is_asked else [],
        )

    async def get_tokenizer(
        self, request: common_pb2.GetTokenizerRequest, asker: Asker
    ) -> AsyncGenerator[common_pb2.GetTokenizerChunk]:
        _, model = self._find(asker)
        if model.tokenizer_dir is None:
            raise MissingTokenizerError(
                "this server has no tokenizer: send and read token ids"
            )
        if model.name not in self._archives:
            packed = await asyncio.to_thread(
                tokenizer_archive.pack, model.tokenizer_dir
            )
            self._archives[model.name] = packed
        for chunk in tokenizer_archive.chunks_of(self._archives[model.name]):
            yield chunk

    def _find(self, asker: Asker) -> tuple[EngineInfo, ServedModel]:
        """Returns what is known of the model that a call is about."""
        info = self._front_end.models.find(asker.model).info
        return info, self._models[info.model_name]


@final
class _Sample:
    """Collects what the complete message of a sample needs from its deltas."""

    def __init__(self, is_streamed: bool) -> None:
        self._is_streamed = is_streamed
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprobs] | None = None
        self._prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None

    def add(self, delta: Delta) -> None:
        self._token_ids += delta.token_ids
        if self._is_streamed:
            return
        if delta.logprobs is not None:
            self._logprobs = [*(self._logprobs or ()), *delta.logprobs]
        if delta.prompt_logprobs is not None:
            self._prompt_logprobs = delta.prompt_logprobs

    def complete(self, last: Delta) -> pb.GenerateResponse:
        return convert.complete_of(
            last,
            token_ids=self._token_ids,
            logprobs=self._logprobs,
            prompt_logprobs=self._prompt_logprobs,
        )


@final
class _TokenRate:
    """Measures tokens per second between readings at least a second apart."""

    def __init__(self) -> None:
        self._at_s: float | None = None
        self._count = 0
        self._rate = 0.0

    def update(self, count: int, *, now_s: float) -> float:
        if self._at_s is None:
            self._at_s, self._count = now_s, count
        elapsed_s = now_s - self._at_s
        if elapsed_s >= _RATE_WINDOW_S:
            self._rate = (count - self._count) / elapsed_s
            self._at_s, self._count = now_s, count
        return self._rate
