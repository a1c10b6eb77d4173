"""`mell-serve` with the demo model, as a process, over a real socket.

The one way to a real server; `fake_server` has one whose answers need no model.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import openai
import psutil
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc

from tests.serving.config_file import config_flag

ROOT = Path(__file__).parents[2]
MAX_MODEL_LEN = 256
FLAGS = (
    "--port=0",
    "--http_port=0",
    "--max_rows=16",
    "--token_budget=64",
    f"--max_model_len={MAX_MODEL_LEN}",
    "--kv_pages=200",
    "--log_format=json",
)


SETTINGS = "[engine]\ndecode_rows = [16]\n"


class RunningServer:
    """A `mell-serve` process and a channel to it."""

    def __init__(
        self, cache_dir: Path, *, flags: tuple[str, ...] = (), settings: str = ""
    ) -> None:
        """`settings` are more of the table [engine], and tables after it."""
        template = cache_dir / "template.jinja"
        template.write_text(
            "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
        )
        config = config_flag(cache_dir, SETTINGS + settings)
        handle, name = tempfile.mkstemp(dir=cache_dir, suffix=".log")
        self.log = Path(name)
        with open(handle, "wb") as log:  # a pipe that nobody reads would fill
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mell_jax.launch"),
                    *(*FLAGS, f"--compilation_cache_dir={cache_dir}", *flags),
                    *(f"--chat_template={template}", config),
                ],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        ready = self.process.stdout.readline()
        self.doors: dict[str, str] = {}  # addresses of operators' doors, by name
        while door := re.match(
            r"(mell.v1.Admin is|trainers' routes are) at (\S+)", ready
        ):
            self.doors["admin" if "Admin" in door[1] else "trainers"] = door[2].strip(
                ","
            )
            ready = self.process.stdout.readline()
        match = re.match(r"demo is served at (\S+), [\d.]+ s after the start", ready)
        assert match, ready + self.log.read_text()
        self.address = match[1]
        self.channel = grpc.insecure_channel(match[1])
        self.stub = pb_grpc.VllmEngineStub(self.channel)
        while not (match := re.match(r"http://(\S+) has /v1", ready)):
            ready = self.process.stdout.readline()
        self.http = match[1]
        self.openai = openai.OpenAI(
            api_key="any", base_url=f"http://{match[1]}/v1", max_retries=0
        )

    def close(self) -> None:
        self.openai.close()
        self.channel.close()
        self.process.kill()
        self.process.communicate()

    def used_pages(self) -> int:
        return int(self.stub.GetLoads(pb.GetLoadsRequest()).loads[0].num_used_tokens)

    def front_end(self) -> psutil.Process:
        """The process of the one front end."""
        (front,) = psutil.Process(self.process.pid).children()
        return front


def wait_replaced(stub: pb_grpc.VllmEngineStub) -> None:
    """Until a call is answered by whoever replaced a dead process.

    The first calls may still go to the dead connection.
    """
    for _ in range(20):
        try:
            stub.HealthCheck(pb.HealthCheckRequest(), wait_for_ready=True, timeout=60)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
        else:
            return
    raise AssertionError("nobody answers")


def request(text: str = "Once upon a time", **options: object) -> pb.GenerateRequest:
    params = {"temperature": 0.0, "max_tokens": 20, **options}
    return pb.GenerateRequest(
        text=text, stream=True, sampling_params=pb.SamplingParams(**params)
    )


def ids_of(responses: Iterator[pb.GenerateResponse]) -> list[int]:
    return [token for part in responses for token in part.chunk.token_ids]
