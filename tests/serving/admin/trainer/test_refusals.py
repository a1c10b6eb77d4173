"""What trainers' routes refuse, with which status, and that nothing is done then."""

import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mell_jax.serving.address import BindError
from mell_jax.serving.admin.controls import Controls
from mell_jax.serving.admin.trainer.door import TrainerDoor
from mell_jax.serving.admin.trainer.port import check_trainer_port, serving_trainers
from mell_jax.serving.config import ServerConfig
from mell_jax.serving.security.config import SecurityConfig
from tests.serving.admin.fake_administration import FakeAdministration, trainers
from tests.serving.admin.trainer.conftest import Stage
from tests.serving.certificates import Authority
from tests.serving.security.test_tokens import ALICE, PROBE, TOKENS, bearer, write

RUNNING = ("reset_running_requests", "/abort_requests")
OPERATOR = "o-0123456789abcdef"
NOT_HERE = (
    "/init_weight_transfer_engine",
    "/init_weights_update_group",
    "/destroy_weights_update_group",
    "/update_weights_from_tensor",
    "/update_weights_from_distributed",
    "/update_weights_from_ipc",
    "/start_draft_weight_update",
    "/get_weights_by_name",
    "/weight_checker",
    "/weights_checker",
    "/collective_rpc",
)


@pytest.mark.parametrize(
    ("path", "body", "field", "words"),
    [
        ("/pause?mode=stop", None, "mode", "one of abort, wait, keep, in_place, got"),
        ("/pause?mode=keep&mode=wait", None, "mode", "given twice"),
        ("/pause_generation", {"mode": "retract"}, "mode", "open_requests=restart"),
        ("/pause", {"mode": 3}, "mode", "wrong type"),
        ("/pause", [1], "body", "must be an object"),
        ("/sleep?level=3", None, "level", "one of 1, 2, got 3"),
        ("/sleep?level=deep", None, "level", "wrong type"),
        ("/sleep?keeps=disk", None, "keeps", "one of host, drop"),
        ("/sleep?mode=never", None, "mode", "one of"),
        ("/wake_up?tags=cuda_graph", None, "tags", "may be weights, kv_cache"),
        ("/abort_requests", {"abort_all": False}, "rid", "is required"),
        ("/abort_requests", {"rid": ""}, "rid", "is empty: name one, or set"),
        ("/abort_requests", {"abort_all": True, "rid": "a"}, "abort_all", "beside ids"),
        ("/update_weight_version", {}, "new_version", "is required"),
        ("/update_weight_version", {"new_version": ""}, "version", "1 to 256"),
        ("/update_weight_version", {"new_version": "a\nb"}, "version", "printable"),
        (
            "/update_weight_version",
            {"new_version": "a", "abort_all_requests": True},
            "abort_all_requests",
            "/abort_requests",
        ),
        (
            "/finish_weight_update",
            {"new_version": "a", "weight_version": "b"},
            "new_version",
            "differs from weight_version",
        ),
        (
            "/flush_cache?reset_running_requests=true",
            None,
            *RUNNING,
        ),
        ("/get_world_size?include_dp=maybe", None, "include_dp", "wrong type"),
    ],
)
def test_a_mistake_is_a_400_that_names_the_field(
    path: str, body: object, field: str, words: str, stage: Stage
) -> None:
    method = "GET" if path.startswith("/get") else "POST"
    answer = stage.client.request(method, path, json=body or None)
    assert answer.status_code == 400, answer.text
    told = answer.json()
    assert told["error"]["param"] == field
    assert words in told["error"]["message"]
    assert (told["success"], told["message"]) == (False, told["error"]["message"])
    assert stage.fake.asked == []


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({}, "path", "is required"),
        ({"update_info": {}}, "path", "is required"),
        ({"update_info": {"names": ["a"]}}, "update_info", "NCCL"),
        ({"path": "STEP", "load_format": "dummy"}, "load_format", "from the files"),
        ({"path": "STEP", "manifest": {"a": 1}}, "manifest", "whole checkpoint"),
        ({"path": "STEP", "model_path": "/b"}, "path", "differs from model_path"),
        ({"path": "STEP", "update_info": {"path": "/b"}}, "path", "differs from"),
        ({"path": "STEP", "open_requests": "drop"}, "open_requests", "keep, restart"),
        (
            {"path": "STEP", "open_requests": "keep", "abort_all_requests": True},
            "open_requests",
            "abort_all_requests is set",
        ),
        ({"path": "STEP", "version": "x" * 257}, "version", "1 to 256"),
        ({"path": "STEP", "version": "a\u0000"}, "version", "printable"),
        ({"path": "step-1"}, "path", "must be absolute"),
        ({"path": "ROOT/none"}, "path", "does not exist"),
        ({"path": "ROOT/../secret"}, "path", "must lie in a folder of"),
        ({"path": "ROOT/link"}, "path", "must lie in a folder of"),
        ({"path": "ROOT/circle"}, "path", "cannot be followed"),
        ({"path": "/etc/passwd"}, "path", "must lie in a folder of"),
        ({"path": "/no/such/file"}, "path", "must lie in a folder of"),
        ({"path": "ROOT/" + "x" * 300}, "path", "cannot be followed"),
        ({"path": "ROOT/a\u0000b"}, "path", "must be absolute"),
    ],
)
def test_an_update_that_is_wrong_is_refused_before_anything_is_loaded(
    body: dict[str, Any], field: str, words: str, stage: Stage
) -> None:
    said = {
        name: value.replace("STEP", str(stage.root / "step-1")).replace(
            "ROOT", str(stage.root)
        )
        if isinstance(value, str)
        else value
        for name, value in body.items()
    }
    answer = stage.client.post("/update_weights", json=said)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == field
    assert words in error["message"]
    assert (stage.fake.loads, stage.fake.asked) == ([], [])


def test_links_inside_of_a_folder_are_followed(stage: Stage) -> None:
    answer = stage.client.post(
        "/update_weights", json={"path": str(stage.root / "inner")}
    )
    assert answer.status_code == 200
    assert stage.fake.loads == [("step-1", 1)]


def test_without_folders_no_weights_come_from_a_path() -> None:
    fake = FakeAdministration()
    with trainers(fake) as client:
        answer = client.post("/update_weights", json={"path": "/"})
        assert answer.status_code == 400
        assert "weights_dirs" in answer.json()["message"]
    assert fake.loads == []


@pytest.mark.parametrize(
    ("name", "more", "status", "words"),
    [
        ("bad", {}, 400, "there is no model"),
        ("other", {}, 400, "has the shape (3, 4)"),
        ("unreadable", {}, 400, "Permission denied"),
        ("step-1", {"model": "ghost"}, 404, "no model 'ghost'"),
        ("broken", {}, 500, "inside the server"),
    ],
)
def test_weights_that_cannot_be_used_change_nothing(
    name: str, more: dict[str, str], status: int, words: str, stage: Stage
) -> None:
    before = stage.client.get("/weight_info").json()
    body = {"path": str(stage.root / name), **more}
    answer = stage.client.post("/update_weights", json=body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["message"]
    assert "secret" not in answer.json()["message"]
    assert stage.client.get("/weight_info").json() == before
    body = {"path": str(stage.root / "step-1")}
    assert stage.client.post("/update_weights", json=body).status_code == 200


@pytest.mark.parametrize("path", NOT_HERE)
def test_what_is_not_here_is_a_501_that_names_what_to_use(
    path: str, stage: Stage
) -> None:
    answer = stage.client.post(path, json={"init_info": {}})
    assert answer.status_code == 501
    told = answer.json()
    assert path in told["message"]
    assert told["error"]["type"] == "invalid_request_error"
    words = ("/update_weights", "checkpoint", "/weight_info", "mell.v1.Admin")
    assert any(word in told["message"] for word in words)
    assert stage.fake.asked == []


def test_updates_take_turns_and_the_doors_stay_open_meanwhile(root: Path) -> None:
    fake = FakeAdministration()
    fake.may_load.clear()
    with (
        trainers(fake, weights_dirs=(str(root),)) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        body = {"path": str(root / "step-1")}
        updates = [
            pool.submit(client.post, "/update_weights", json=body) for _ in range(6)
        ]
        refused: set[int] = set()
        while len(refused) < 2:  # four may wait or load
            refused = {n for n, update in enumerate(updates) if update.done()}
            assert client.get("/is_paused").status_code == 200
        for number in refused:
            answer = updates[number].result()
            assert answer.status_code == 429
            assert "retry-after" in answer.headers
        fake.may_load.set()
        answers = [
            update.result() for n, update in enumerate(updates) if n not in refused
        ]
        versions = sorted(answer.json()["weight_version"] for answer in answers)
        assert versions == ["1", "2", "3", "4"]
    assert fake.loads == [("step-1", 1)] * 4, "one at a time"


def test_an_engine_that_does_not_answer_is_a_503(root: Path) -> None:
    fake = FakeAdministration()
    fake.is_silent = True
    with trainers(fake, patience_s=0.05) as client:
        answer = client.post("/resume")
        assert answer.status_code == 503
        assert "has not answered in 0.1 s; nothing was done" in answer.json()["message"]


@pytest.mark.parametrize("path", ["/pause?mode=wait", "/sleep?mode=wait"])
def test_what_waits_for_open_requests_is_waited_for(path: str) -> None:
    fake = FakeAdministration()
    answers = []
    ask = fake.ask

    def hold(command: Any) -> Any:
        fake.is_silent = True
        answers.append(ask(command))
        return answers[-1]

    fake.ask = hold  # type: ignore[method-assign]
    with trainers(fake, patience_s=0.05) as client, ThreadPoolExecutor(1) as pool:
        paused = pool.submit(client.post, path)
        while not answers:
            time.sleep(0.001)
        time.sleep(0.1)
        assert not paused.done()
        answers[0].set_result(fake.state)
        assert paused.result().status_code == 200


def test_every_route_wants_a_token_of_an_operator(tmp_path: Path) -> None:
    operator = {"token": OPERATOR, "tenant": "ops", "rights": ["admin"]}
    tokens = write(tmp_path / "tokens.json", [*TOKENS, operator])
    fake = FakeAdministration()
    door = TrainerDoor(Controls(fake.ask))
    routes = [(route.path, route.methods[0]) for route in door.routes()]
    assert set(NOT_HERE) < {path for path, _ in routes}
    assert len(routes) == len(set(routes)) > 30
    security = SecurityConfig(tokens_file=tokens)
    with trainers(fake, security=security) as client:
        for path, method in routes:
            told = [
                client.request(method, path, headers=headers).status_code
                for headers in ({}, bearer("x" * 20), bearer(ALICE), bearer(PROBE))
            ]
            assert told == [401, 401, 403, 403], path
        assert fake.asked == []
        answer = client.get("/is_paused", headers=bearer(OPERATOR))
        assert answer.status_code == 200
        body = {"request_ids": ["a", "alice/b"]}
        client.post("/abort_requests", headers=bearer(OPERATOR), json=body)
        assert fake.aborted == ["ops/a", "ops/alice/b"], "ids of its own tenant"


def test_beyond_this_machine_the_routes_speak_tls_and_want_tokens(
    tmp_path: Path,
) -> None:
    authority = Authority("ours")
    cert, key = authority.sign("server").write(tmp_path, "server")
    operator = {"token": OPERATOR, "tenant": "ops", "rights": ["admin"]}
    security = SecurityConfig(
        tls_cert=cert,
        tls_key=key,
        tokens_file=write(tmp_path / "tokens.json", [operator]),
    )
    trust = ssl.create_default_context(cadata=authority.certificate.decode())
    controls = Controls(FakeAdministration().ask)
    for host, scheme in (("0.0.0.0", "https"), ("127.0.0.1", "http")):
        config = ServerConfig(
            admin_http_port=0, admin_http_host=host, security=security
        )
        with (
            serving_trainers(controls, config=config) as address,
            httpx2.Client(verify=trust, headers=bearer(OPERATOR)) as client,
        ):
            assert address is not None
            port = address.rpartition(":")[2]
            answer = client.get(f"{scheme}://127.0.0.1:{port}/is_paused")
            assert answer.status_code == 200
    controls.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://page.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 403),
        ({"sec-fetch-site": "none"}, 200),
        ({}, 200),
    ],
)
def test_a_web_page_may_not_administer(
    headers: dict[str, str], status: int, stage: Stage
) -> None:
    for method, path in (("POST", "/pause"), ("GET", "/flush_cache")):
        answer = stage.client.request(method, path, headers=headers)
        assert answer.status_code == status
    assert bool(stage.fake.asked) is (status == 200)


def test_names_that_nobody_knows_are_told(stage: Stage) -> None:
    answer = stage.client.post("/pause?mode=keep&colour=red")
    assert answer.headers["x-mell-unknown-fields"] == "colour"
    answer = stage.client.post("/pause?mode=keep", json={"mode": "wait"})
    assert answer.status_code == 400
    assert "not in both" in answer.json()["message"]


def test_a_port_that_is_taken_is_refused() -> None:
    before = set(threading.enumerate())
    with trainers(FakeAdministration()) as client:
        port = client.base_url.port
        assert port is not None
        with pytest.raises(
            BindError, match="choose another admin_http_host or admin_http"
        ):
            check_trainer_port("127.0.0.1", port=port)
    assert set(threading.enumerate()) <= before, "no thread is left"
