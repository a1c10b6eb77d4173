"""Pieces become OpenAI's JSON: whole answers and chunks of streams; pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, final

from mell_jax.engine.new_weights import FIRST
from mell_jax.serving.openai.messages import CallWriter, finish_reason, whole_message
from mell_jax.serving.openai.samples import Piece, Word
from mell_jax.serving.openai.telling import PromptFacts

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """Every object of one answer begins with this."""

    id: str
    created: int  # seconds of the wall clock
    model: str
    fingerprint: str | None = None  # of the version and the weights of the start
    weights_version: str = ""  # of the last token so far; empty before the first

    def at(self, version: str) -> "Heading":
        """Returns the heading of what is told once tokens are of this version."""
        return replace(self, weights_version=version or self.weights_version)

    @property
    def facts(self) -> Json:
        """Returns what tells which weights have answered."""
        version, fingerprint = self.weights_version, self.fingerprint
        if fingerprint is not None and version not in ("", FIRST.version):
            fingerprint = f"{fingerprint}-{version}"
        told = {"system_fingerprint": fingerprint}
        return {**told, "weight_version": version} if version else told


class Writer(Protocol):
    """A writer knows what differs between the two APIs."""

    id_prefix: str

    def whole(self, heading: Heading, pieces: Sequence[Piece], *, usage: Json) -> Json:
        """Returns an answer that is not streamed; a piece is a whole choice."""
        ...

    def chunks(self, heading: Heading, piece: Piece) -> Sequence[Json]:
        """Returns what a stream tells of a piece."""
        ...

    def last(self, heading: Heading, *, usage: Json) -> Json:
        """Returns the usage at the end of a stream."""
        ...


@final
class CompletionWriter:
    """Writes answers of /v1/completions."""

    id_prefix = "cmpl-"

    def whole(self, heading: Heading, pieces: Sequence[Piece], *, usage: Json) -> Json:
        return _object(
            heading,
            kind="text_completion",
            choices=[_completion_choice(piece) for piece in pieces],
            usage=usage,
        )

    def chunks(self, heading: Heading, piece: Piece) -> Sequence[Json]:
        choices = [_completion_choice(piece)]
        return [_object(heading, kind="text_completion", choices=choices)]

    def last(self, heading: Heading, *, usage: Json) -> Json:
        return _object(heading, kind="text_completion", choices=[], usage=usage)


@final
class ChatWriter:
    """Writes answers of /v1/chat/completions."""

    id_prefix = "chatcmpl-"

    def whole(self, heading: Heading, pieces: Sequence[Piece], *, usage: Json) -> Json:
        return _object(
            heading,
            kind="chat.completion",
            choices=[
                {
                    "index": piece.index,
                    "message": whole_message(piece),
                    "logprobs": _chat_logprobs(piece),
                    "finish_reason": finish_reason(piece),
                    **_token_ids(piece),
                }
                for piece in pieces
            ],
            usage=usage,
            prompt=pieces[0].prompt if pieces else None,
        )

    def __init__(self) -> None:
        """Starts with nothing written."""
        self._calls: dict[int, CallWriter] = {}  # by choice

    def chunks(self, heading: Heading, piece: Piece) -> Sequence[Json]:
        calls = self._calls.setdefault(piece.index, CallWriter())
        deltas = calls.deltas(piece)
        if piece.is_first:
            deltas = [{"role": "assistant", **deltas[0]}, *deltas[1:]]
        choices: list[dict[str, object]] = [
            {
                "index": piece.index,
                "delta": delta,
                "logprobs": None,
                "finish_reason": None,
            }
            for delta in deltas
        ]
        if choices:
            choices[0] |= {"logprobs": _chat_logprobs(piece), **_token_ids(piece)}
            choices[-1]["finish_reason"] = calls.finish_reason(piece)
        return [
            _object(
                heading,
                kind="chat.completion.chunk",
                choices=[choice],
                prompt=piece.prompt if number == 0 else None,
            )
            for number, choice in enumerate(choices)
        ]

    def last(self, heading: Heading, *, usage: Json) -> Json:
        return _object(heading, kind="chat.completion.chunk", choices=[], usage=usage)


def _object(
    heading: Heading,
    *,
    kind: str,
    choices: Sequence[Json],
    usage: Json | None = None,
    prompt: PromptFacts | None = None,
) -> Json:
    return {
        "id": heading.id,
        "object": kind,
        "created": heading.created,
        "model": heading.model,
        **heading.facts,
        "choices": choices,
        "usage": usage,
        **_facts(prompt),
    }


def _token_ids(piece: Piece) -> Json:
    """Which tokens there are, and of which weights where that is not plain."""
    told: dict[str, object] = {}
    if piece.token_ids is not None:
        told["token_ids"] = piece.token_ids
    if piece.token_ids is not None or len(piece.versions) > 1:
        told["weight_versions"] = [each._asdict() for each in piece.versions]
    return told


def _facts(prompt: PromptFacts | None) -> Json:
    """What is told of a prompt: vLLM has it by choice, or for chat once."""
    told: dict[str, object] = {}
    if prompt is not None and prompt.token_ids is not None:
        told["prompt_token_ids"] = prompt.token_ids
    if prompt is not None and prompt.logprobs is not None:
        told["prompt_logprobs"] = prompt.logprobs
    return told


def _completion_choice(piece: Piece) -> Json:
    return {
        "index": piece.index,
        "text": piece.text,
        "logprobs": _completion_logprobs(piece),
        "finish_reason": piece.finish_reason,
        **_token_ids(piece),
        **_facts(piece.prompt),
    }


def _completion_logprobs(piece: Piece) -> Json | None:
    words = piece.words
    if words is None:
        return None
    return {
        "tokens": [_key(word.text, word.utf8) for word in words],
        "token_logprobs": [word.logprob for word in words],
        "top_logprobs": [_top_of(word) for word in words],
        "text_offset": piece.offsets,
    }


def _top_of(word: Word) -> dict[str, float] | None:
    """The alternatives, and the token itself where it is not among them."""
    if word.logprob is None:
        return None
    top = {_key(text, utf8): logprob for text, utf8, logprob in word.top}
    top.setdefault(_key(word.text, word.utf8), word.logprob)
    return top


def _key(text: str, utf8: bytes) -> str:
    """A token's text, or its bytes where it is only part of a character."""
    if text.encode("utf-8") == utf8:
        return text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in utf8)


def _chat_logprobs(piece: Piece) -> Json | None:
    if piece.words is None:
        return None
    content = [
        {
            **_entry(word.text, word.utf8, word.logprob),
            "top_logprobs": [_entry(*each) for each in word.top],
        }
        for word in piece.words
    ]
    return {"content": content, "refusal": None}


def _entry(text: str, utf8: bytes, logprob: float | None) -> dict[str, object]:
    return {"token": text, "logprob": logprob, "bytes": list(utf8)}
