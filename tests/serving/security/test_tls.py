"""TLS and mTLS through both doors, with certificates good and bad."""

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

from mell_jax.serving.security.config import SecurityConfig
from mell_jax.serving.security.tls import TlsFiles
from tests.serving.certificates import Authority, Pair
from tests.serving.harness import Harness, error_of, ids_request, run, serving

OURS, THEIRS = Authority("ours"), Authority("theirs")
CLIENT = OURS.sign("client")


def secured(
    directory: Path,
    *,
    server: Pair | None = None,
    client_ca: Authority | None = None,
) -> SecurityConfig:
    pair = server or OURS.sign("server")
    cert, key = pair.write(directory, "server")
    ca = directory / "ca.pem"
    if client_ca is not None:
        ca.write_bytes(client_ca.certificate)
    return SecurityConfig(
        tls_cert=cert, tls_key=key, tls_client_ca="" if client_ca is None else str(ca)
    )


@asynccontextmanager
async def serving_tls(config: SecurityConfig) -> AsyncIterator[Harness]:
    async with serving(http_port=0, security=config) as s:
        yield s


async def ask_grpc(
    s: Harness, *, root: Authority = OURS, client: Pair | None = None
) -> str:
    """What comes of a call: "ok" or the name of its status."""
    credentials = grpc.ssl_channel_credentials(
        root_certificates=root.certificate,
        private_key=None if client is None else client.key,
        certificate_chain=None if client is None else client.certificate,
    )
    async with grpc.aio.secure_channel(s.address, credentials) as channel:
        call = pb_grpc.VllmEngineStub(channel).Generate(ids_request(1, max_tokens=1))
        try:
            parts = [part async for part in call]
        except grpc.aio.AioRpcError as error:
            return error.code().name
        assert parts[-1].complete.output_ids == [1]
        return "ok"


async def ask_http(
    s: Harness, tmp_path: Path, *, root: Authority = OURS, client: Pair | None = None
) -> str:
    """What comes of a request: "ok" or "refused"."""
    context = ssl.create_default_context(cadata=root.certificate.decode())
    if client is not None:
        context.load_cert_chain(*client.write(tmp_path, "asking"))
    try:
        async with httpx2.AsyncClient(verify=context) as session:
            answer = await session.get(f"https://{s.http}/health")
    except httpx2.TransportError:
        return "refused"
    assert answer.status_code == 200
    return "ok"


async def both(s: Harness, tmp_path: Path, **options: Any) -> tuple[str, str]:
    answers = await asyncio.gather(
        ask_grpc(s, **options), ask_http(s, tmp_path, **options)
    )
    return answers[0], answers[1]


def test_a_client_that_knows_the_authority_is_served(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving_tls(secured(tmp_path)) as s:
            assert await both(s, tmp_path) == ("ok", "ok")

    run(scenario)


def test_a_client_that_knows_another_authority_does_not_talk(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving_tls(secured(tmp_path)) as s:
            assert await both(s, tmp_path, root=THEIRS) == ("UNAVAILABLE", "refused")
            assert s.engine.submits == []

    run(scenario)


def test_an_expired_certificate_is_noticed(tmp_path: Path) -> None:
    async def scenario() -> None:
        expired = OURS.sign("server", days=-1)
        async with serving_tls(secured(tmp_path, server=expired)) as s:
            assert await both(s, tmp_path) == ("UNAVAILABLE", "refused")

    run(scenario)


def test_plain_text_is_not_spoken(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving_tls(secured(tmp_path)) as s:
            error = await error_of(s.collect(ids_request(1)))  # the harness's channel
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            with pytest.raises(httpx2.TransportError):
                async with httpx2.AsyncClient() as session:
                    await session.get(f"http://{s.http}/health")

    run(scenario)


@pytest.mark.parametrize(
    ("client", "answers"),
    [
        (CLIENT, ("ok", "ok")),
        (None, ("UNAVAILABLE", "refused")),
        (THEIRS.sign("client"), ("UNAVAILABLE", "refused")),
        (OURS.sign("client", days=-1), ("UNAVAILABLE", "refused")),
    ],
    ids=["ours", "none", "theirs", "expired"],
)
def test_a_client_must_show_a_certificate(
    tmp_path: Path, client: Pair | None, answers: tuple[str, str]
) -> None:
    async def scenario() -> None:
        async with serving_tls(secured(tmp_path, client_ca=OURS)) as s:
            assert await both(s, tmp_path, client=client) == answers

    run(scenario)


def touch(directory: Path, *, later_s: float) -> None:
    """Makes files look changed, however coarse the clock of files is."""
    for path in directory.glob("[sc]*.[pk]e[my]"):
        stamp = path.stat().st_mtime + later_s
        os.utime(path, (stamp, stamp))


def test_new_files_are_used_for_new_connections(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        config = secured(tmp_path, client_ca=OURS)
        later_s = [0.0]
        async with serving(http_port=0, security=config) as s:
            tls = s.server._tls
            assert tls is not None
            tls._watched._clock = lambda: time.monotonic() + later_s[0]
            assert await both(s, tmp_path, client=CLIENT) == ("ok", "ok")
            THEIRS.sign("server").write(tmp_path, "server")
            (tmp_path / "ca.pem").write_bytes(THEIRS.certificate)
            touch(tmp_path, later_s=10)
            later_s[0] = 10.0
            refused = await both(s, tmp_path, root=THEIRS, client=CLIENT)
            assert refused == ("UNAVAILABLE", "refused")
            new = THEIRS.sign("client")
            assert await both(s, tmp_path, root=THEIRS, client=new) == ("ok", "ok")
            (tmp_path / "server.key").write_bytes(OURS.sign("other").key)  # no pair
            touch(tmp_path, later_s=20)
            later_s[0] = 20.0
            assert await both(s, tmp_path, root=THEIRS, client=new) == ("ok", "ok")
            assert "kept what was read before" in caplog.text

    run(scenario)


def test_files_of_no_use_are_refused_at_the_start(tmp_path: Path) -> None:
    config = secured(tmp_path)
    (tmp_path / "server.key").write_bytes(CLIENT.key)
    with pytest.raises(ValueError, match=r"server\.key cannot be used together"):
        TlsFiles(config)
    (tmp_path / "server.pem").write_text("no certificate")
    with pytest.raises(ValueError, match=r"server\.pem and .* cannot be used"):
        TlsFiles(config)
    (tmp_path / "server.pem").unlink()
    with pytest.raises(FileNotFoundError):
        TlsFiles(config)


@pytest.mark.parametrize(
    "bad", [{"tls_cert": "x"}, {"tls_key": "x"}, {"tls_client_ca": "x"}]
)
def test_files_that_need_others_are_refused_alone(bad: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="need"):
        SecurityConfig(**bad)
