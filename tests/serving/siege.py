"""A real server under attack: eight good streams must not notice."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx2
from smg_grpc_proto.generated import vllm_engine_pb2 as pb

from mell_jax.serving.proto import open_inference_pb2_grpc as inference_grpc
from tests.serving.kserve.asking import ask, texts_of
from tests.serving.running import RunningServer, ids_of, request

PROMPT, MOST = "Once upon a time", 60
GREEDY = {"temperature": 0.0, "max_tokens": MOST}
BAD_EVENTS = {"front_end_died", "engine_failed", "request_failed", "failed"}


class Siege:
    """The server, and what good clients get of it."""

    def __init__(self, cache_dir: Path, *, flags: tuple[str, ...] = ()) -> None:
        self.server = server = RunningServer(cache_dir, flags=flags)
        self.kserve = inference_grpc.GRPCInferenceServiceStub(server.channel)
        self.http = httpx2.Client(base_url=f"http://{server.http}", timeout=60)
        self.front_pid = server.front_end().pid
        self._kinds = (self._by_ids, self._by_http, self._by_kserve, self._by_stream)
        self._alone = [ask_once() for ask_once in self._kinds]
        self.ids = self._by_ids()

    def close(self) -> None:
        self.http.close()
        self.server.close()

    def _by_ids(self) -> list[int]:
        return ids_of(self.server.stub.Generate(request(PROMPT, max_tokens=MOST)))

    def _by_http(self) -> object:
        body = {"prompt": PROMPT, **GREEDY}
        answer = self.http.post("/v1/completions", json=body)
        return answer.json()["choices"][0]["text"]

    def _by_kserve(self) -> object:
        return texts_of(self.kserve.ModelInfer(ask(PROMPT, sampling=GREEDY)))

    def _by_stream(self) -> object:
        answers = self.kserve.ModelStreamInfer(iter([ask(PROMPT, sampling=GREEDY)]))
        parts = [texts_of(answer.infer_response) for answer in answers]
        return "".join(text for part in parts for text in part)

    @contextlib.contextmanager
    def good_streams(self) -> Iterator[None]:
        """Eight streams, again and again; afterwards everything must be as before."""
        is_over, counts = threading.Event(), [0] * 8
        steps = self.metric("mell:steps_total")

        def go_on(lane: int, ask_once: Callable[[], object], alone: object) -> None:
            while not is_over.is_set():
                assert ask_once() == alone
                counts[lane] += 1

        kinds = list(zip(self._kinds, self._alone, strict=True)) * 2
        with ThreadPoolExecutor(8) as pool:
            streams = [pool.submit(go_on, i, *kind) for i, kind in enumerate(kinds)]
            try:
                yield
                before = list(counts)
                while any(
                    now < was + 2 for now, was in zip(counts, before, strict=True)
                ):
                    if any(stream.done() for stream in streams):
                        break  # an error, raised below
                    self._by_ids()
            finally:
                is_over.set()
            for stream in streams:
                stream.result(timeout=60)
        assert self.metric("mell:steps_total") > steps
        self.check_quiet()

    def check_quiet(self) -> None:
        """Nobody was replaced, nothing failed, and nothing is left of any request."""
        assert self.server.front_end().pid == self.front_pid
        while self.num_open() or self.server.used_pages():
            self._by_ids()  # runs at least a step after the last cancellation
        # Every line is ours: nobody outside, nor gRPC in his words, writes one.
        lines = self.server.log.read_bytes().splitlines()
        events = [json.loads(line) for line in lines]
        assert [each for each in events if each["event"] in BAD_EVENTS] == []

    def num_open(self) -> int:
        """Requests that the front end has not ended."""
        info = self.server.stub.GetServerInfo(pb.GetServerInfoRequest())
        return int(info.active_requests)

    def metric(self, name: str, *, label: str = "") -> float:
        """The value of a metric, of that label if it has several."""
        lines = self.http.get("/metrics").text.splitlines()
        found = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        (line,) = (line for line in found if f'"{label}"' in line or not label)
        return float(line.rpartition(" ")[2])


def code_of(call: grpc.Call, *, most: int = 400) -> grpc.StatusCode:
    """How a call ends, of which at most so many answers are read."""
    with contextlib.suppress(grpc.RpcError):
        for count, _ in enumerate(call):
            if count == most:
                call.cancel()
    code: grpc.StatusCode = call.code()
    return code
