"""tritonclient against KServe's protocol: python triton.py HOST:PORT

The server has the demo model. Runs in an environment of its own, without mell_jax.
"""

import queue
import sys
import threading
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

PROMPT = "Once upon a time"
GREEDY = {"temperature": 0.0, "max_tokens": 24}


def text_of(text: str, *, name: str = "text_input") -> triton.InferInput:
    tensor = triton.InferInput(name, [1], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode()], dtype=np.object_))
    return tensor


def answer_of(result: triton.InferResult) -> str:
    return result.as_numpy("text_output")[0].decode()


def check_server(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("demo") and client.is_model_ready("demo", "1")
    assert not client.is_model_ready("none")
    assert client.get_server_metadata().name == "mell_jax"
    metadata = client.get_model_metadata("demo")
    assert metadata.inputs[0].name == "text_input"
    config = client.get_model_config("demo", as_json=True)["config"]
    assert config["model_transaction_policy"]["decoupled"]
    (model,) = client.get_model_repository_index().models
    assert (model.name, model.state) == ("demo", "READY")
    client.load_model("demo")
    assert status_of(client.load_model, "none") == "StatusCode.NOT_FOUND"
    assert status_of(client.unload_model, "demo") == "StatusCode.FAILED_PRECONDITION"


def status_of(call: Any, *args: Any, **kwargs: Any) -> str:
    try:
        call(*args, **kwargs)
    except InferenceServerException as error:
        return str(error.status())
    raise AssertionError(f"{call} did not fail")


def check_answers(client: triton.InferenceServerClient) -> str:
    """One answer at once, in each of the ways to ask for it."""
    result = client.infer("demo", [text_of(PROMPT)], parameters=GREEDY, request_id="7")
    text = answer_of(result)
    assert len(text) > 20, text
    assert result.get_response().id == "7"
    sampling = text_of(
        '{"temperature": "0.0", "max_tokens": "24"}', name="sampling_parameters"
    )
    inputs = [text_of(PROMPT), sampling]
    outputs = [triton.InferRequestedOutput("text_output")]
    assert answer_of(client.infer("demo", inputs, outputs=outputs)) == text
    wanted = triton.InferRequestedOutput("num_output_tokens")
    result = client.infer("demo", inputs, outputs=[wanted])
    assert result.as_numpy("num_output_tokens").tolist() == [24]
    for algorithm in ("gzip", "deflate"):  # which the server takes from nobody
        found = status_of(client.infer, "demo", inputs, compression_algorithm=algorithm)
        assert found == "StatusCode.UNIMPLEMENTED", found
    heard: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.async_infer(
        "demo", inputs, callback=lambda result, error: heard.put((result, error))
    )
    result, error = heard.get(timeout=60)
    assert error is None and answer_of(result) == text
    return text


def check_refusals(client: triton.InferenceServerClient) -> None:
    ask = [text_of(PROMPT)]
    for status, model, inputs, parameters in (
        ("NOT_FOUND", "none", ask, {}),
        ("INVALID_ARGUMENT", "demo", [], {}),
        ("INVALID_ARGUMENT", "demo", [text_of("")], {}),
        ("INVALID_ARGUMENT", "demo", ask, {"temperature": float("nan")}),
        ("INVALID_ARGUMENT", "demo", ask, {"max_tokens": 10**9}),
        ("INVALID_ARGUMENT", "demo", ask, {"nothing": 1}),
    ):
        found = status_of(client.infer, model, inputs, parameters=parameters)
        assert found == f"StatusCode.{status}", (status, found)
    found = status_of(client.infer, "demo", ask, client_timeout=1e-6)
    assert found == "StatusCode.DEADLINE_EXCEEDED"
    statistics = client.get_inference_statistics("demo").model_stats[0]
    assert statistics.inference_stats.success.count >= 4


def check_stream(client: triton.InferenceServerClient, text: str) -> None:
    """Two requests side by side, one that fails alone, and the flag of the last."""
    heard: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(callback=lambda result, error: heard.put((result, error)))
    for name in ("a", "b"):
        client.async_stream_infer(
            "demo",
            [text_of(PROMPT)],
            request_id=name,
            parameters=GREEDY,
            enable_empty_final_response=True,
        )
    client.async_stream_infer("demo", [text_of("")], request_id="bad")
    texts, parts, open_requests = {"a": "", "b": ""}, 0, 3
    while open_requests:
        result, error = heard.get(timeout=60)
        if error is not None:
            assert "[request id: bad] prompt must not be empty" in error.message()
            open_requests -= 1
            continue
        response, parts = result.get_response(), parts + 1
        texts[response.id] += answer_of(result)
        open_requests -= response.parameters["triton_final_response"].bool_param
    assert texts == {"a": text, "b": text}
    assert parts > 8, f"{parts} parts are no stream"
    client.stop_stream()


def check_cancel(client: triton.InferenceServerClient) -> None:
    ended, begun = threading.Event(), threading.Event()

    def hear(result: Any, error: Any) -> None:
        (begun if error is None else ended).set()

    client.start_stream(callback=hear)
    long = {"temperature": 1.0, "max_tokens": 900, "ignore_eos": True}
    client.async_stream_infer("demo", [text_of(PROMPT)], parameters=long)
    assert begun.wait(60)
    client.stop_stream(cancel_requests=True)
    assert ended.wait(60)


def main(address: str) -> None:
    with triton.InferenceServerClient(address) as client:
        check_server(client)
        text = check_answers(client)
        check_refusals(client)
        check_stream(client, text)
        check_cancel(client)
        assert answer_of(
            client.infer("demo", [text_of(PROMPT)], parameters=GREEDY)
        ) == (text), "a cancelled stream harmed others"
    print("tritonclient: all is well")


if __name__ == "__main__":
    main(sys.argv[1])
