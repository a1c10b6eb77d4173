"""Bearer tokens: who may come in, as whom, and what changes with the file."""

import json
import os
from pathlib import Path
from typing import Any

import grpc
import httpx2
import openai
import pytest
from smg_grpc_proto import vllm_engine_pb2 as pb

from mell_jax.engine.params import InvalidRequestError
from mell_jax.frontend import Caller
from mell_jax.serving.problem import ForbiddenError, UnauthenticatedError
from mell_jax.serving.security.config import SecurityConfig
from mell_jax.serving.security.gate import Gate
from tests.serving.harness import Harness, error_of, ids_request, run, serving

ALICE, BOB, GATEWAY, PROBE, WRITER = (f"{name}-0123456789abcdef" for name in "abgpw")
TOKENS = [
    {"token": ALICE, "tenant": "alice"},
    {"token": BOB, "tenant": "bob", "rights": ["generate"]},
    {"token": GATEWAY, "tenant": "gw", "rights": ["generate", "act_for_tenants"]},
    {"token": PROBE, "tenant": "prometheus", "rights": ["metrics"]},
    {"token": WRITER, "tenant": "w", "rights": ["generate", "special_tokens"]},
]


def write(path: Path, tokens: list[dict[str, Any]] = TOKENS) -> str:
    path.write_text(json.dumps({"tokens": tokens}))
    return str(path)


@pytest.fixture
def tokens_file(tmp_path: Path) -> str:
    return write(tmp_path / "tokens.json")


def bearer(token: str, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}", **more}


def metadata(token: str, **more: str) -> tuple[tuple[str, str], ...]:
    return tuple(bearer(token, **more).items())


def test_without_tokens_everybody_is_who_he_says() -> None:
    gate = Gate("")
    assert gate.identify({}) == Caller.of_library()
    assert gate.identify({"x-mell-tenant": "a"}) == Caller(
        tenant="a", scope="", may_send_special_tokens=True
    )
    assert gate.identify(bearer("any")) == Caller.of_library()
    assert gate.identify({}, right="metrics") == Caller.of_library()


def test_a_token_says_who_calls(tokens_file: str) -> None:
    gate = Gate(tokens_file)
    assert gate.identify({"x-api-key": ALICE}).tenant == "alice"
    alice = Caller(tenant="alice", scope="alice", may_send_special_tokens=False)
    assert gate.identify(bearer(ALICE)) == alice
    assert gate.identify({"authorization": f"bearer  {ALICE}"}) == alice
    assert gate.identify(bearer(ALICE, **{"x-mell-tenant": "alice"})) == alice
    with pytest.raises(ForbiddenError, match="another tenant"):
        gate.identify(bearer(ALICE, **{"x-mell-tenant": "bob"}))
    acting = gate.identify(bearer(GATEWAY, **{"x-mell-tenant": "carol"}))
    assert acting == Caller(tenant="carol", scope="gw", may_send_special_tokens=True)


def test_weights_are_those_of_tenants_whoever_asks_for_them(tmp_path: Path) -> None:
    tokens = [
        {"token": ALICE, "tenant": "alice", "weight": 2.5},
        {"token": ALICE + "2", "tenant": "alice"},
        {"token": BOB, "tenant": "bob"},
        {"token": GATEWAY, "tenant": "gw", "rights": ["generate", "act_for_tenants"]},
    ]
    gate = Gate(write(tmp_path / "tokens.json", tokens))
    assert gate.identify(bearer(ALICE)).weight == 2.5
    assert gate.identify(bearer(ALICE + "2")).weight == 2.5
    assert gate.identify(bearer(BOB)).weight == 1.0
    for name, weight in (("alice", 2.5), ("carol", 1.0)):
        caller = gate.identify(bearer(GATEWAY, **{"x-mell-tenant": name}))
        assert caller.weight == weight


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (0, r"tokens\[0\].weight must be a number above 0, got 0"),
        (-1.5, r"tokens\[0\].weight must be a number above 0, got -1.5"),
        ("2", "holds no tokens"),
        (True, "holds no tokens"),
    ],
)
def test_a_weight_is_a_number_above_zero(
    tmp_path: Path, weight: object, words: str
) -> None:
    tokens = [{"token": ALICE, "tenant": "alice", "weight": weight}]
    with pytest.raises(ValueError, match=words):
        Gate(write(tmp_path / "tokens.json", tokens))


def test_a_tenant_has_one_weight(tmp_path: Path) -> None:
    tokens = [
        {"token": ALICE, "tenant": "alice", "weight": 2},
        {"token": BOB, "tenant": "alice", "weight": 3},
    ]
    with pytest.raises(ValueError, match="'alice' has the weights 2 and 3; give it"):
        Gate(write(tmp_path / "tokens.json", tokens))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": f"Basic {ALICE}"},
        {"authorization": ALICE},
        bearer(ALICE + "x"),
        bearer(ALICE[:-1]),
        bearer("ä" * 20),
        bearer("\udcff"),
    ],
)
def test_who_is_not_known_does_not_come_in(
    tokens_file: str, headers: dict[str, str]
) -> None:
    with pytest.raises(UnauthenticatedError):
        Gate(tokens_file).identify(headers)


def test_a_token_is_good_for_its_rights_alone(tokens_file: str) -> None:
    gate = Gate(tokens_file)
    with pytest.raises(ForbiddenError, match="lacks the right 'generate'"):
        gate.identify(bearer(PROBE))
    with pytest.raises(ForbiddenError, match="lacks the right 'admin'"):
        gate.identify(bearer(ALICE), right="admin")
    assert gate.identify(bearer(PROBE), right="metrics").tenant == "prometheus"


def test_special_tokens_are_for_those_with_the_right_and_for_gateways(
    tokens_file: str,
) -> None:
    def may(gate: Gate, token: str) -> bool:
        return gate.identify(bearer(token)).may_send_special_tokens

    gate = Gate(tokens_file)
    assert [may(gate, token) for token in (ALICE, BOB)] == [False, False]
    assert [may(gate, token) for token in (WRITER, GATEWAY)] == [True, True]
    assert may(Gate(""), ALICE)


@pytest.mark.parametrize("tenant", ["", "a b", "a" * 129, "ä", b"a"])
def test_a_strange_tenant_is_refused(tenant: str | bytes) -> None:
    with pytest.raises(InvalidRequestError, match="x-mell-tenant must be"):
        Gate("").identify({"x-mell-tenant": tenant})


def test_a_changed_file_is_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tokens.json"
    now = [0.0]
    gate = Gate(write(path), clock=lambda: now[0])

    def change(text: str, *, at_s: float) -> None:
        path.write_text(text)
        os.utime(path, (at_s, at_s))
        now[0] = at_s

    carol = {"token": "carol-0123456789abc", "tenant": "carol"}
    change(json.dumps({"tokens": [carol]}), at_s=10.0)
    with pytest.raises(UnauthenticatedError):
        gate.identify(bearer(ALICE))
    assert gate.identify(bearer("carol-0123456789abc")).tenant == "carol"
    change('{"tokens": [', at_s=20.0)
    assert gate.identify(bearer("carol-0123456789abc")).tenant == "carol"
    assert "kept what was read before" in caplog.text
    path.unlink()
    now[0] = 30.0
    assert gate.identify(bearer("carol-0123456789abc")).tenant == "carol"
    assert "carol-01" not in caplog.text
    write(path)
    now[0] = 40.0
    assert gate.identify(bearer(ALICE)).tenant == "alice"


@pytest.mark.parametrize(
    ("tokens", "rule"),
    [
        ([{"token": "short", "tenant": "a"}], "must be 16 to 512 printable"),
        ([{"token": "a b" * 9, "tenant": "a"}], "must be 16 to 512 printable"),
        ([{"token": ALICE, "tenant": "a b"}], r"\[0\].tenant must be 1 to 128"),
        ([{"token": ALICE, "tenant": "a", "rights": ["root"]}], "got 'root'"),
        ([{"token": ALICE, "tenant": "a", "right": []}], "unknown field `right`"),
        ([{"token": ALICE}], "missing required field `tenant`"),
        ([TOKENS[0], TOKENS[0]], "a token is there twice"),
    ],
)
def test_a_file_of_no_use_is_refused_without_quoting_tokens(
    tmp_path: Path, tokens: list[dict[str, Any]], rule: str
) -> None:
    with pytest.raises(ValueError, match=rule) as told:
        Gate(write(tmp_path / "tokens.json", tokens))
    assert ALICE not in str(told.value)


async def submits_of(s: Harness, token: str, **options: Any) -> Any:
    await s.collect(ids_request(1, max_tokens=1, **options), metadata=metadata(token))
    return s.engine.submits[-1]


def test_both_doors_want_a_token(letters_dir: Path, tokens_file: str) -> None:
    async def scenario() -> None:
        security = SecurityConfig(tokens_file=tokens_file)
        async with (
            serving(directory=letters_dir, http_port=0, security=security) as s,
            httpx2.AsyncClient(base_url=f"http://{s.http}") as http,
        ):
            error = await error_of(s.collect(ids_request(1)))
            assert error.code() == grpc.StatusCode.UNAUTHENTICATED
            error = await error_of(s.collect(ids_request(1), metadata=metadata(PROBE)))
            assert error.code() == grpc.StatusCode.PERMISSION_DENIED
            error = await error_of(s.stub.GetModelInfo(pb.GetModelInfoRequest()))
            assert error.code() == grpc.StatusCode.UNAUTHENTICATED
            assert (await submits_of(s, ALICE)).salt == b"alice"
            assert (await http.get("/health")).status_code == 200
            assert (await http.get("/metrics")).status_code == 401
            allowed = await http.get("/metrics", headers=bearer(PROBE))
            assert allowed.status_code == 200
            denied = await http.get("/metrics", headers=bearer(ALICE))
            assert denied.status_code == 403
            assert (await http.get("/v1/models")).status_code == 401
            big = await http.post("/v1/completions", content=b"x" * 5_000_000)
            assert big.status_code == 401  # before a byte of it is read
            async with openai.AsyncOpenAI(
                api_key=BOB, base_url=f"http://{s.http}/v1"
            ) as client:
                await client.completions.create(model="letters", prompt="c")
                assert s.engine.submits[-1].salt == b"bob"
                assert [model.id async for model in client.models.list()]
            with pytest.raises(openai.AuthenticationError) as caught:
                async with openai.AsyncOpenAI(
                    api_key="wrong", base_url=f"http://{s.http}/v1"
                ) as client:
                    await client.completions.create(model="letters", prompt="c")
            assert caught.value.code == "invalid_api_key"

    run(scenario)


def test_nobody_ends_the_requests_of_others(tokens_file: str) -> None:
    async def scenario() -> None:
        security = SecurityConfig(tokens_file=tokens_file)
        async with serving(is_manual=True, security=security) as s:
            mine, theirs = (
                s.stub.Generate(
                    ids_request(1, request_id="r"), metadata=metadata(token)
                )
                for token in (ALICE, BOB)  # the same id is no conflict
            )
            await s.until(lambda: len(s.engine.submits) == 2)
            await s.stub.Abort(
                pb.AbortRequest(request_ids=["r", "bob/r"]), metadata=metadata(ALICE)
            )
            await s.until(lambda: len(s.engine.aborts) == 1)
            s.engine.step()
            assert [part async for part in mine][-1].complete.finish_reason == "abort"
            assert (await theirs.read()).chunk.token_ids == [1]
            theirs.cancel()
            await s.until(lambda: len(s.engine.aborts) == 2)
            await s.idle()

    run(scenario)
