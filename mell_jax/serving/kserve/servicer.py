"""The calls of `inference.GRPCInferenceService` are here, without gRPC around them."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from functools import partial
from typing import Protocol, final

import grpc

from mell_jax.engine.params import InvalidRequestError
from mell_jax.frontend import Delta, FrontEnd, generate
from mell_jax.scheduler.placement.operator import NotPossibleError
from mell_jax.serving.asker import Asker
from mell_jax.serving.edge import Edge
from mell_jax.serving.kserve import answers
from mell_jax.serving.kserve.asking import (
    VERSION,
    InferenceRequest,
    check_version,
    inference_of,
)
from mell_jax.serving.kserve.conversation import converse
from mell_jax.serving.problem import UnsupportedError
from mell_jax.serving.proto import open_inference_pb2 as pb
from mell_jax.serving.version import own_version

_EXTENSIONS = ("model_configuration", "model_repository", "statistics")


class Door(Protocol):
    """A door tells whether requests are taken, the same at every door."""

    @property
    def trouble(self) -> str:
        """Tells why no request is taken; empty while they are."""

    def check_open(self) -> None: ...


def _check_repository(name: str) -> None:
    if name:
        raise UnsupportedError(
            "there is one repository, without a name; leave repository_name empty"
        )


@final
class KServe:
    """Answers each call of the service."""

    def __init__(self, front_end: FrontEnd, *, door: Door) -> None:
        self._front_end = front_end
        self._door = door

    def handler(self, edge: Edge) -> grpc.GenericRpcHandler:
        """Makes the handlers of the whole service."""
        return edge.handler(
            pb.DESCRIPTOR.services_by_name["GRPCInferenceService"],
            unary={
                "ServerLive": self.server_live,
                "ServerReady": self.server_ready,
                "ModelReady": self.model_ready,
                "ServerMetadata": self.server_metadata,
                "ModelMetadata": self.model_metadata,
                "ModelConfig": self.model_config,
                "ModelStatistics": self.model_statistics,
                "ModelInfer": self.model_infer,
                "RepositoryIndex": self.repository_index,
                "RepositoryModelLoad": self.repository_model_load,
                "RepositoryModelUnload": self.repository_model_unload,
            },
            duplex={"ModelStreamInfer": self.model_stream_infer},
        )

    async def server_live(
        self, request: pb.ServerLiveRequest, asker: Asker
    ) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=self._front_end.stopped is None)

    async def server_ready(
        self, request: pb.ServerReadyRequest, asker: Asker
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=not self._door.trouble)

    async def model_ready(
        self, request: pb.ModelReadyRequest, asker: Asker
    ) -> pb.ModelReadyResponse:
        """Answers False for models that are not there, as the protocol has it."""
        is_known = request.name in self._front_end.models.by_name
        is_version = request.version in ("", VERSION)
        is_ready = is_known and is_version and not self._door.trouble
        return pb.ModelReadyResponse(ready=is_ready)

    async def server_metadata(
        self, request: pb.ServerMetadataRequest, asker: Asker
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name=answers.PLATFORM, version=own_version(), extensions=_EXTENSIONS
        )

    async def model_metadata(
        self, request: pb.ModelMetadataRequest, asker: Asker
    ) -> pb.ModelMetadataResponse:
        return answers.metadata_of(self._find(request.name, version=request.version))

    async def model_config(
        self, request: pb.ModelConfigRequest, asker: Asker
    ) -> pb.ModelConfigResponse:
        return answers.config_of(self._find(request.name, version=request.version))

    async def model_statistics(
        self, request: pb.ModelStatisticsRequest, asker: Asker
    ) -> pb.ModelStatisticsResponse:
        """Counts samples of every door of the server; times are among the metrics."""
        names = list(self._front_end.models.by_name)
        if request.name:
            names = [self._find(request.name, version=request.version)]
        measured = (await self._front_end.counted()).models
        return pb.ModelStatisticsResponse(
            model_stats=[
                _statistics_of(name, finished=measured[name].finished) for name in names
            ]
        )

    async def repository_index(
        self, request: pb.RepositoryIndexRequest, asker: Asker
    ) -> pb.RepositoryIndexResponse:
        _check_repository(request.repository_name)
        trouble = self._door.trouble
        if trouble and request.ready:
            return pb.RepositoryIndexResponse()
        index = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[
                index(
                    name=name,
                    version=VERSION,
                    state="UNAVAILABLE" if trouble else "READY",
                    reason=trouble,
                )
                for name in self._front_end.models.by_name
            ]
        )

    async def repository_model_load(
        self, request: pb.RepositoryModelLoadRequest, asker: Asker
    ) -> pb.RepositoryModelLoadResponse:
        """Answers for any model that is served: models are there from the start."""
        _check_repository(request.repository_name)
        if request.parameters:
            raise UnsupportedError(
                "a model is served as the server was started; leave parameters empty"
            )
        self._front_end.models.find(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def repository_model_unload(
        self, request: pb.RepositoryModelUnloadRequest, asker: Asker
    ) -> pb.RepositoryModelUnloadResponse:
        """Refuses: no client takes a model from the others."""
        _check_repository(request.repository_name)
        self._front_end.models.find(request.model_name)
        raise NotPossibleError(
            "a model without requests gives its devices back by itself; to serve it no "
            "more, start the server without it"
        )

    async def model_infer(
        self, request: pb.ModelInferRequest, asker: Asker
    ) -> pb.ModelInferResponse:
        """Returns the whole answer at once."""
        wanted = self._read(request)
        if wanted.is_streamed:
            raise InvalidRequestError(
                "stream", "must be false in ModelInfer; call ModelStreamInfer"
            )
        return await self._answer(wanted, asker)

    def model_stream_infer(
        self, requests: AsyncIterator[pb.ModelInferRequest], asker: Asker
    ) -> AsyncGenerator[pb.ModelStreamInferResponse]:
        """Yields text as it comes, for many requests; one that fails, fails alone."""
        return converse(requests, answer=partial(self._relay, asker=asker))

    async def _relay(
        self, request: pb.ModelInferRequest, *, asker: Asker
    ) -> AsyncGenerator[pb.ModelStreamInferResponse]:
        try:
            wanted = self._read(request)
            if wanted.is_streamed is False:
                whole = await self._answer(wanted, asker)
                yield answers.streamed(whole, is_final=True)
                return
            async with contextlib.aclosing(self._parts(wanted, asker)) as parts:
                async for part in parts:
                    yield part
        except Exception as error:  # the edge: a request of a stream fails alone
            yield answers.failure_of(error, request=request)

    async def _answer(
        self, wanted: InferenceRequest, asker: Asker
    ) -> pb.ModelInferResponse:
        heard: dict[int, list[Delta]] = {}
        async with contextlib.aclosing(self._generate(wanted, asker)) as deltas:
            async for delta in deltas:
                heard.setdefault(delta.index, []).append(delta)
        prompt = wanted.prompt if wanted.repeats_prompt else ""
        said = [answers.said_in(heard[n], prompt=prompt) for n in sorted(heard)]
        return answers.response_of(wanted, said, model=self._find(wanted.model))

    async def _parts(
        self, wanted: InferenceRequest, asker: Asker
    ) -> AsyncGenerator[pb.ModelStreamInferResponse]:
        """Yields a response whenever there is text, and one at the end."""
        if wanted.params.n != 1:
            raise InvalidRequestError(
                "n", f"must be 1 where text is streamed, got {wanted.params.n}"
            )
        if wanted.repeats_prompt:
            raise InvalidRequestError(
                "exclude_input_in_output", "must be true where text is streamed"
            )
        model = self._find(wanted.model)
        unsaid: list[Delta] = []
        async with contextlib.aclosing(self._generate(wanted, asker)) as deltas:
            async for delta in deltas:
                unsaid.append(delta)
                if delta.text or delta.finish is not None:
                    said = [answers.said_in(unsaid)]
                    part = answers.response_of(wanted, said, model=model)
                    yield answers.streamed(part, is_final=delta.finish is not None)
                    unsaid = []

    def _read(self, request: pb.ModelInferRequest) -> InferenceRequest:
        """Raises UnknownModelError, too: a model's own defaults count."""
        model = self._front_end.models.find(request.model_name)
        return inference_of(request, defaults=model.info.default_params)

    def _generate(
        self, wanted: InferenceRequest, asker: Asker
    ) -> AsyncGenerator[Delta]:
        """An id of a client names nothing here: others may have the same."""
        self._door.check_open()
        ask = asker.ask(prompt=wanted.prompt, params=wanted.params, model=wanted.model)
        return generate(self._front_end, ask)

    def _find(self, name: str, *, version: str = "") -> str:
        """Returns the name of a model, or of the default one.

        Raises:
          UnknownModelError: there is none, or not in that version.
        """
        check_version(version)
        return self._front_end.models.find(name).info.model_name


def _statistics_of(name: str, *, finished: Mapping[str, int]) -> pb.ModelStatistics:
    done = finished.get("stop", 0) + finished.get("length", 0)
    return pb.ModelStatistics(
        name=name,
        version=VERSION,
        inference_count=done,
        inference_stats=pb.InferStatistics(
            success=pb.StatisticDuration(count=done),
            fail=pb.StatisticDuration(count=finished.get("error", 0)),
        ),
    )
