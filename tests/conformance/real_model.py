"""A real model answers as transformers has it: python real_model.py HOST:PORT URL FILE

The server has the GGUF file FILE, SmolLM2-135M-Instruct. Its greedy ids are those of
`real_model.json`, which `real_model_goldens.py` made with transformers and torch; where
those are installed, the first ones are made again.
"""

import importlib.util
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import openai
from real_model_goldens import GOLDENS, NEW_TOKENS, make
from real_model_shapes import check_shapes
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as rpc

ANSWER_TOKENS = 64


def generate(address: str, text: str) -> tuple[list[int], int]:
    """The greedy ids after a text, as they stream, and the tokens of the prompt."""
    params = pb.SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS, ignore_eos=True)
    request = pb.GenerateRequest(text=text, sampling_params=params, stream=True)
    ids: list[int] = []
    with grpc.insecure_channel(address) as channel:
        for response in rpc.VllmEngineStub(channel).Generate(request):
            if response.HasField("chunk"):
                ids += response.chunk.token_ids
            else:
                last = response.complete
    assert last.completion_tokens == len(ids) == NEW_TOKENS, last
    return ids, last.prompt_tokens


def check_ids(address: str, completions: list[dict[str, Any]]) -> None:
    """Alone and together, every id is the one that transformers chooses."""
    texts = [one["text"] for one in completions]
    with ThreadPoolExecutor(len(texts)) as pool:
        together = list(pool.map(lambda text: generate(address, text), texts))
    alone = [generate(address, text) for text in texts]
    assert together == alone, (together, alone)
    for found, wanted in zip(alone, completions, strict=True):
        assert found == (wanted["ids"], len(wanted["prompt_ids"])), (found, wanted)


def stream_of(client: openai.OpenAI, asked: dict[str, Any]) -> Iterator[Any]:
    usage = {"include_usage": True}
    yield from client.chat.completions.create(
        **asked, stream=True, stream_options=usage
    )


def check_chat(client: openai.OpenAI, model: str, chat: dict[str, Any]) -> None:
    """A question is answered, in one piece and in many, and tokens are counted."""
    asked = {
        "model": model,
        "messages": [{"role": "user", "content": chat["question"]}],
        "temperature": 0,
        "max_completion_tokens": ANSWER_TOKENS,
    }
    answer = client.chat.completions.create(**asked)
    text, usage = answer.choices[0].message.content, answer.usage
    print(f"{chat['question']} {text}")
    assert text is not None and usage is not None
    assert chat["word"] in text and "<|im_" not in text, text
    assert usage.prompt_tokens == chat["prompt_tokens"], usage
    assert 0 < usage.completion_tokens <= ANSWER_TOKENS, usage
    parts = list(stream_of(client, asked))
    pieces = [p.choices[0].delta.content or "" for p in parts if p.choices]
    assert "".join(pieces) == text, pieces
    assert len([piece for piece in pieces if piece]) > 2, "this is no stream"
    last = parts[-1].usage  # of the prompt, more is in the cache by now
    assert (last.prompt_tokens, last.completion_tokens, last.total_tokens) == (
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.total_tokens,
    ), parts[-1]


def main(address: str, url: str, file: str) -> None:
    goldens = json.loads(GOLDENS.read_text())
    check_ids(address, goldens["completions"])
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    (model,) = [served.id for served in client.models.list()]
    assert model == Path(file).name.removesuffix(".gguf"), model
    for chat in goldens["chats"]:
        check_chat(client, model, chat)
    check_shapes(client, model)
    how = "as committed"
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        live = make(Path(file), prompts=1)["completions"]
        assert live == goldens["completions"][:1], live
        how = "made again, too"
    print(f"the real model answers as transformers has it ({how})")


if __name__ == "__main__":
    main(*sys.argv[1:])
