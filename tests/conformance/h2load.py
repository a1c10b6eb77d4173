"""h2load (Debian: nghttp2-client) against both protocols: python h2load.py HOST:PORT

The server has the demo model and one front end. h2load sends ready-made bodies and
counts answers of HTTP; the server's own statistics tell how many were of worth.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc
from smg_grpc_proto.generated import vllm_engine_pb2

from mell_jax.serving.proto import open_inference_pb2 as pb
from mell_jax.serving.proto import open_inference_pb2_grpc as rpc

REQUESTS, CONNECTIONS, STREAMS, TOKENS = 400, 4, 16, 8
PROMPT = "Once upon a time"


def generate_request() -> vllm_engine_pb2.GenerateRequest:
    params = vllm_engine_pb2.SamplingParams(temperature=0.0, max_tokens=TOKENS)
    return vllm_engine_pb2.GenerateRequest(
        text=PROMPT, sampling_params=params, stream=True
    )


def infer_request() -> pb.ModelInferRequest:
    request = pb.ModelInferRequest()
    tensor = request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(PROMPT.encode())
    request.parameters["temperature"].double_param = 0.0
    request.parameters["max_tokens"].int64_param = TOKENS
    return request


def framed(message: bytes) -> bytes:
    """As gRPC puts it on the wire: not compressed, its length, itself."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def load(address: str, method: str, *, body: bytes) -> tuple[float, str]:
    """Requests per second, and the mean time of a request in h2load's words."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(body)
        done = subprocess.run(
            [
                *("h2load", "-n", str(REQUESTS), "-c", str(CONNECTIONS)),
                *("-m", str(STREAMS), "-d", file.name),
                *("-H", "content-type: application/grpc", "-H", "te: trailers"),
                f"http://{address}{method}",
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", done.stdout)
    assert counts is not None, done.stdout
    assert counts.groups() == (str(REQUESTS), "0", "0"), done.stdout
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", done.stdout)
    times = re.search(r"time for request:\s+\S+\s+\S+\s+(\S+)", done.stdout)
    assert rate is not None and times is not None, done.stdout
    return float(rate[1]), times[1]


def answered(address: str) -> int:
    with grpc.insecure_channel(address) as channel:
        stub = rpc.GRPCInferenceServiceStub(channel)
        statistics = stub.ModelStatistics(pb.ModelStatisticsRequest())
    count: int = statistics.model_stats[0].inference_stats.success.count
    return count


def main(address: str) -> None:
    for method, request in (
        ("/vllm.grpc.engine.VllmEngine/Generate", generate_request()),
        ("/inference.GRPCInferenceService/ModelInfer", infer_request()),
        ("/inference.GRPCInferenceService/ModelStreamInfer", infer_request()),
    ):
        before = answered(address)
        body = framed(request.SerializeToString())
        rate, mean = load(address, method, body=body)
        assert answered(address) - before == REQUESTS, method
        print(
            f"{method}: {REQUESTS} requests of {TOKENS} tokens over {CONNECTIONS} "
            f"connections, {STREAMS} streams each: {rate:.0f}/s, mean {mean}"
        )
    print("h2load: all is well")


if __name__ == "__main__":
    main(sys.argv[1])
