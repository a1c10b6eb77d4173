"""A toy that writes all of ASCII that the corpus has, and some of the rest in bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.frames import FinishReason, Handle, Submit
from mell_jax.engine.params import SamplingParams
from mell_jax.grammar import Grammar, TokenTable
from tests.engine.fleet.toy_fleet import toy_fleet
from tests.toy import TOY_END, VOCAB, Transcript, toy_table

MOST = 480
_BYTES = sorted(set("äöß日本€😀\u00a0".encode()))
_UNUSED = "BFGIJKLNOQRUVX`~"
"""Letters that no format needs, whose tokens write bytes instead."""


def corpus_table() -> TokenTable:
    """What tokens write: no letter is lost that a format needs."""
    plain = toy_table()
    written = list(plain.token_bytes)
    for letter, byte in zip(_UNUSED, _BYTES, strict=True):
        written[written.index(letter.encode())] = bytes([byte])
    return TokenTable(
        token_bytes=written,
        special_ids=plain.special_ids,
        end_ids=plain.end_ids,
        vocab_size=VOCAB,
        encode=lambda text: [written.index(bytes([byte])) for byte in text.encode()],
    )


TABLE = corpus_table()
_ENDINGS = {
    **{b"<end>": 3.6, b'"': 3.5, b"}": 3.4, b"]": 3.4},
    **{b"@": 3.45, b":": 3.3, b"D": 3.3, b")": 3.2},  # of mail, addresses and durations
}
"""Less than the sum's, so that answers go their own way, and come to an end."""
BIAS = {TABLE.token_bytes.index(token): bias for token, bias in _ENDINGS.items()}


def text_of(tokens: Sequence[int]) -> str:
    """The text of tokens, without an end."""
    return b"".join(TABLE.token_bytes[t] for t in tokens if t != TOY_END).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What one stream asks for."""

    grammar: Grammar | None
    temperature: float = 1.0
    seed: int = 0
    most: int = MOST

    def submit(self, handle: int) -> Submit:
        rng = np.random.default_rng(self.seed)
        return Submit(
            handle=Handle(handle),
            prompt=rng.integers(0, VOCAB, 1 + self.seed % 17).astype(np.int32),
            params=SamplingParams(
                temperature=self.temperature,
                seed=self.seed,
                max_tokens=self.most,
                logit_bias=BIAS if self.grammar else {},
                ignore_eos=self.grammar is None,
                grammar=self.grammar,
            ),
        )


def _fleet() -> Fleet:
    fleet = toy_fleet(devices=1, has_grammars=True, max_tokens=MOST + 32)
    fleet.learn("toy", TABLE)
    return fleet


@dataclass(slots=True)
class CorpusFleet:
    """A fleet of one that answers many wishes at once."""

    fleet: Fleet = field(default_factory=_fleet)
    count: int = 0

    def tokens(self, wishes: Mapping[str, Wish]) -> dict[str, list[int]]:
        """The tokens of each wish, of which none may fail or be cut, but free ones."""
        handles = {name: self.count + i for i, name in enumerate(wishes)}
        self.count += len(wishes)
        for name, wish in wishes.items():
            self.fleet.submit(wish.submit(handles[name]))
        seen = Transcript()
        while self.fleet.has_work or self.fleet.machine.waiting:
            seen.read(self.fleet.step())
        ends = {name: seen.finished[handle] for name, handle in handles.items()}
        wanted = {
            name: FinishReason.STOP if wish.grammar else FinishReason.LENGTH
            for name, wish in wishes.items()
        }
        cut = {name: end for name, end in ends.items() if end.reason != wanted[name]}
        assert not cut, f"these did not end as they should: {cut}"
        return {name: seen.tokens[handle] for name, handle in handles.items()}

    def texts(self, wishes: Mapping[str, Wish]) -> dict[str, str]:
        """The same as texts."""
        return {name: text_of(tokens) for name, tokens in self.tokens(wishes).items()}
