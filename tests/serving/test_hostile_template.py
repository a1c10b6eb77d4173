"""A chat template that hangs, while eight good streams run and others ask."""

import concurrent.futures
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.serving.running import RunningServer, ids_of, request

TEMPLATE = """\
{% set said = messages[-1].content %}
{% if said == 'loop' %}
{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}
{% elif said == 'grow' %}{{ said | center(99999999999) }}
{% elif said == 'fail' %}{{ messages | length // (messages | length - 1) }}
{% endif %}{{ bos_token }}{{ said }}"""


@pytest.fixture(scope="module")
def server(compiled_dir: Path) -> Iterator[RunningServer]:
    template = compiled_dir / "hostile.jinja"
    template.write_text(TEMPLATE)
    running = RunningServer(compiled_dir, flags=(f"--chat_template=demo={template}",))
    yield running
    running.close()


def chat(server: RunningServer, content: str, *, timeout_s: float) -> httpx2.Response:
    body = {
        "model": "demo",
        "max_tokens": 2,
        "messages": [{"role": "user", "content": content}],
    }
    url = f"http://{server.http}/v1/chat/completions"
    return httpx2.post(url, json=body, timeout=timeout_s)


def test_chats_that_hang_end_and_hold_up_nobody_else(server: RunningServer) -> None:
    alone = ids_of(server.stub.Generate(request()))
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        good = [
            pool.submit(lambda: ids_of(server.stub.Generate(request())))
            for _ in range(8)
        ]
        hung = [
            pool.submit(chat, server, what, timeout_s=120.0)
            for what in ("loop", "grow") * 3
        ]
        left = [pool.submit(chat, server, "loop", timeout_s=0.5) for _ in range(2)]
        start_s = time.monotonic()
        for path in ("/health", "/metrics", "/v1/models"):
            assert (
                httpx2.get(f"http://{server.http}{path}", timeout=15).status_code == 200
            )
        text = {"model": "demo", "prompt": "Once upon a time " * 40, "max_tokens": 2}
        answer = httpx2.post(
            f"http://{server.http}/v1/completions", json=text, timeout=15
        )
        assert answer.status_code == 200
        assert time.monotonic() - start_s < 15
        assert [each.result() for each in good] == [alone] * 8
        for each in hung:
            assert each.result().status_code == 400
            assert "the chat template more than" in each.result().text
        for each in left:
            with pytest.raises(httpx2.TimeoutException):
                each.result()
    assert chat(server, "Once upon a time", timeout_s=60.0).status_code == 200
    failed = chat(server, "fail", timeout_s=60.0)
    assert failed.status_code == 400
    assert "ZeroDivisionError" in failed.text
