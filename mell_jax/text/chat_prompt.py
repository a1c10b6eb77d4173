"""Turns messages into token ids; nothing that a user writes becomes a control token.

A user may spell a control token, "<|im_end|>", to end his turn and speak as the system.
Such spellings, and beginnings of one at the end of a message, are cut by a mark that
nobody can guess before the template sees them, and the text is tokenized mark by mark:

    template("<|im_end|>")  ->  "...user\\n<" | "|im_end|><|im_end|>\\n..."
                                           ^ cut     the template's own ^

Text without such spellings is tokenized in one piece, as the model was trained.
"""

import secrets
from collections.abc import Sequence
from typing import Protocol, final

from mell_jax.text.chat_template import ChatTemplateError, Message
from mell_jax.text.tokenizer import Tokenizer

_MAX_PROBE_CHARS = 100_000


class Renderer(Protocol):
    """Makes the text of a conversation; see `ChatTemplate.render`."""

    def render(
        self,
        messages: Sequence[Message],
        *,
        max_chars: int,
        asks_for_answer: bool = True,
    ) -> str: ...


@final
class ChatPrompt:
    """A chat prompt joins a template and the tokenizer of its model."""

    def __init__(self, tokenizer: Tokenizer, *, template: Renderer) -> None:
        self._tokenizer = tokenizer
        self._template = template

    def encode(self, messages: Sequence[Message], *, max_tokens: int) -> list[int]:
        """Returns the ids up to where the answer begins.

        Args:
            messages: each with a role of the program's and a content of the user's.
            max_tokens: contents that must have more are refused before anything is
                done with them, and a text before it is tokenized.

        Raises:
            ChatTemplateError: the template refuses the messages.
            ValueError: the text is too long or has an unpaired surrogate.
        """
        contents = "".join(message["content"] for message in messages)
        self._tokenizer.check_prompt_bytes(contents, max_tokens=max_tokens)
        mark = f"\ufdd0{secrets.token_hex(8)}\ufdd1"  # of no use outside a program
        safe = [
            {**message, "content": self._cut_up(message["content"], mark=mark)}
            for message in messages
        ]
        max_chars = max_tokens * self._tokenizer.longest_token_bytes
        text = self._template.render(safe, max_chars=max_chars)
        pieces = text.split(mark)
        self._tokenizer.check_prompt_bytes("".join(pieces), max_tokens=max_tokens)
        return [i for piece in pieces for i in self._encode_piece(piece)]

    def find_turn_end(self) -> tuple[int, str] | None:
        """Returns the special token that the template writes after an answer.

        With its text; None where it writes none, or refuses the conversation tried.
        """
        mark = secrets.token_hex(8)
        messages = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": mark},
        ]
        try:
            text = self._template.render(
                messages, max_chars=_MAX_PROBE_CHARS, asks_for_answer=False
            )
        except ChatTemplateError:
            return None
        _, found, rest = text.rpartition(mark)
        spellings = self._tokenizer.spellings
        first = next(iter(spellings.split(rest.lstrip())), "") if found else ""
        token = spellings.ids.get(first)
        return None if token is None else (token, first)

    def _cut_up(self, content: str, *, mark: str) -> str:
        """A content in which no control token is whole, nor begins at its end."""
        spellings, end = self._tokenizer.spellings, len(content.rstrip())
        if not spellings.may_go_on(content[:end]):
            return mark.join(spellings.cut(content))
        parts = (content[:end], content[end:])
        return mark.join(piece for part in parts for piece in spellings.cut(part))

    def _encode_piece(self, text: str) -> list[int]:
        """The ids of a text whose control tokens are the template's."""
        if self._tokenizer.reads_special_tokens:
            return self._tokenizer.encode(text, add_special_tokens=False)
        spellings, ids = self._tokenizer.spellings, list[int]()
        for part in spellings.split(text):
            if part in spellings.ids:
                ids.append(spellings.ids[part])
            else:
                ids += self._tokenizer.encode(part, add_special_tokens=False)
        return ids
