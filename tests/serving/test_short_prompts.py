"""Every door answers the shortest prompts, whatever it is asked to tell of them.

A prompt of one token has no log probability, which is not the same as not being asked.
"""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import openai
import pytest
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

from mell_jax import LLM, SamplingParams
from mell_jax.engine.build import build_engine, demo_directory
from mell_jax.engine.config import EngineConfig
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.frames import (
    Handle,
    Logprobs,
    PromptDone,
    StepFrame,
    frame_of_tokens,
)
from mell_jax.serving.processes.wire import StepMessage, to_front
from mell_jax.serving.served_model import ServedModel
from mell_jax.text.tokenizer import load_tokenizer
from tests.serving.fake_engine import FakeEngine
from tests.serving.harness import ids_request, listening, run
from tests.serving.kserve.asking import ask, stub_of, texts_of

SMALL: dict[str, Any] = {
    "max_rows": 4,
    "decode_rows": (4,),
    "token_budget": 32,
    "max_model_len": 64,
    "kv_pages": 33,
}
PROMPTS = [[5], [5, 6], [5, 6, 7]]
WANTED = [None, 0, 1]
TRUTHS = [False, True]


@asynccontextmanager
async def demo() -> AsyncIterator[tuple[openai.AsyncOpenAI, grpc.aio.Channel]]:
    """The demo model behind the gRPC and the HTTP door."""
    built = build_engine(EngineConfig(**SMALL), fleet=FleetConfig(), progress=False)
    model = ServedModel(
        name="demo",
        path="",
        tokenizer_dir=demo_directory(),
        tokenizer=load_tokenizer(demo_directory()),
    )
    async with (
        listening(built.thread, models=[model], http_port=0, drain_s=0.0) as (_, at),
        grpc.aio.insecure_channel(at.grpc) as channel,
        openai.AsyncOpenAI(
            api_key="any", base_url=f"http://{at.http}/v1", max_retries=0
        ) as client,
    ):
        yield client, channel


async def completion(
    client: openai.AsyncOpenAI, *, stream: bool, **options: Any
) -> list[tuple[str, list[float | None] | None]]:
    """Text and log probabilities of each choice."""
    create = client.completions.create
    if not stream:
        answer = await create(model="demo", temperature=0.0, **options)
        return [
            (one.text, None if one.logprobs is None else one.logprobs.token_logprobs)
            for one in sorted(answer.choices, key=lambda choice: choice.index)
        ]
    texts: dict[int, str] = {}
    rows: dict[int, list[float | None]] = {}
    async for chunk in await create(
        model="demo", temperature=0.0, stream=True, **options
    ):
        for one in chunk.choices:
            texts[one.index] = texts.get(one.index, "") + one.text
            if one.logprobs is not None:
                rows.setdefault(one.index, []).extend(one.logprobs.token_logprobs)
    return [(texts[index], rows.get(index)) for index in sorted(texts)]


async def check_openai(client: openai.AsyncOpenAI) -> None:
    cases = itertools.product(PROMPTS, TRUTHS, WANTED, (1, 2), TRUTHS, (0, 2))
    for prompt, echo, logprobs, n, stream, most in cases:
        if (n > 1 and echo and logprobs is not None) or (not echo and not most):
            continue  # refused, by name
        choices = await completion(
            client,
            stream=stream,
            prompt=prompt,
            echo=echo,
            logprobs=logprobs,
            n=n,
            max_tokens=most,
        )
        assert len(choices) == n
        for _, rows in choices:
            if logprobs is None:
                assert rows is None
                continue
            assert rows is not None
            assert len(rows) == echo * len(prompt) + most
            assert [row is None for row in rows] == [
                echo and index == 0 for index in range(len(rows))
            ]
    choices = await completion(
        client, stream=False, prompt=PROMPTS, echo=True, logprobs=1, max_tokens=2
    )
    assert [len(rows or ()) for _, rows in choices] == [3, 4, 5]


async def check_vllm(channel: grpc.aio.Channel) -> None:
    stub = pb_grpc.VllmEngineStub(channel)
    cases = itertools.product(PROMPTS, WANTED, WANTED, (1, 2), TRUTHS)
    for prompt, of_prompt, of_output, n, stream in cases:
        wanted = {"prompt_logprobs": of_prompt, "logprobs": of_output}
        asked = ids_request(
            *prompt,
            stream=stream,
            n=n,
            max_tokens=2,
            **{name: k for name, k in wanted.items() if k is not None},
        )
        found: list[pb.InputLogProbs] = []
        tokens = 0
        async for answer in stub.Generate(asked):
            part = getattr(answer, answer.WhichOneof("response"))
            if part.HasField("input_logprobs"):
                found.append(part.input_logprobs)
            tokens += len(part.output_logprobs.token_ids)
        assert tokens == (0 if of_output is None else 2 * n)
        if of_prompt is None:
            assert found == []
            continue
        (rows,) = found
        assert list(rows.token_ids) == prompt
        assert [row.HasField("value") for row in rows.token_logprobs] == [
            index > 0 for index in range(len(prompt))
        ]
        assert [len(row.values) for row in rows.top_logprobs] == [
            of_prompt if index > 0 else 0 for index in range(len(prompt))
        ]


async def check_kserve(channel: grpc.aio.Channel) -> None:
    for text in ("O", "On", "Once"):
        for sampling in ({}, {"n": 2}, {"logprobs": 1}, {"prompt_logprobs": 1}):
            request = ask(
                text,
                sampling={"temperature": 0.0, "max_tokens": 2, **sampling},
                flags={"exclude_input_in_output": False},
                model_name="demo",
            )
            try:
                answer = await stub_of(channel).ModelInfer(request)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
                assert sampling.keys() & {"logprobs", "prompt_logprobs"}
                continue
            texts = texts_of(answer)
            assert len(texts) == sampling.get("n", 1)
            assert all(one.startswith(text) for one in texts)


def test_servers_answer_every_short_prompt() -> None:
    async def scenario() -> None:
        async with demo() as (client, channel):
            await check_openai(client)
            await check_vllm(channel)
            await check_kserve(channel)

    run(scenario)


def test_the_library_answers_every_short_prompt() -> None:
    with LLM(**SMALL) as llm:
        for prompt, of_prompt, of_output, n in itertools.product(
            PROMPTS, WANTED, WANTED, (1, 2)
        ):
            params = SamplingParams(
                temperature=0.0,
                max_tokens=2,
                n=n,
                logprobs=of_output,
                prompt_logprobs=of_prompt,
            )
            (output,) = llm.generate([prompt], params)
            streamed = [d.prompt_logprobs for d in llm.stream(prompt, params)]
            told = [rows for rows in streamed if rows is not None]
            for rows in (output.prompt_logprobs, *told):
                if of_prompt is None:
                    assert rows is None
                else:
                    assert rows is not None
                    assert [row is None for row in rows] == [
                        index == 0 for index in range(len(prompt))
                    ]
            assert len(told) == (of_prompt is not None)
            for one in output.completions:
                assert len(one.logprobs or ()) == (0 if of_output is None else 2)
                assert (one.logprobs is None) == (of_output is None)


@pytest.mark.parametrize("num_top", [0, 1, 20])
def test_no_rows_are_sent_as_no_rows(num_top: int) -> None:
    empty = Logprobs(
        chosen=np.zeros(0, np.float32),
        top_ids=np.zeros((0, num_top), np.int32),
        top=np.zeros((0, num_top), np.float32),
    )
    prompt = PromptDone(handle=Handle(1), cached_tokens=0, logprobs=empty)
    ends = frame_of_tokens(finished=())
    frame = StepFrame(handles=ends.handles, tokens=ends.tokens, prompts=(prompt,))
    codec = to_front()
    sent = codec.encode(StepMessage(frame=frame, load=FakeEngine().load()))
    (message,) = codec.reader().feed(sent)
    (told,) = message.frame.prompts
    assert told.logprobs is not None
    assert told.logprobs.chosen.shape == (0,)
    assert told.logprobs.top.shape == told.logprobs.top_ids.shape == (0, num_top)
