"""The openai client through the smg gateway: python gateway.py HOST:PORT

Starts smg in front of the server, which has the demo model. Runs in an environment of
its own, without mell_jax.
"""

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai

PROMPT = "Once upon a time"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
START_S = 120


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def gateway(address: str) -> Iterator[openai.OpenAI]:
    """A client of a gateway that is ready."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        template = Path(directory) / "chat.jinja"
        template.write_text(TEMPLATE)
        log = Path(directory) / "log"
        with log.open("w") as file:
            process = subprocess.Popen(
                [
                    *(str(Path(sys.executable).parent / "smg"), "launch"),
                    *("--worker-urls", f"grpc://{address}"),
                    *("--host", "127.0.0.1", "--port", str(port)),
                    *("--prometheus-port", str(free_port())),
                    *("--chat-template", str(template)),
                ],
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            client = openai.OpenAI(
                base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0
            )
            wait_ready(client, process, log=log)
            yield client
        finally:
            process.terminate()
            process.wait(60)


def wait_ready(
    client: openai.OpenAI, process: subprocess.Popen[bytes], *, log: Path
) -> None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and process.poll() is None:
        with contextlib.suppress(openai.APIError):
            if [model.id for model in client.models.list().data] == ["demo"]:
                return
        time.sleep(0.2)
    raise AssertionError(f"the gateway did not start: {log.read_text()[-3000:]}")


def check_completions(client: openai.OpenAI) -> None:
    def ask(**more: object) -> openai.types.Completion:
        asked = {"model": "demo", "prompt": PROMPT, "temperature": 0, "max_tokens": 24}
        return client.completions.create(**{**asked, **more})

    answer = ask()
    text = answer.choices[0].text
    assert len(text) > 20, text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 24
    parts = [part.choices[0].text for part in ask(stream=True) if part.choices]
    assert "".join(parts) == text
    assert len(parts) > 5, f"{len(parts)} parts are no stream"
    word = text.split()[3]
    stopped = ask(stop=[word])
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].text == text[: text.index(word)]
    assert len(ask(n=3, temperature=1.0).choices) == 3
    seeded = [ask(temperature=1.0, seed=7).choices[0].text for _ in range(2)]
    assert seeded[0] == seeded[1] != text
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda _: ask().choices[0].text, range(32)))
    assert together == [text] * 32


def check_chat(client: openai.OpenAI) -> None:
    asked = {
        "model": "demo",
        "messages": [{"role": "user", "content": PROMPT}],
        "temperature": 0,
        "max_completion_tokens": 24,
    }
    answer = client.chat.completions.create(**asked)
    text = answer.choices[0].message.content
    assert len(text) > 20, text
    stream = client.chat.completions.create(**asked, stream=True)
    parts = [p.choices[0].delta.content or "" for p in stream if p.choices]
    assert "".join(parts) == text


def check_refusals(client: openai.OpenAI) -> None:
    for error, asked in (
        (openai.NotFoundError, {"model": "none"}),
        (openai.BadRequestError, {"prompt": ""}),
        (openai.BadRequestError, {"prompt": "a " * 5000}),
        (openai.BadRequestError, {"temperature": -1}),
        (openai.BadRequestError, {"max_tokens": 10**6}),
        (openai.BadRequestError, {"n": 10**6}),
    ):
        try:
            client.completions.create(**{"model": "demo", "prompt": PROMPT, **asked})
        except error:
            continue
        raise AssertionError(f"{asked} was taken")


def check_leaving(client: openai.OpenAI) -> None:
    """Readers who leave harm nobody."""
    for _ in range(4):
        stream = client.completions.create(
            model="demo", prompt=PROMPT, max_tokens=900, stream=True
        )
        next(iter(stream))
        stream.close()


def main(address: str) -> None:
    with gateway(address) as client:
        check_completions(client)
        check_chat(client)
        check_refusals(client)
        check_leaving(client)
        check_completions(client)
    print("openai through smg: all is well")


if __name__ == "__main__":
    main(sys.argv[1])
