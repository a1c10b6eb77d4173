"""A server whose model says what a test tells it to say, letter by letter.

    async with speaking(tmp_path, says=["<think>so</think>", "ok"]) as s:
        await s.post("/v1/chat/completions", {"messages": ...})

One token is one letter, but for markers that the test wants to be special tokens. The
first sample submitted says the first text, and so on, again and again from the first.
"""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from mell_jax.engine.frames import (
    Finished,
    Handle,
    PromptDone,
    StepFrame,
    Submit,
)
from mell_jax.serving.served_model import ServedModel
from mell_jax.text.tokenizer import Tokenizer, load_tokenizer
from tests.serving.fake_engine import INFO, FakeEngine, fake_logprobs
from tests.serving.harness import listening

LETTERS = [*map(chr, range(32, 127)), "\n", "\u00e9", "\u2581", "\uff5c", "\U0001f600"]
TEMPLATE = """\
{%- if tools %}{{ tools | tojson }}{% endif -%}
{%- for m in messages -%}
[{{ m.role }}]{{ m.content or '' }}{{ m.reasoning_content or '' }}
{%- for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor -%}
{%- endfor -%}
{%- if add_generation_prompt -%}[assistant]{% endif -%}
"""
THINKING = (
    TEMPLATE
    + """\
{%- if add_generation_prompt and enable_thinking is defined and not enable_thinking -%}
{{ '<think>\\n\\n</think>\\n\\n' }}
{%- endif -%}
"""
)
STARTED = TEMPLATE + "{%- if add_generation_prompt -%}{{ '<think>\\n' }}{%- endif -%}\n"


def write_tokenizer(folder: Path, *, special: Sequence[str] = ()) -> Path:
    """A tokenizer of letters and of these special tokens."""
    texts = ["</s>", *LETTERS, *special]
    spec = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": texts.index(text),
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for text in ("</s>", *special)
        ],
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "(?m)[\\s\\S]"},
            "behavior": "Isolated",
            "invert": False,
        },
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {text: number for number, text in enumerate(texts)},
            "unk_token": "?",
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return folder


class SpeakingEngine(FakeEngine):
    """Says texts instead of sums; each ends with the end of texts."""

    def __init__(self, tokenizer: Tokenizer, *, says: Sequence[str]) -> None:
        super().__init__(
            info=replace(INFO, vocab_size=tokenizer.vocab_size, max_model_len=100_000)
        )
        self.says = says
        self._tokenizer = tokenizer
        self._scripts: dict[Handle, list[int]] = {}

    def say(self, *texts: str) -> None:
        """What samples from now on say."""
        self.says = texts
        self._scripts.clear()

    def _make_frame(
        self, prompts: list[PromptDone], finished: list[Finished]
    ) -> StepFrame:
        submits = {submit.handle: submit for submit in self.submits}
        handles, tokens = [], []
        for handle, sequence in list(self._live.items()):
            submit = submits[handle]
            token = self._script(submit)[len(sequence) - submit.prompt.size]
            sequence.append(token)
            handles.append(handle)
            tokens.append(token)
            num_generated = len(sequence) - submit.prompt.size
            if end := self._end_of(submit, token=token, num_generated=num_generated):
                del self._live[handle]
                finished.append(end)
        return StepFrame(
            handles=np.asarray(handles, dtype=np.int64),
            tokens=np.asarray(tokens, dtype=np.int32),
            logprobs=fake_logprobs(tokens),
            prompts=tuple(prompts),
            finished=tuple(finished),
        )

    def _script(self, submit: Submit) -> list[int]:
        if submit.handle not in self._scripts:
            text = self.says[len(self._scripts) % len(self.says)]
            ids = self._tokenizer.encode(text, add_special_tokens=False)
            self._scripts[submit.handle] = [*ids, 0]
        return self._scripts[submit.handle]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """A server and a client of it."""

    engine: SpeakingEngine
    tokenizer: Tokenizer
    client: httpx2.AsyncClient

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer's JSON, whatever its status."""
        return (await self.client.post(path, json=body)).json()

    async def chat(self, **body: Any) -> Any:
        """The whole answer of a chat, which there must be."""
        answer = await self.client.post(
            "/v1/chat/completions", json={"messages": HELLO, **body}
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def stream(self, **body: Any) -> list[Any]:
        """The chunks of a streamed chat."""
        answer = await self.client.post(
            "/v1/chat/completions", json={"messages": HELLO, "stream": True, **body}
        )
        assert answer.status_code == 200, answer.text
        *events, done, nothing = answer.text.split("\n\n")
        assert (done, nothing) == ("data: [DONE]", "")
        return [json.loads(event.removeprefix("data: ")) for event in events]

    async def refused(self, **body: Any) -> tuple[str | None, str]:
        """The field at fault and the message of a chat that must be refused."""
        answer = await self.client.post(
            "/v1/chat/completions", json={"messages": HELLO, **body}
        )
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        return error["param"], error["message"]

    def last_prompt(self) -> str:
        """What the engine was asked last."""
        ids = self.engine.submits[-1].prompt.tolist()
        return self.tokenizer.decode(ids, skip_special_tokens=False)


HELLO = [{"role": "user", "content": "hello"}]


@asynccontextmanager
async def speaking(
    folder: Path,
    *,
    says: Sequence[str],
    special: Sequence[str] = (),
    template: str = TEMPLATE,
    form: str | None = "hermes",
    **config: Any,
) -> AsyncIterator[Speaker]:
    """A server that says these texts.

    Args:
      folder: an empty one.
      says: texts, in turn.
      special: texts that are special tokens.
      template: of chats.
      form: of calls.
      config: fields of `ServerConfig`.
    """
    tokenizer = load_tokenizer(write_tokenizer(folder, special=special))
    path = folder / "template.jinja"
    path.write_text(template)
    engine = SpeakingEngine(tokenizer, says=says)
    model = ServedModel(
        name="letters", path="", tokenizer_dir=folder, tokenizer=tokenizer
    )
    async with (
        listening(
            engine,
            models=[model],
            http_port=0,
            chat_templates=(str(path),),
            tool_formats=() if form is None else (form,),
            **config,
        ) as (_, addresses),
        httpx2.AsyncClient(base_url=f"http://{addresses.http}", timeout=50) as client,
    ):
        yield Speaker(engine=engine, tokenizer=tokenizer, client=client)
