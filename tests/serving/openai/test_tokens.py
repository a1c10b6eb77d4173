"""How a model reads text is told over HTTP, within the bounds of a prompt."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mell_jax.engine.build import demo_directory
from mell_jax.serving.openai import tokens
from mell_jax.serving.security.config import SecurityConfig
from mell_jax.serving.version import own_version
from mell_jax.text.tokenizer import load_tokenizer
from tests.serving.harness import Harness, run, serving
from tests.serving.security.test_tokens import ALICE, bearer, write

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}z"


async def post(s: Harness, path: str, **kwargs: Any) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=f"http://{s.http}") as client:
        return await client.post(path, **kwargs)


def test_a_prompt_becomes_ids_and_ids_a_prompt(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, http_port=0) as s:
            asked = {"model": "letters", "prompt": "cab", "return_token_strs": True}
            told = (await post(s, "/tokenize", json=asked)).json()
            assert told == {
                "count": 3,
                "max_model_len": 1000,
                "tokens": [3, 1, 2],
                "token_strs": ["c", "a", "b"],
            }
            asked = {"model": "letters", "prompt": "cab"}
            assert (await post(s, "/tokenize", json=asked)).json()["token_strs"] is None
            back = await post(s, "/detokenize", json={"tokens": told["tokens"]})
            assert back.json() == {"prompt": "cab"}
            assert (await post(s, "/detokenize", json={"tokens": []})).json() == {
                "prompt": ""
            }
            assert s.engine.submits == []

    run(scenario)


def test_messages_go_through_the_template(letters_dir: Path, tmp_path: Path) -> None:
    template = tmp_path / "template"
    template.write_text(TEMPLATE)

    async def scenario() -> None:
        async with serving(
            directory=letters_dir, http_port=0, chat_templates=(str(template),)
        ) as s:
            messages = [{"role": "user", "content": "a"}]
            told = await post(s, "/tokenize", json={"messages": messages})
            assert told.json()["tokens"] == [1, 26]
            both = {"messages": messages, "prompt": "a"}
            for bad in ({}, both, {"messages": messages, "add_special_tokens": True}):
                assert (await post(s, "/tokenize", json=bad)).status_code == 400

    run(scenario)


@pytest.mark.parametrize("is_plain", [False, True])
def test_the_beginning_may_be_left_out(is_plain: bool, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(demo_directory())
    whole = tokenizer.encode("Once upon")
    inside = tokenizer.encode("Once upon", add_special_tokens=False)
    assert whole != inside
    encode = tokenizer.encode_plain if is_plain else tokenizer.encode
    assert encode("Once upon", add_special_tokens=False) == inside
    security = SecurityConfig(tokens_file=write(tmp_path / "tokens.json"))
    headers = bearer(ALICE) if is_plain else {}

    async def scenario() -> None:
        async with serving(
            directory=demo_directory(),
            http_port=0,
            **({"security": security} if is_plain else {}),
        ) as s:
            for has, ids in ((None, whole), (True, whole), (False, inside)):
                asked = {"prompt": "Once upon", "add_special_tokens": has}
                answer = await post(s, "/tokenize", json=asked, headers=headers)
                assert answer.json()["tokens"] == ids

    run(scenario)


def test_letters_of_a_special_token_stay_letters_without_the_right(
    letters_dir: Path, tmp_path: Path
) -> None:
    security = SecurityConfig(tokens_file=write(tmp_path / "tokens.json"))

    async def scenario() -> None:
        async with serving(directory=letters_dir, http_port=0, security=security) as s:
            asked = {"prompt": "a</s>"}
            told = await post(s, "/tokenize", json=asked, headers=bearer(ALICE))
            assert 0 not in told.json()["tokens"]

    run(scenario)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/tokenize", {"prompt": "a" * 3_000_000}, "prompt"),
        ("/tokenize", {"prompt": 7}, "prompt"),
        ("/tokenize", {"prompt": "a", "tools": [{}]}, "tools"),
        ("/tokenize", {"messages": [{"role": "user", "content": "a"}]}, "messages"),
        ("/detokenize", {"tokens": [1] * 1001}, "tokens"),
        ("/detokenize", {"tokens": [31]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": "abc"}, "tokens"),
        ("/detokenize", {}, "tokens"),
    ],
)
def test_what_cannot_be_read_is_told_by_field(
    path: str, body: dict[str, Any], field: str, letters_dir: Path
) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, http_port=0) as s:
            answer = await post(s, path, json=body)
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == field
            unknown = await post(s, path, json={"model": "other", **body})
            assert unknown.status_code in (400, 404)

    run(scenario)


def test_a_surrogate_is_the_callers_fault(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, http_port=0) as s:
            answer = await post(s, "/tokenize", content=b'{"prompt": "\\ud800 "}')
            assert answer.status_code == 400

    run(scenario)


def test_fields_that_nobody_knows_are_named(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(directory=letters_dir, http_port=0) as s:
            for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {})):
                asked = {"tokens": [1], "zebra": 1, **body}
                if path == "/tokenize":
                    del asked["tokens"]
                answer = await post(s, path, json=asked)
                assert answer.headers["x-mell-unknown-fields"] == "zebra"

    run(scenario)


def test_the_configuration_of_a_tokenizer_is_told_without_places(
    letters_dir: Path, tmp_path: Path
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((letters_dir / name).read_bytes())
    config = {"eos_token": "</s>", "name_or_path": "/a/place", "vocab_file": "/b"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))

    async def scenario() -> None:
        async with (
            serving(directory=tmp_path, http_port=0) as s,
            httpx2.AsyncClient(base_url=f"http://{s.http}") as client,
        ):
            answer = await client.get("/tokenizer_info", params={"model": "letters"})
            assert answer.json() == {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": "</s>",
            }
            other = await client.get("/tokenizer_info", params={"model": "other"})
            assert other.status_code == 404

    run(scenario)


def test_a_server_without_a_tokenizer_says_so() -> None:
    async def scenario() -> None:
        async with (
            serving(http_port=0) as s,
            httpx2.AsyncClient(base_url=f"http://{s.http}") as client,
        ):
            for answer in (
                await client.post("/tokenize", json={"prompt": "a"}),
                await client.post("/detokenize", json={"tokens": [1]}),
                await client.get("/tokenizer_info"),
            ):
                assert answer.status_code == 400
                assert "needs a tokenizer" in answer.json()["error"]["message"]

    run(scenario)


def test_a_flood_is_told_to_come_back(
    letters_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "MAX_AT_A_TIME", 0)

    async def scenario() -> None:
        async with serving(directory=letters_dir, http_port=0) as s:
            answers = await asyncio.gather(
                post(s, "/tokenize", json={"prompt": "a"}),
                post(s, "/detokenize", json={"tokens": [1]}),
            )
            assert [answer.status_code for answer in answers] == [429, 429]
            assert answers[0].headers["retry-after"] == "1"

    run(scenario)


def test_the_version_and_a_ping(letters_dir: Path) -> None:
    async def scenario() -> None:
        async with (
            serving(directory=letters_dir, http_port=0) as s,
            httpx2.AsyncClient(base_url=f"http://{s.http}") as client,
        ):
            answer = await client.get("/version")
            assert answer.json() == {"version": own_version()}
            assert (await client.get("/ping")).status_code == 200
            assert (await client.post("/ping")).status_code == 200

    run(scenario)
