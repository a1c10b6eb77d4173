"""Clients of a real fleet by gRPC: the tokens of a stream, and how it has ended."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc

_MOST_S = 120.0


@dataclass(slots=True, kw_only=True)
class GrpcGot:
    """A client has got these tokens, and then this status."""

    tokens: list[int] = field(default_factory=list)
    code: str = ""
    details: str = ""


class GrpcWave:
    """Seeded requests are asked at once, each over a connection of its own."""

    def __init__(self, address: str, *, count: int, tokens: int) -> None:
        self.got = [GrpcGot() for _ in range(count)]
        self._threads = [
            threading.Thread(
                target=_ask, args=(address, seed, tokens, got), daemon=True
            )
            for seed, got in enumerate(self.got)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> Sequence[GrpcGot]:
        """Waits until all streams are over; returns what came."""
        for thread in self._threads:
            thread.join()
        return self.got


def _ask(address: str, seed: int, tokens: int, got: GrpcGot) -> None:
    request = pb.GenerateRequest(
        tokenized=pb.TokenizedInput(input_ids=[10 + seed, 20, 30, 40]),
        sampling_params=pb.SamplingParams(
            temperature=0.8, seed=seed, max_tokens=tokens, ignore_eos=True
        ),
        stream=True,
    )
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options=options) as channel:
        try:
            stub = pb_grpc.VllmEngineStub(channel)
            for response in stub.Generate(request, timeout=_MOST_S):
                got.tokens += response.chunk.token_ids
            got.code = "OK"
        except grpc.RpcError as error:
            got.code, got.details = error.code().name, error.details()
