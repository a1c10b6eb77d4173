"""A speech is how a model speaks: its template, its calls of tools, its thoughts.

    Speech.turn(conversation, tools, shape)  ->  Turn
    Turn.make(model)   in a thread: the prompt, and the grammar of its answer
    Turn.parser()      for each sample: what its text is made of

Every protocol of conversations goes this way, so that tools, thoughts and shapes are
understood in one place.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from mell_jax.engine.params import InvalidRequestError
from mell_jax.frontend import FrontModel, MadePrompt
from mell_jax.grammar import Grammar, GrammarError
from mell_jax.serving.chat.tools import NO_TOOLS, Tooling
from mell_jax.serving.problem import MissingTokenizerError, UnsupportedError
from mell_jax.text.answers import (
    AnswerParser,
    Beginning,
    Choice,
    Reasoning,
    Toolbox,
    ToolFormat,
    behind_thoughts,
    find_beginning,
)
from mell_jax.text.chat_prompt import ChatPrompt, EncodedChat
from mell_jax.text.chat_template import ChatTemplateError
from mell_jax.text.conversation import Conversation, ConversationError, text_parts
from mell_jax.text.tokenizer import Tokenizer

MAX_MESSAGES = 4096
"""Of one conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """The speech of one model.

    Attributes:
      chat: its template.
      tokenizer: of the model.
      form: how it writes calls of tools; None when it is not known.
      reasoning: how it marks thoughts; None when it has none.
    """

    chat: ChatPrompt
    tokenizer: Tokenizer
    form: ToolFormat | None = None
    reasoning: Reasoning | None = None

    def turn(
        self,
        conversation: Conversation,
        *,
        tooling: Tooling = NO_TOOLS,
        shape: Grammar | None = None,
        shape_field: str = "grammar",
    ) -> "Turn":
        """Returns the turn of the model in a conversation.

        Args:
          conversation: to be answered.
          tooling: what the answer may call.
          shape: the answer's, where it is no call.
          shape_field: of the request that asks for it; errors name it.

        Raises:
          UnsupportedError: nobody knows how this model calls tools.
        """
        if tooling.box.callable and self.form is None:
            raise UnsupportedError(
                "tools is not supported: the chat template of this model writes no "
                "calls in a format known here; --tool_format names the one it uses"
            )
        shapes = {} if shape is None else {shape_field: shape}
        return Turn(self, conversation, tooling=tooling, shapes=shapes)

    def special_id(self, text: str) -> int | None:
        """Returns the id of a text that is a special token; None if it is none."""
        return self.tokenizer.spellings.ids.get(text)


@final
class Turn:
    """A turn is one conversation on its way to a prompt and to an answer's parts."""

    def __init__(
        self,
        speech: Speech,
        conversation: Conversation,
        *,
        tooling: Tooling,
        shapes: Mapping[str, Grammar],
    ) -> None:
        """Remembers all; `shapes` is one or none, by the field that asks for it."""
        self._speech = speech
        self._conversation = conversation
        self._tools = tooling.box
        self._shapes = shapes
        self._beginning: Beginning | None = None  # until the prompt is made

    @property
    def is_parsed(self) -> bool:
        """Returns whether answers may have other parts than text."""
        return bool(self._tools.callable) or self._speech.reasoning is not None

    @property
    def kept_ids(self) -> frozenset[int]:
        """Returns special tokens that stand in the text which `parser` reads."""
        ids = map(self._speech.special_id, self._new_parser().spellings)
        return frozenset(token for token in ids if token is not None)

    def make(self, model: FrontModel) -> MadePrompt:
        """Returns the prompt, and the grammar of what may be answered to it.

        Raises:
          InvalidRequestError: the conversation or a tool cannot be used.
        """
        encoded = self._encode(max_tokens=model.info.max_model_len)
        if self._speech.reasoning is not None:
            self._beginning = find_beginning(
                self._speech.reasoning,
                prompt=encoded.text_end,
                continued=self._continued(),
            )
        wishes = self._wishes()
        grammar = self._grammar(wishes)
        return MadePrompt(ids=encoded.ids, grammar=grammar, wishes=wishes)

    def parser(self) -> AnswerParser:
        """Returns what reads one answer, once the prompt is made."""
        return self._new_parser(self._beginning or Beginning.AFTER)

    def _new_parser(self, beginning: Beginning = Beginning.BEFORE) -> AnswerParser:
        return AnswerParser(
            reasoning=self._speech.reasoning,
            beginning=beginning,
            form=self._speech.form,
            tools=self._tools,
        )

    def _encode(self, *, max_tokens: int) -> EncodedChat:
        try:
            return self._speech.chat.encode(self._conversation, max_tokens=max_tokens)
        except ConversationError as error:
            raise invalid_conversation(error) from error
        except ChatTemplateError as error:
            raise InvalidRequestError("messages", str(error)) from error
        except ValueError as error:
            raise InvalidRequestError("messages", f"are not usable: {error}") from error

    def _continued(self) -> str:
        """Returns the beginning of the answer, where the client sent one."""
        if not self._conversation.continues:
            return ""
        content = self._conversation.messages[-1].get("content")
        if isinstance(content, str):
            return content
        return "".join(str(part["text"]) for part in text_parts(content))

    def _grammar(self, wishes: Mapping[str, Grammar]) -> Grammar | None:
        """Returns the texts that the answer may be, thoughts included; None for any."""
        if not wishes:
            return None
        speech = self._speech
        grammar = functools.reduce(Grammar.or_else, wishes.values())
        if speech.reasoning is None or self._beginning is None:
            return grammar
        return behind_thoughts(
            grammar, speech.reasoning, self._beginning, special_id=speech.special_id
        )

    def _wishes(self) -> Mapping[str, Grammar]:
        """Returns what the answer may be, by field: calls, or what has the shape.

        Calls that may be left out stand in free text, unless that has a shape.
        """
        tools = self._tools
        if not tools.callable:
            return self._shapes
        if tools.choice.kind is not Choice.AUTO or not self._shapes:
            return {"tools": self._calls(tools)}
        return {"tools": self._calls(tools.requiring_one()), **self._shapes}

    def _calls(self, tools: Toolbox) -> Grammar:
        """Returns the grammar of calls."""
        form = self._speech.form
        assert form is not None, "a turn with tools has a format of calls"
        try:
            grammar = form.grammar(tools, special_id=self._speech.special_id)
        except GrammarError as error:
            raise InvalidRequestError("tools", str(error)) from error
        assert grammar is not None, "calls have a grammar"
        return grammar


def known_speech(speech: Speech | None) -> Speech:
    """Returns the speech of a model.

    Raises:
      InvalidRequestError: the model has no chat template.
    """
    if speech is None:
        raise InvalidRequestError(
            "messages",
            "need a chat template and this model has none: start the server with "
            "--chat_template=FILE, or use /v1/completions",
        )
    return speech


def tokenizer_of(model: FrontModel) -> Tokenizer:
    """Returns the tokenizer of a model.

    Raises:
      MissingTokenizerError: it is served without one.
    """
    if model.tokenizer is None:
        raise MissingTokenizerError(
            "text needs a tokenizer and this model is served without one"
        )
    return model.tokenizer


def invalid_conversation(error: ConversationError) -> InvalidRequestError:
    """Returns an error that names the field of chat completions."""
    return InvalidRequestError(_FIELDS.get(error.part, error.part), error.rule)


_FIELDS = {  # what a client calls the parts of a conversation
    "asks_for_answer": "add_generation_prompt",
    "continues": "continue_final_message",
    "kwargs": "chat_template_kwargs",
}
