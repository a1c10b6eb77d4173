"""A trainer, with nothing but the standard library, drives `mell-serve` with a model.

It does what trainers' clients do between two steps: pause, new weights, resume, while
streams run; and gives the memory back while it trains.
"""

import json
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from mell_jax.engine.build import demo_directory
from mell_jax.serving.proto import mell_admin_pb2 as pb
from mell_jax.serving.proto import mell_admin_pb2_grpc as rpc
from tests.serving.running import RunningServer

SETTINGS = '[server]\nadmin_http_port = 0\nweights_dirs = ["{root}"]\n'
LENGTH = 200
PROMPT = "Once upon a time"


class Trainer:
    """Asks for what a trainer asks for."""

    def __init__(self, server: RunningServer) -> None:
        self._base = f"http://{server.doors['trainers']}"
        self._server = server

    def get(self, path: str) -> dict[str, Any]:
        return self._call("GET", path, None)[1]

    def post(self, route: str, **body: Any) -> dict[str, Any]:
        status, told = self._call("POST", route, body)
        assert status == 200, told
        return told

    def refused(self, route: str, **body: Any) -> tuple[int, str]:
        status, told = self._call("POST", route, body)
        return status, told["message"]

    def generate(self, *, count: int = LENGTH) -> dict[str, Any]:
        answer = self._server.openai.completions.with_raw_response.create(
            model="demo",
            prompt=PROMPT,
            max_tokens=count,
            temperature=0,
            extra_body={"ignore_eos": True, "return_token_ids": True},
        )
        told: dict[str, Any] = json.loads(answer.text)
        return told

    def _call(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(self._base + path, method=method)
        if body:
            request.data = json.dumps(body).encode()
            request.add_header("content-type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


class Stream(threading.Thread):
    """Reads one stream to its end."""

    def __init__(self, server: RunningServer) -> None:
        super().__init__()
        self.ids: list[int] = []
        self.versions: list[str] = []
        self.reason = ""
        self._server = server
        self.start()

    def run(self) -> None:
        for chunk in self._server.openai.completions.create(
            model="demo",
            prompt=PROMPT,
            max_tokens=LENGTH,
            temperature=0,
            stream=True,
            extra_body={"ignore_eos": True, "return_token_ids": True},
        ):
            (choice,) = chunk.choices
            told: Any = choice
            self.ids += told.token_ids
            self.versions += [each["version"] for each in told.weight_versions]
            self.reason = choice.finish_reason or ""

    def wait_for(self, count: int) -> None:
        while self.is_alive() and len(self.ids) < count:
            time.sleep(0.001)


def still(stream: Stream) -> int:
    """How many tokens a stream has that gets no more for a while."""
    count = -1
    while count != len(stream.ids):
        count = len(stream.ids)
        time.sleep(0.2)
    return count


def other_weights(folder: Path) -> None:
    """The demo model, but every third factor of its last norm has the other sign."""
    shutil.copytree(demo_directory(), folder)
    data = bytearray((folder / "model.safetensors").read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])["model.norm.weight"]
    first, end = header["data_offsets"]
    assert header["dtype"] == "BF16"
    for sign in range(start + first + 1, start + end, 6):  # of 2 bytes, the higher
        data[sign] ^= 0x80
    (folder / "model.safetensors").write_bytes(data)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    shutil.copytree(demo_directory(), root / "same")
    other_weights(root / "other")
    (root / "empty").mkdir()
    return root


@pytest.fixture(scope="module")
def server(root: Path, compiled_dir: Path) -> Iterator[RunningServer]:
    server = RunningServer(
        compiled_dir,
        flags=("--admin_port=0",),
        settings=SETTINGS.format(root=root),
    )
    yield server
    server.close()


@pytest.fixture
def trainer(server: RunningServer, root: Path) -> Trainer:
    trainer = Trainer(server)
    trainer.post("/update_weights", path=str(root / "same"), version="same")
    return trainer


@pytest.fixture(scope="module")
def whole(server: RunningServer) -> list[int]:
    """The answer of the demo model to the end."""
    told = Trainer(server).generate()
    ids: list[int] = told["choices"][0]["token_ids"]
    assert len(ids) == LENGTH
    return ids


def test_no_token_is_lost_while_weights_change_under_streams(
    server: RunningServer, trainer: Trainer, root: Path, whole: list[int]
) -> None:
    streams = [Stream(server) for _ in range(3)]
    for stream in streams:
        stream.wait_for(5)
    assert trainer.post("/pause?mode=keep")["is_paused"] is True
    late = Stream(server)  # waits in line
    told = trainer.post("/update_weights", path=str(root / "same"), version="step-1")
    assert (told["weight_version"], told["restarted"], told["aborted"]) == (
        "step-1",
        0,
        0,
    )
    state = trainer.get("/is_paused")
    assert (state["is_paused"], state["waiting"]) == (True, 1)
    assert [still(stream) < LENGTH for stream in (*streams, late)] == [True] * 4
    assert late.ids == []
    trainer.post("/resume")
    for stream in (*streams, late):
        stream.join(60)
        assert stream.ids == whole, "the same weights say the same"
        assert stream.reason == "length"
    assert {*streams[0].versions} == {"same", "step-1"}
    assert {*late.versions} == {"step-1"}


@pytest.mark.parametrize("open_requests", ["keep", "restart", "abort"])
def test_other_weights_say_something_else_from_a_token_on(
    server: RunningServer,
    trainer: Trainer,
    root: Path,
    whole: list[int],
    open_requests: str,
) -> None:
    stream = Stream(server)
    stream.wait_for(5)
    trainer.post("/pause?mode=keep")
    told = trainer.post(
        "/update_weights",
        path=str(root / "other"),
        version="other",
        open_requests=open_requests,
    )
    trainer.post("/resume")
    stream.join(60)
    assert told["restarted"] == (1 if open_requests == "restart" else 0)
    assert told["aborted"] == (1 if open_requests == "abort" else 0)
    if open_requests == "abort":
        assert stream.reason == "abort"
        assert stream.ids == whole[: len(stream.ids)]
        return
    assert stream.reason == "length"
    assert len(stream.ids) == LENGTH
    assert stream.ids != whole
    same = next(
        i for i, (a, b) in enumerate(zip(stream.ids, whole, strict=True)) if a != b
    )
    assert same >= 5
    other = trainer.generate(count=20)
    assert other["choices"][0]["token_ids"] != whole[:20]
    assert other["weight_version"] == "other"
    assert other["system_fingerprint"].endswith("-other")


def test_memory_is_given_back_between_rollouts(
    trainer: Trainer, root: Path, whole: list[int]
) -> None:
    asleep = trainer.post("/sleep?level=2")
    assert (asleep["is_sleeping"], asleep["sleep_level"]) == (True, 2)
    nbytes = trainer.get("/weight_info")["models"][0]["nbytes"]
    assert asleep["freed_bytes"] >= nbytes
    trainer.post("/wake_up?tags=weights")
    trainer.post("/update_weights", path=str(root / "same"), version="step-2")
    trainer.post("/wake_up?tags=kv_cache")
    told = trainer.generate()
    assert told["choices"][0]["token_ids"] == whole
    assert told["weight_version"] == "step-2"
    trainer.post("/sleep?level=2&keeps=drop")
    status, message = trainer.refused("/wake_up")
    assert status == 409 and "weights" in message
    trainer.post("/update_weights", path=str(root / "same"), version="step-3")
    trainer.post("/wake_up")
    assert trainer.generate()["choices"][0]["token_ids"] == whole


def test_weights_that_cannot_be_used_change_nothing(
    trainer: Trainer, root: Path, whole: list[int]
) -> None:
    for name in ("empty", "none", "../weights"):
        status, message = trainer.refused("/update_weights", path=str(root / name))
        assert status == 400, message
    assert trainer.get("/weight_info")["weight_version"] == "same"
    assert trainer.generate()["choices"][0]["token_ids"] == whole


def test_requests_are_ended_by_id_and_all(
    server: RunningServer, trainer: Trainer
) -> None:
    def ask(request_id: str, found: dict[str, Any]) -> None:
        answer = server.openai.completions.create(
            model="demo",
            prompt=PROMPT,
            max_tokens=LENGTH,
            extra_body={"ignore_eos": True, "request_id": request_id},
        )
        found[request_id] = answer.choices[0].finish_reason

    ends: dict[str, Any] = {}
    trainer.post("/pause?mode=keep")
    asking = [threading.Thread(target=ask, args=(name, ends)) for name in "abc"]
    for thread in asking:
        thread.start()
    while trainer.get("/is_paused")["waiting"] < 3:
        time.sleep(0.01)
    assert trainer.post("/abort_requests", request_ids=["b"])["aborted"] == 1
    asking[1].join(20)
    assert ends == {"b": "abort"}
    assert trainer.post("/abort_requests")["aborted"] == 2
    for thread in asking:
        thread.join(20)
    assert ends == dict.fromkeys("abc", "abort")
    trainer.post("/resume")


def test_operators_see_the_same_over_grpc(
    server: RunningServer, trainer: Trainer, root: Path
) -> None:
    with grpc.insecure_channel(server.doors["admin"]) as channel:
        stub = rpc.AdminStub(channel)
        request = pb.UpdateWeightsRequest(path=str(root / "same"), version="by-grpc")
        assert stub.UpdateWeights(request, timeout=60).version == "by-grpc"
        assert trainer.get("/weight_info")["weight_version"] == "by-grpc"
        assert stub.Pause(pb.PauseRequest(), timeout=60).state.is_paused
        assert trainer.get("/is_paused")["is_paused"] is True
        assert not stub.Resume(pb.ResumeRequest(), timeout=60).state.is_paused
        assert stub.Sleep(pb.SleepRequest(), timeout=60).state.sleep_level == 1
        assert trainer.get("/is_sleeping")["is_sleeping"] is True
        assert stub.Wake(pb.WakeRequest(), timeout=60).state.sleep_level == 0
        trainer.generate(count=20)
        reset = stub.ResetPrefixCache(pb.ResetPrefixCacheRequest(), timeout=60)
        assert reset.HasField("pages")


def test_metrics_count_updates_and_no_route_of_it_is_public(
    server: RunningServer, trainer: Trainer
) -> None:
    def metric(name: str) -> float:
        with urllib.request.urlopen(f"http://{server.http}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        (line,) = [line for line in lines if line.startswith(f"{name}")]
        return float(line.rpartition(" ")[2])

    updates = trainer.get("/weight_info")["models"][0]["updates"]
    while metric('mell:weights_updates_total{model_name="demo"}') != updates:
        time.sleep(0.05)  # told twice a second
    assert metric("mell:paused") == 0
    for path in ("/pause", "/resume", "/update_weights", "/sleep", "/weight_info"):
        request = urllib.request.Request(f"http://{server.http}{path}", method="POST")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        assert caught.value.code == 404
        caught.value.close()
