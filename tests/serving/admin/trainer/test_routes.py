"""Trainers' routes on a real socket, before an administration done in one's head."""

import json
from typing import Any

import pytest

from mell_jax.engine.admin import (
    AbortOpen,
    AskServing,
    NameWeights,
    Pause,
    ResetPrefixCache,
    Resume,
    Sleep,
    Wake,
)
from tests.serving.admin.fake_administration import FakeAdministration
from tests.serving.admin.trainer.conftest import Stage

STEP = "/step"


@pytest.mark.parametrize(
    ("path", "body", "mode"),
    [
        ("/pause", None, "abort"),
        ("/pause?mode=abort", None, "abort"),
        ("/pause?mode=wait", None, "wait"),
        ("/pause?mode=keep&clear_cache=false", None, "keep"),
        ("/pause?wait_for_inflight_requests=True", None, "wait"),
        ("/pause?wait_for_inflight_requests=false", None, "abort"),
        ("/pause", {"mode": "keep"}, "keep"),
        ("/pause_generation", {}, "abort"),
        ("/pause_generation", {"mode": "in_place"}, "keep"),
        ("/pause_generation", {"mode": "abort"}, "abort"),
    ],
)
def test_a_pause_is_asked_for_in_the_words_of_either_engine(
    path: str, body: object, mode: Any, stage: Stage
) -> None:
    assert stage.client.get("/is_paused").json()["is_paused"] is False
    told = stage.post(path, body)
    assert (told["status"], told["is_paused"]) == ("paused", True)
    assert stage.fake.asked == [AskServing(), Pause(mode=mode)]
    assert stage.client.get("/is_paused").json()["is_paused"] is True


@pytest.mark.parametrize("path", ["/resume", "/continue_generation"])
def test_a_pause_ends(path: str, stage: Stage) -> None:
    stage.post("/pause")
    told = stage.post(path, {"torch_empty_cache": True})
    assert (told["status"], told["is_paused"]) == ("resumed", False)
    assert stage.fake.asked[1:] == [Resume()]


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/sleep", Sleep(level=1, mode="abort")),
        ("/sleep?level=1", Sleep(level=1, mode="abort")),
        ("/sleep?level=2&mode=abort", Sleep(level=2, mode="abort")),
        ("/sleep?level=2&mode=keep", Sleep(level=2)),
        ("/sleep?level=2&mode=keep&keeps=drop", Sleep(level=2, keeps="drop")),
        ("/sleep?mode=wait", Sleep(level=1, mode="wait")),
    ],
)
def test_sleep_ends_open_requests_as_vllm_does_unless_told_otherwise(
    path: str, asked: Sleep, stage: Stage
) -> None:
    told = stage.post(path)
    assert told["is_sleeping"] is True
    assert told["freed_bytes"] == 4000 * told["sleep_level"]
    assert stage.fake.asked == [asked]
    assert stage.client.get("/is_sleeping").json()["is_sleeping"] is True
    assert stage.client.get("/is_paused").json()["is_paused"] is False


@pytest.mark.parametrize("mode", ["abort", "wait", "keep"])
def test_a_sleep_that_is_refused_is_all_that_was_asked(mode: str, stage: Stage) -> None:
    stage.fake.has_host_memory = False
    answer = stage.client.post(f"/sleep?mode={mode}&level=2")
    assert answer.status_code == 409
    assert len(stage.fake.asked) == 1


def test_a_pause_from_before_outlasts_a_sleep_that_waits(stage: Stage) -> None:
    stage.post("/pause?mode=keep")
    assert stage.post("/sleep?mode=wait")["is_paused"] is True
    assert stage.post("/wake_up")["is_paused"] is True


@pytest.mark.parametrize(
    ("body", "level"),
    [
        ({}, 2),
        (None, 2),
        ({"tags": None}, 2),
        ({"tags": ["kv_cache"]}, 1),
        ({"tags": ["weights"]}, 2),
        ({"tags": ["weights", "kv_cache"]}, 2),
    ],
)
def test_memory_is_given_back_and_taken_again_by_tags(
    body: object, level: Any, stage: Stage
) -> None:
    told = stage.post("/release_memory_occupation", body)
    assert told["sleep_level"] == level
    assert stage.fake.asked == [Sleep(level=level)]
    assert stage.post("/resume_memory_occupation", body)["is_sleeping"] is False


def test_a_wake_of_weights_alone_leaves_dropped_ones_to_the_update(
    stage: Stage,
) -> None:
    stage.post("/sleep?level=2&keeps=drop")
    assert stage.client.post("/wake_up").status_code == 409
    told = stage.post("/wake_up?tags=weights")
    assert (told["is_sleeping"], told["models"][0]["is_dropped"]) == (True, True)
    assert stage.fake.asked[-1] == AskServing(), "nobody is woken"
    stage.fake.state = FakeAdministration().state  # as an update leaves it
    stage.post("/wake_up?tags=weights")
    assert stage.fake.asked[-1] == Wake()
    assert stage.post("/wake_up?tags=weights&tags=kv_cache")["status"] == "awake"


@pytest.mark.parametrize(
    "body",
    [
        {"path": STEP, "version": "s7"},
        {"path": STEP, "weight_version": "s7", "model": None},
        {"model_path": STEP, "weight_version": "s7", "load_format": "auto"},
        {"update_info": {"path": STEP, "version": "s7"}},
        {"update_info": {"model_path": STEP}, "weight_version": "s7"},
        {"path": STEP, "model_path": STEP, "version": "s7", "weight_version": "s7"},
        {
            **{"model_path": STEP, "weight_version": "s7", "flush_cache": True},
            **{"is_async": False, "torch_empty_cache": False, "keep_pause": False},
            **{"recapture_cuda_graph": False, "token_step": 3, "load_format": None},
            "abort_all_requests": False,
        },
    ],
)
@pytest.mark.parametrize("path", ["/update_weights", "/update_weights_from_disk"])
def test_weights_come_from_a_path_in_the_words_of_either_engine(
    path: str, body: dict[str, Any], stage: Stage
) -> None:
    said = json.loads(json.dumps(body).replace(STEP, str(stage.root / "step-1")))
    told = stage.post(path, said)
    assert told == {
        **{"success": True, "message": "Weights updated", "weight_version": "s7"},
        **{"model": "letters", "nbytes": 1000, "restarted": 0, "aborted": 0},
        "num_paused_requests": 0,
    }
    assert stage.fake.loads == [("step-1", 1)]
    for name in ("/weight_info", "/weight_version", "/get_weight_version"):
        info = stage.client.get(name).json()
        assert info["weight_version"] == "s7"
        assert [each["updates"] for each in info["models"]] == [1, 0]


@pytest.mark.parametrize(
    ("more", "restarted", "aborted"),
    [
        ({"open_requests": "keep"}, 0, 0),
        ({"open_requests": "restart"}, 3, 0),
        ({"open_requests": "abort"}, 0, 2),
        ({"abort_all_requests": True}, 0, 2),
        ({"abort_all_requests": True, "open_requests": "abort"}, 0, 2),
    ],
)
def test_an_update_says_what_becomes_of_open_requests(
    more: dict[str, Any], restarted: int, aborted: int, stage: Stage
) -> None:
    body = {"path": str(stage.root / "step-1"), **more}
    told = stage.post("/update_weights", body)
    assert (told["restarted"], told["aborted"]) == (restarted, aborted)


def test_an_update_without_a_version_is_numbered_and_may_be_named_later(
    stage: Stage,
) -> None:
    body = {"path": str(stage.root / "step-1"), "model": "digits"}
    assert stage.post("/start_weight_update", {})["status"] == "started"
    assert stage.post("/update_weights", body)["weight_version"] == "1"
    named = stage.post("/update_weight_version", {"new_version": 40})
    assert (named["success"], named["new_version"]) == (True, "40")
    assert stage.fake.asked[-1] == NameWeights(version="40")
    finished = stage.post("/finish_weight_update", {"weight_version": "step-41"})
    assert finished["weight_version"] == "step-41"
    assert stage.post("/finish_weight_update")["status"] == "finished"
    assert stage.client.get("/weight_info").json()["models"] == [
        {"model": "letters", "weight_version": "step-41", **FIRST},
        {"model": "digits", "weight_version": "1", **UPDATED},
    ]


FIRST = {"updates": 0, "nbytes": 1000, "is_dropped": False}
UPDATED = {"updates": 1, "nbytes": 1000, "is_dropped": False}


@pytest.mark.parametrize(
    ("body", "aborted", "ids"),
    [
        (None, 5, []),
        ({}, 5, []),
        ({"request_ids": [], "abort_all": True}, 5, []),
        ({"abort_all": True}, 5, []),
        ({"rid": "", "abort_all": True}, 5, []),
        ({"request_ids": ["a", "b"]}, 2, ["a", "b"]),
        ({"rid": "a", "abort_all": False}, 1, ["a"]),
    ],
)
@pytest.mark.parametrize("path", ["/abort_requests", "/abort_request"])
def test_requests_are_ended_by_id_or_all(
    path: str, body: object, aborted: int, ids: list[str], stage: Stage
) -> None:
    told = stage.post(path, body)
    assert (told["status"], told["aborted"]) == ("aborted", aborted)
    assert stage.fake.aborted == ids
    assert stage.fake.asked == ([] if ids else [AbortOpen()])


def test_a_list_of_no_requests_ends_none(stage: Stage) -> None:
    assert stage.post("/abort_requests", {"request_ids": []})["aborted"] == 0
    assert (stage.fake.aborted, stage.fake.asked) == ([], [])


@pytest.mark.parametrize("path", ["/reset_prefix_cache", "/flush_cache"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_cached_pages_are_forgotten(path: str, method: str, stage: Stage) -> None:
    assert stage.client.request(method, path).json() == {"success": True, "pages": 7}
    stage.client.post(f"{path}?reset_running_requests=false&model=digits&timeout=3")
    assert stage.fake.asked == [ResetPrefixCache(), ResetPrefixCache(model="digits")]


def test_the_world_is_all_devices_or_those_of_one_instance(stage: Stage) -> None:
    sizes = [
        stage.client.get(f"/get_world_size{query}").json()
        for query in ("", "?include_dp=true", "?include_dp=false", "?include_dp=0")
    ]
    assert [each["world_size"] for each in sizes] == [6, 6, 2, 2]
