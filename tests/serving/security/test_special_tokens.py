"""Special tokens in prompts, </s> is 0: who may send them, at every door."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx2
import numpy as np
from smg_grpc_proto import vllm_engine_pb2 as pb

from mell_jax.serving.security.config import SecurityConfig
from tests.serving.harness import Harness, error_of, ids_request, run, serving
from tests.serving.kserve.asking import ask, stub_of
from tests.serving.security.test_tokens import (
    ALICE,
    GATEWAY,
    WRITER,
    bearer,
    metadata,
    write,
)

TEXT = "a</s>a"
# Letters are ids of their own; "<", "/" and ">" have none and are the "?".
PLAIN = [1, 30, 30, 19, 30, 1]
SPECIAL = [1, 0, 1]


@contextlib.asynccontextmanager
async def guarded(directory: Path | None, tmp_path: Path) -> AsyncIterator[Harness]:
    security = SecurityConfig(tokens_file=write(tmp_path / "tokens.json"))
    async with serving(directory=directory, http_port=0, security=security) as s:
        yield s


def text_request(text: str) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        text=text, sampling_params=pb.SamplingParams(max_tokens=1), stream=True
    )


async def post(s: Harness, path: str, *, token: str, **body: Any) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=f"http://{s.http}") as http:
        return await http.post(path, json=body, headers=bearer(token))


async def prompts_of(s: Harness, *, token: str) -> list[list[int]]:
    """What the engine gets of one text by each door."""
    await s.collect(text_request(TEXT), metadata=metadata(token))
    await stub_of(s.channel).ModelInfer(ask(TEXT), metadata=metadata(token))
    answer = await post(s, "/v1/completions", token=token, prompt=TEXT, max_tokens=1)
    assert answer.status_code == 200
    return [np.asarray(submit.prompt).tolist() for submit in s.engine.submits[-3:]]


def test_a_text_becomes_special_tokens_only_for_those_with_the_right(
    letters_dir: Path, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with guarded(letters_dir, tmp_path) as s:
            assert await prompts_of(s, token=ALICE) == [PLAIN] * 3
            assert await prompts_of(s, token=WRITER) == [SPECIAL] * 3
            assert await prompts_of(s, token=GATEWAY) == [SPECIAL] * 3

    run(scenario)


def test_without_tokens_everything_is_as_it_was(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, http_port=0) as s:
            assert await prompts_of(s, token=ALICE) == [SPECIAL] * 3
            await s.collect(ids_request(1, 0, max_tokens=1))
            assert s.engine.submits[-1].prompt.tolist() == [1, 0]

    run(scenario)


def test_an_id_of_a_special_token_needs_the_right(
    letters_dir: Path, tmp_path: Path
) -> None:
    async def scenario(directory: Path | None) -> None:
        async with guarded(directory, tmp_path) as s:
            call = s.collect(ids_request(1, 0, 1), metadata=metadata(ALICE))
            error = await error_of(call)
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert "prompt holds token id 0, a special token" in error.details()
            assert "right 'special_tokens'" in error.details()
            assert s.engine.submits == []
            for token in (WRITER, GATEWAY):
                request = ids_request(1, 0, 1, max_tokens=1)
                await s.collect(request, metadata=metadata(token))
                assert s.engine.submits[-1].prompt.tolist() == [1, 0, 1]
            await s.collect(ids_request(1, 1, max_tokens=1), metadata=metadata(ALICE))
            await s.idle()

    run(lambda: scenario(letters_dir))
    run(lambda: scenario(None))  # the id is known as the end of a sequence


def test_ids_over_http_need_the_right_too(letters_dir: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with guarded(letters_dir, tmp_path) as s:
            bodies = [[1, 0], [[1], [0]]]
            answers = [
                await post(s, "/v1/completions", token=ALICE, prompt=prompt)
                for prompt in bodies
            ]
            assert [answer.status_code for answer in answers] == [400, 400]
            assert [a.json()["error"]["param"] for a in answers] == ["prompt"] * 2
            good = await post(
                s, "/v1/completions", token=WRITER, prompt=[1, 0], max_tokens=1
            )
            assert good.status_code == 200
            await s.idle()

    run(scenario)


def test_a_stream_of_kserve_keeps_letters_too(
    letters_dir: Path, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with guarded(letters_dir, tmp_path) as s:
            sampling = json.dumps({"temperature": 0, "max_tokens": 1})
            requests = [ask(TEXT, sampling=sampling)]
            call = stub_of(s.channel).ModelStreamInfer(
                iter(requests), metadata=metadata(ALICE)
            )
            async with asyncio.timeout(30):
                assert [part async for part in call][-1].error_message == ""
            assert s.engine.submits[-1].prompt.tolist() == PLAIN

    run(scenario)


def test_a_chat_template_may_write_special_tokens_for_everybody(
    letters_dir: Path, tmp_path: Path
) -> None:
    async def scenario() -> None:
        template = tmp_path / "chat.jinja"
        template.write_text("{% for m in messages %}{{ m.content }}</s>{% endfor %}")
        security = SecurityConfig(tokens_file=write(tmp_path / "tokens.json"))
        async with serving(
            directory=letters_dir,
            http_port=0,
            chat_templates=(str(template),),
            security=security,
        ) as s:
            answer = await post(
                s,
                "/v1/chat/completions",
                token=ALICE,
                messages=[{"role": "user", "content": TEXT}],
                max_tokens=1,
            )
            assert answer.status_code == 200
            assert s.engine.submits[-1].prompt.tolist() == [*PLAIN, 0]

    run(scenario)
