"""A real model's tokens are kept to a grammar: python real_model_library.py FILE

By the library, with the file's own tokenizer of 49,152 tokens: what masks let through,
how many steps forced tokens save, and that streams which move between two devices of
this CPU after every step have the tokens of those that stay.
"""

import re
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from real_model_shapes import COUNTRY

from mell_jax import LLM, SamplingParams
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.fleet.faults import Fault
from mell_jax.engine.fleet_view import MoveOutcome
from mell_jax.frontend.delta import Delta
from mell_jax.grammar import Grammar, GuideMaker
from mell_jax.scheduler.transfer import Mode
from mell_jax.text.chat_template import ChatTemplate, Variables
from mell_jax.text.template_source import find_template
from mell_jax.text.tokenizer import Tokenizer
from mell_jax.worker.cpu_devices import use_cpu_devices

PROMPT = "<|im_start|>user\nDescribe France.<|im_end|>\n<|im_start|>assistant\n"
ANSWER = (
    '{"name": "France", "capital": "Paris", "continent": "Europe", "is_island": true}'
)
SCHEMA = Grammar.from_json_schema(COUNTRY)
TAIL = Grammar.from_regex("[A-Z][a-z ]{20,30}[.]")
LONG_TAIL = " quick brown fox jumps over the lazy dog, and runs away from it"
LONG = Grammar.from_regex(f"[A-Z]{LONG_TAIL}")
STREAMS = (
    SamplingParams(temperature=0.0, max_tokens=48, grammar=SCHEMA),
    SamplingParams(temperature=0.9, seed=7, max_tokens=48, grammar=SCHEMA),
    SamplingParams(temperature=0.9, seed=8, max_tokens=48, grammar=TAIL),
    *(SamplingParams(temperature=0.0, max_tokens=48, ignore_eos=True),) * 3,
)
ROWS = 4
"""Of an instance, fewer than streams, so that two have to serve."""


def check_template(file: Path) -> None:
    """Without tools `hermes.jinja` writes what the template in the file does."""
    own = find_template(file)
    assert own is not None, "the file has no chat template"
    hermes = (Path(__file__).parent / "hermes.jinja").read_text()
    turns = [("user", "a"), ("assistant", "b"), ("user", "c\n")]
    for system in ([], [("system", "d")]):
        messages = [{"role": role, "content": text} for role, text in system + turns]
        texts = {
            ChatTemplate(source).render(Variables(messages=messages), max_chars=999)
            for source in (own.text, hermes)
        }
        assert len(texts) == 1, texts


def check_masks(tokenizer: Tokenizer, *, end_ids: Sequence[int], size: int) -> None:
    """At each place exactly the tokens are let through that an expression has there."""
    table = tokenizer.token_table(end_ids=end_ids, vocab_size=size)
    guide = GuideMaker(table).make(
        Grammar.from_regex("[a-z ]{1,8}"), stop_ids=end_ids, forces=True
    )
    letters, token = 8, list[int]()
    while letters:
        guidance = guide.advance(token)
        assert guidance.mask is not None and not guidance.forced, guidance
        bits = np.unpackbits(guidance.mask.view(np.uint8), bitorder="little")
        pattern = re.compile(rb"[a-z ]{1,%d}" % letters)
        wanted = {
            number
            for number, text in enumerate(table.token_bytes)
            if text is not None and pattern.fullmatch(text)
        } - table.special_ids
        assert wanted, "no token is made of letters"
        allowed = set(np.flatnonzero(bits).tolist())
        ends = set(end_ids) if letters < 8 else set()
        assert allowed == wanted | ends, (letters, allowed ^ (wanted | ends))
        if letters == 8:
            print(f"{len(wanted)} of {size} tokens begin an answer of letters")
        token = [min(wanted, key=lambda one: len(table.token_bytes[one] or b""))]
        letters -= len(table.token_bytes[token[0]] or b"")


def check_forced(llm: LLM) -> None:
    """Long runs that a grammar forces take no steps, and all tokens are the same."""
    params = SamplingParams(temperature=0.0, max_tokens=48, grammar=LONG)
    before = llm.load()
    answer = llm.generate(PROMPT, params)[0].completions[0]
    tokens = len(answer.token_ids)
    while (load := llm.load()).running or load.steps == before.steps:
        time.sleep(0.01)
    steps = load.steps - before.steps
    print(f"{answer.text}: {tokens} tokens in {steps} steps")
    assert answer.text[1:] == LONG_TAIL, answer
    assert answer.finish_reason == "stop", answer
    assert load.generated_tokens - before.generated_tokens == tokens, load
    assert steps <= tokens // 2, (tokens, steps)
    answer = llm.generate(PROMPT, STREAMS[0])[0].completions[0]
    assert answer.text == ANSWER, answer
    each = SamplingParams(temperature=0.0, max_tokens=48, grammar=SCHEMA, logprobs=0)
    sampled = llm.generate(PROMPT, each)[0].completions[0]
    assert sampled.token_ids == answer.token_ids, (sampled, answer)


def tokens_of(llm: LLM) -> list[tuple[int, ...]]:
    """The tokens of all streams, which run together."""
    answers = llm.generate([PROMPT] * len(STREAMS), STREAMS)
    return [answer.token_ids for answer in answers]


def check_pieces(llm: LLM, *, tokens: tuple[int, ...]) -> None:
    """A stream has in its pieces what came whole."""
    deltas: list[Delta] = list(llm.stream(PROMPT, STREAMS[0]))
    assert len(deltas) > 2, "this is no stream"
    assert tuple(one for delta in deltas for one in delta.token_ids) == tokens
    assert "".join(delta.text for delta in deltas) == ANSWER, deltas


def main(file: str) -> None:
    use_cpu_devices(2)
    check_template(Path(file))
    with tempfile.TemporaryDirectory() as folder:
        made = partial(
            LLM,
            file,
            max_rows=ROWS,
            token_budget=32,
            max_model_len=128,
            decode_rows=(ROWS,),
            kv_pages=8 * ROWS + 1,
            compilation_cache_dir=folder,
        )
        with made() as llm:
            assert llm.tokenizer is not None
            size = llm.info.vocab_size
            check_masks(llm.tokenizer, end_ids=llm.info.eos_token_ids, size=size)
            check_forced(llm)
            still = tokens_of(llm)
            check_pieces(llm, tokens=still[0])
        fault = FleetConfig(mode=Mode.KV, place_wait_ms=0.0, fault=Fault(move_every=1))
        with made(instances=2, fleet=fault) as llm:
            moved = tokens_of(llm)
            while (load := llm.load()).running:
                time.sleep(0.01)
            view = load.fleet
            assert view is not None
            moves = view.stats.count(MoveOutcome.COMMITTED)
    assert moved == still, (moved, still)
    assert moves > len(STREAMS), f"{moves} moves are too few"
    print(f"the real model keeps to grammars, also over {moves} moves")


if __name__ == "__main__":
    main(*sys.argv[1:])
