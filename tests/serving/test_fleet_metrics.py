"""A fleet of toys behind a real server, seen through its metrics by `mell-top`."""

import asyncio
import subprocess
import sys
from pathlib import Path

import grpc
import httpx2
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

from mell_jax import top
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.thread import EngineThread
from mell_jax.serving.address import Addresses
from mell_jax.serving.served_model import ServedModel
from mell_jax.worker.compilation import CompilationCounter
from tests.engine.fleet.toy_fleet import toy_fleet
from tests.serving.harness import ids_request, listening, run
from tests.toy import expected

ROOT = Path(__file__).parents[2]
PROMPTS = [[n + 1] * (n * 7 + 1) for n in range(14)]


async def stream(stub: pb_grpc.VllmEngineStub, prompt: list[int]) -> list[int]:
    call = stub.Generate(ids_request(*prompt, temperature=0.0, max_tokens=20))
    return [token async for part in call for token in part.chunk.token_ids]


async def scrape(address: str) -> top.Numbers:
    async with httpx2.AsyncClient() as client:
        return top.parse((await client.get(f"http://{address}/metrics")).text)


async def check(addresses: Addresses) -> None:
    assert addresses.http is not None
    async with grpc.aio.insecure_channel(addresses.grpc) as channel:
        stub = pb_grpc.VllmEngineStub(channel)
        answers = await asyncio.gather(*(stream(stub, each) for each in PROMPTS))
    assert answers == [expected(prompt, count=20) for prompt in PROMPTS]
    seen = await scrape(addresses.http)
    while seen.total("instance_pages", kind="used"):  # the last step lands
        seen = await scrape(addresses.http)
    assert seen.total("generation_tokens_total") == 14 * 20
    assert seen.by("request_success_total", "finished_reason") == {
        "stop": 0,
        "length": 14,
        "abort": 0,
        "error": 0,
    }
    committed = seen.total("migrations_total", outcome="committed")
    begun = seen.total("migrations_begun_total")
    assert begun == committed + seen.total("migrations_total", outcome="aborted")
    assert committed == seen.total("migrations_between_total") > 5
    assert 0 < seen.total("migration_downtime_steps_count") <= committed
    assert seen.total("devices") == 3
    done = await asyncio.to_thread(
        subprocess.run,
        [
            *(sys.executable, "-m", "mell_jax.top", "--interval_s=0.1"),
            f"--address={addresses.http}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("mell-top  toy  ")
    assert " of 3 devices in use, lower bound 0" in done.stdout
    assert f"{committed:.0f} so far" in done.stdout


def test_what_a_fleet_did_can_be_read_from_its_server() -> None:
    async def scenario() -> None:
        fleet = toy_fleet(config=FleetConfig(fault=Fault(move_every=1), epoch_s=0.2))
        engine = EngineThread(fleet, compilations=CompilationCounter())
        models = [ServedModel(name="toy", path="")]
        server = listening(engine, models=models, http_port=0, drain_s=0.0)
        async with server as (_, addresses):
            await check(addresses)

    run(scenario)
