"""Both doors on files: as on ports, for their owner alone, and gone afterwards."""

import asyncio
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import grpc
import httpx2
import openai
import pytest
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

from mell_jax.serving.address import BindError, check_addresses, clear_file
from mell_jax.serving.config import ServerConfig
from tests.serving.fake_server import ROOT, fake_server
from tests.serving.harness import ids_request, run, serving


async def check_http(path: str) -> None:
    transport = httpx2.AsyncHTTPTransport(uds=path)
    async with (
        httpx2.AsyncClient(transport=transport) as http,
        openai.AsyncOpenAI(
            api_key="any",
            base_url="http://localhost/v1",
            max_retries=0,
            http_client=http,
        ) as client,
    ):
        assert (await http.get("http://localhost/health")).status_code == 200
        answer = await client.completions.create(
            model="letters", prompt="c", max_tokens=6
        )
        assert answer.choices[0].text == "cflxqc"
        stream = await client.completions.create(
            model="letters", prompt="c", max_tokens=6, stream=True
        )
        assert "".join([c.choices[0].text async for c in stream]) == "cflxqc"


async def check_grpc(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = pb_grpc.VllmEngineStub(channel)
        asked = ids_request(3, max_tokens=4)
        ids = [i async for part in stub.Generate(asked) for i in part.chunk.token_ids]
        assert ids == [3, 6, 12, 24]


@pytest.mark.parametrize("is_left_over", [False, True])
def test_both_doors_answer_on_files(
    letters_dir: Path, tmp_path: Path, is_left_over: bool
) -> None:
    files = [tmp_path / "grpc.sock", tmp_path / "http.sock"]
    if is_left_over:  # by a server that was killed
        for path in files:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.bind(str(path))

    async def scenario() -> None:
        async with serving(
            directory=letters_dir,
            unix_socket=str(files[0]),
            http_unix_socket=str(files[1]),
        ) as s:
            assert s.address == f"unix:{files[0]}"
            assert s.http == f"unix:{files[1]}"
            for path in files:
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                with pytest.raises(BindError, match="Address already in use; choose"):
                    clear_file(str(path), name="unix_socket")
            await check_grpc(s.address)
            await check_http(str(files[1]))
        assert not any(path.exists() for path in files)

    run(scenario)


def test_a_front_end_in_a_process_listens_on_files(
    letters_dir: Path, tmp_path: Path
) -> None:
    files = [tmp_path / "grpc.sock", tmp_path / "http.sock"]
    with fake_server(
        letters_dir, unix_socket=str(files[0]), http_unix_socket=str(files[1])
    ) as server:
        assert server.address == f"unix:{files[0]}"
        asyncio.run(check_grpc(server.address))
        asyncio.run(check_http(str(files[1])))
        told = subprocess.run(
            [
                *(sys.executable, "-m", "mell_jax.client"),
                *(f"--address={server.address}", "--max_tokens=5", "--temperature=0"),
                "c",
            ],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert told.stdout == "cflxq\n"
        server.process.terminate()
        assert server.process.wait(30) == 0
        assert not any(path.exists() for path in files)


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "mell.sock"
    path.write_text("mine")
    with pytest.raises(BindError, match="there is another file; choose another unix"):
        check_addresses(ServerConfig(unix_socket=str(path)))
    assert path.read_text() == "mine"
    with pytest.raises(BindError, match="no folder to write to; choose another http_u"):
        check_addresses(ServerConfig(port=0, http_unix_socket=f"{tmp_path}/none/mell"))
    check_addresses(ServerConfig(unix_socket=f"{tmp_path}/other"))


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"unix_socket": "mell.sock"}, "unix_socket must be an absolute path"),
        ({"unix_socket": "/" + "a" * 100}, "unix_socket must be an absolute path"),
        ({"unix_socket": "/a", "frontends": 2}, "set frontends to 1 or 0, got 2"),
        ({"unix_socket": "/a", "http_unix_socket": "/a"}, "both are /a"),
        ({"http_port": 0, "http_unix_socket": "/a"}, "exclude each other"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, object], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        ServerConfig(**values)  # type: ignore[arg-type]
