"""What a request leaves out it gets from the model, at every door of `mell-serve`.

One server serves a model with a `generation_config.json`, one the same model with the
setting that takes the file's sampling away; both have the same seeds.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from smg_grpc_proto.generated import vllm_engine_pb2 as pb

from mell_jax.engine.build import demo_directory
from mell_jax.serving.proto import open_inference_pb2_grpc as kserve_rpc
from tests.serving.kserve.asking import ask, texts_of
from tests.serving.running import RunningServer

PROMPT = "Once upon a time"
MODEL = {"temperature": 0.6, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.3}
NEUTRAL = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
HOT = {"temperature": 3.0, "top_p": 1.0}  # where more than 20 tokens have a chance
FIXED = {"seed": 11, "max_tokens": 40, "n": 3, "ignore_eos": True}
Params = Mapping[str, Any]


def of_vllm(server: RunningServer, params: Params) -> list[str]:
    request = pb.GenerateRequest(
        text=PROMPT, sampling_params=pb.SamplingParams(**{**FIXED, **params})
    )
    parts = sorted(server.stub.Generate(request), key=lambda part: part.complete.index)
    return [str(list(part.complete.output_ids)) for part in parts]


def of_kserve(server: RunningServer, params: Params) -> list[str]:
    stub = kserve_rpc.GRPCInferenceServiceStub(server.channel)
    return texts_of(stub.ModelInfer(ask(PROMPT, sampling={**FIXED, **params})))


def _openai(params: Params) -> dict[str, Any]:
    """The arguments of OpenAI's client, to which some of ours are unknown."""
    given = {"model": "demo", **FIXED, **params}
    ours = {"top_k", "min_p", "repetition_penalty", "ignore_eos"} & given.keys()
    extra = {name: given.pop(name) for name in ours}
    return {**given, "extra_body": extra}


def of_completions(server: RunningServer, params: Params) -> list[str]:
    answer = server.openai.completions.create(prompt=PROMPT, **_openai(params))
    return [choice.text for choice in answer.choices]


def of_chat(server: RunningServer, params: Params) -> list[str]:
    answer = server.openai.chat.completions.create(
        messages=[{"role": "user", "content": PROMPT}], **_openai(params)
    )
    return [str(choice.message.content) for choice in answer.choices]


DOORS: dict[str, Callable[[RunningServer, Params], list[str]]] = {
    "vllm": of_vllm,
    "kserve": of_kserve,
    "completions": of_completions,
    "chat": of_chat,
}
WITHOUT_PRESENCE = {"vllm"}  # where 0 is said like nothing at all
by_door = pytest.mark.parametrize("door", DOORS)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "demo"
    shutil.copytree(demo_directory(), path)
    file = path / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **MODEL}))
    return path


@pytest.fixture(scope="module")
def server(compiled_dir: Path, directory: Path) -> Iterator[RunningServer]:
    running = RunningServer(compiled_dir, flags=(f"--model={directory}",))
    yield running
    running.close()


@pytest.fixture(scope="module")
def plain(compiled_dir: Path, directory: Path) -> Iterator[RunningServer]:
    running = RunningServer(
        compiled_dir,
        flags=(f"--model={directory}",),
        settings='generation_config = "none"\n',
    )
    yield running
    running.close()


@by_door
def test_a_request_that_says_nothing_gets_what_the_model_proposes(
    server: RunningServer, plain: RunningServer, door: str
) -> None:
    said = DOORS[door](server, {})
    assert said == DOORS[door](server, MODEL) == DOORS[door](plain, MODEL)
    assert said != DOORS[door](plain, {})
    assert len(set(said)) == FIXED["n"]  # drawn, not the likeliest


@by_door
def test_the_setting_takes_it_away(plain: RunningServer, door: str) -> None:
    assert DOORS[door](plain, {}) == DOORS[door](plain, NEUTRAL)


SAID = (  # what a request says, and what it says beside
    ({"temperature": 1.0}, {}),
    ({"temperature": 0.0}, {}),
    ({"top_p": 1.0}, {}),
    ({"top_k": 2**31 - 1}, HOT),
    ({"top_k": 0}, HOT),
    ({"top_k": -1}, HOT),
    ({"top_k": 5}, HOT),
    ({"min_p": 0.3}, HOT),
    ({"repetition_penalty": 1.0}, {}),
)


@pytest.mark.parametrize(
    ("door", "given", "beside"),
    [
        (door, given, beside)
        for door in DOORS
        for given, beside in SAID
        if door not in WITHOUT_PRESENCE or given.get("top_k") not in (0, -1)
    ],
    ids=str,
)
def test_what_a_request_says_wins(
    server: RunningServer,
    plain: RunningServer,
    door: str,
    *,
    given: Params,
    beside: Params,
) -> None:
    said = DOORS[door](server, {**beside, **given})
    assert said == DOORS[door](plain, {**MODEL, **beside, **given})
    assert said != DOORS[door](server, beside)


@pytest.mark.parametrize("door", sorted(DOORS.keys() - WITHOUT_PRESENCE))
def test_null_leaves_it_to_the_model(server: RunningServer, door: str) -> None:
    nothing = dict.fromkeys(MODEL)
    assert DOORS[door](server, nothing) == DOORS[door](server, {})


def test_zero_without_presence_leaves_it_to_the_model(server: RunningServer) -> None:
    zeros = {"top_k": 0, "top_p": 0.0, "min_p": 0.0, "repetition_penalty": 0.0}
    assert of_vllm(server, zeros) == of_vllm(server, {})


def test_the_start_tells_it_once(server: RunningServer, plain: RunningServer) -> None:
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (told,) = [line for line in lines if line["event"] == "sampling_defaults"]
    assert MODEL.items() <= told.items()
    words = "get temperature 0.6, top_p 0.8, top_k 20, repetition_penalty 1.3"
    assert re.match(rf"demo: requests .* {words} \(", told["message"])
    assert "sampling_defaults" not in plain.log.read_text()


def test_gateways_are_told(server: RunningServer, plain: RunningServer) -> None:
    told = server.stub.GetModelInfo(pb.GetModelInfoRequest())
    assert json.loads(told.default_sampling_params_json) == MODEL
    told = plain.stub.GetModelInfo(pb.GetModelInfoRequest())
    assert told.default_sampling_params_json == ""
