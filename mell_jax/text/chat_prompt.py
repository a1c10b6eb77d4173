"""Turns conversations into token ids; nothing that a user writes is a control token.

A user may spell a control token, "<|im_end|>", to end his turn and speak as the system.
Such spellings, and beginnings of one at the end of a string, are cut by a mark that
nobody can guess before the template sees them, and the text is tokenized mark by mark:

    template("<|im_end|>")  ->  "...user\\n<" | "|im_end|><|im_end|>\\n..."
                                           ^ cut     the template's own ^

So it is with every string of a conversation: what was said, what tools said and are
called, their schemas, arguments, documents. Strings without such spellings stay as they
are, and text is tokenized in one piece, as the model was trained.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast, final

from mell_jax.text.chat_template import Variables
from mell_jax.text.conversation import ROLES, Conversation
from mell_jax.text.final_message import FinalMessage
from mell_jax.text.json_values import JsonValue, map_strings
from mell_jax.text.marks import Mark, make_digits
from mell_jax.text.template_habits import Renderer, TemplateHabits
from mell_jax.text.template_messages import for_template
from mell_jax.text.tokenizer import Tokenizer

_END_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedChat:
    """A conversation as a prompt.

    Attributes:
      ids: up to where the answer begins.
      text_end: the last characters of the text, enough to see what is open there.
    """

    ids: list[int]
    text_end: str


@final
class ChatPrompt:
    """A chat prompt joins a template and the tokenizer of its model."""

    def __init__(self, tokenizer: Tokenizer, *, template: Renderer) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._habits = TemplateHabits(template)

    def encode(self, conversation: Conversation, *, max_tokens: int) -> EncodedChat:
        """Returns the ids up to where the answer begins.

        Args:
            conversation: what to answer.
            max_tokens: strings that must have more are refused before anything is done
                with them, and a text before it is tokenized.

        Raises:
            ConversationError: a part of the conversation cannot be used.
            ChatTemplateError: the template refuses the conversation.
            ValueError: the text is too long or has an unpaired surrogate.
        """
        self._check("".join(conversation.strings()), max_tokens=max_tokens)
        mark = Mark()
        variables = self._variables(conversation, mark=mark)
        max_chars = max_tokens * self._tokenizer.longest_token_bytes
        if conversation.continues:
            final = FinalMessage(variables, tag=make_digits())
            text = self._template.render(final.tagged(), max_chars=max_chars)
            text = final.cut(text, remove_marks=mark.remove)
        else:
            text = self._template.render(variables, max_chars=max_chars)
        pieces = mark.split(text)
        whole = "".join(pieces)
        self._check(whole, max_tokens=max_tokens)
        return EncodedChat(
            ids=[i for piece in pieces for i in self._encode_piece(piece)],
            text_end=whole[-_END_CHARS:],
        )

    def find_turn_end(self) -> tuple[int, str] | None:
        """Returns the special token that the template writes after an answer.

        With its text; None where it writes none, or refuses the conversation tried.
        """
        answer = make_digits()
        text = self._habits.try_out(
            [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": answer},
            ]
        )
        _, found, rest = text.rpartition(answer)
        spellings = self._tokenizer.spellings
        first = next(iter(spellings.split(rest.lstrip())), "") if found else ""
        token = spellings.ids.get(first)
        return None if token is None else (token, first)

    def _check(self, text: str, *, max_tokens: int) -> None:
        self._tokenizer.check_prompt_bytes(text, max_tokens=max_tokens)

    def _variables(self, conversation: Conversation, *, mark: Mark) -> Variables:
        """What the template sees: its own form of messages, all strings cut up."""
        cut = self._cutter(mark)

        def safe(value: JsonValue) -> JsonValue:
            return map_strings(value, cut)

        messages = []
        for message in conversation.messages:
            shaped = for_template(message, habits=self._habits)
            cut_up = {key: safe(value) for key, value in shaped.items()}
            role = shaped.get("role")
            messages.append(cut_up | ({"role": role} if role in ROLES else {}))
        tools, documents = safe(conversation.tools), safe(conversation.documents)
        return Variables(
            messages=messages,
            tools=cast("list[JsonValue] | None", tools),
            documents=cast("list[JsonValue] | None", documents),
            kwargs={name: safe(value) for name, value in conversation.kwargs.items()},
            asks_for_answer=conversation.asks_for_answer,
        )

    def _cutter(self, mark: Mark) -> Callable[[str], str]:
        """Cuts up strings; those of schemas come again and again."""
        known: dict[str, str] = {}

        def cut(text: str) -> str:
            if text not in known:
                known[text] = self._cut_up(text, mark=mark)
            return known[text]

        return cut

    def _cut_up(self, text: str, *, mark: Mark) -> str:
        """A text in which no control token is whole, nor begins at its end."""
        spellings, end = self._tokenizer.spellings, len(text.rstrip())
        if not spellings.may_go_on(text[:end]):
            return mark.join(spellings.cut(text))
        parts = (text[:end], text[end:])
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
