"""The desk takes wishes of any protocol to the engine, and answers back as steps."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, final

from starlette.requests import Request
from starlette.responses import Response

from mell_jax.engine.params import InvalidRequestError
from mell_jax.frontend import (
    Delta,
    FrontEnd,
    FrontModel,
    RequestFailedError,
    generate,
)
from mell_jax.serving.asker import Asker
from mell_jax.serving.chat.events import Begun, Ended, Step, Thought, Usage
from mell_jax.serving.chat.reply import Manner, Reply
from mell_jax.serving.chat.speech import (
    MAX_MESSAGES,
    Speech,
    Turn,
    invalid_conversation,
    known_speech,
    tokenizer_of,
)
from mell_jax.serving.chat.teller import Teller
from mell_jax.serving.chat.tools import tooling_of
from mell_jax.serving.chat.wish import ChatWish, Json
from mell_jax.serving.constraint import grammar_of
from mell_jax.serving.http.body import Bodies
from mell_jax.serving.http.sse import AsResponse
from mell_jax.serving.stall import Stalls
from mell_jax.text.answers import AnswerParser
from mell_jax.text.conversation import Conversation, ConversationError


@final
class Desk:
    """A desk keeps nothing between requests."""

    def __init__(
        self,
        front_end: FrontEnd,
        *,
        speeches: Mapping[str, Speech],
        check_open: Callable[[], None],
        stalls: Stalls,
        comment_s: float,
    ) -> None:
        """Gets ready to answer.

        Args:
          front_end: where requests go.
          speeches: of the models that have a chat template, by name.
          check_open: raises what keeps new requests out.
          stalls: ends streams that nobody reads.
          comment_s: after so long without an event a stream gets a comment.
        """
        self.comment_s = comment_s
        self._front_end = front_end
        self._speeches = speeches
        self._check_open = check_open
        self._stalls = stalls
        self._bodies = Bodies()

    async def read(self, request: Request) -> bytes:
        """Returns the body of a request; see `Bodies.read`."""
        return await self._bodies.read(request)

    def find(self, name: str | None) -> FrontModel:
        """Returns a model that chats, the first one without a name.

        Raises:
          UnknownModelError: no model of that name is served.
          MissingTokenizerError: it is served without a tokenizer.
        """
        model = self._front_end.models.find(name or "")
        tokenizer_of(model)
        return model

    def answer(
        self,
        wish: ChatWish,
        *,
        model: FrontModel,
        asker: Asker,
        teller: Teller,
        manner: Manner,
    ) -> Response:
        """Returns the answer, of which nothing has been asked for yet.

        Args:
          wish: of the client.
          model: that answers.
          asker: who asks.
          teller: of the client's protocol.
          manner: of the answer.

        Raises:
          InvalidRequestError: the wish cannot be understood.
          UnsupportedError: this server does not have what is asked for.
        """
        self._check_open()
        name = model.info.model_name
        turn = turn_of(wish, speech=self._speeches.get(name))
        ask = asker.ask(
            prompt=turn.make, params=wish.params, model=name, kept_ids=turn.kept_ids
        )
        steps = _steps(generate(self._front_end, ask), turn=turn)
        return AsResponse(
            Reply(steps, teller=teller, manner=manner, stalls=self._stalls)
        )


def turn_of(wish: ChatWish, *, speech: Speech | None) -> Turn:
    """Returns the turn of a model that a wish asks for.

    Raises:
      InvalidRequestError: the wish cannot be understood.
      UnsupportedError: the model cannot do what is asked for.
    """
    if not (1 <= len(wish.messages) <= MAX_MESSAGES):
        raise InvalidRequestError(
            "messages", f"must be 1 to {MAX_MESSAGES}, got {len(wish.messages)}"
        )
    tooling = tooling_of(
        wish.tools, choice=wish.tool_choice, is_parallel=wish.is_parallel
    )
    shape = grammar_of({"response_format": wish.response_format})
    try:
        conversation = Conversation(
            messages=[_named_by_us(message) for message in wish.messages],
            tools=tooling.for_template(),
            kwargs=_variables(wish),
            asks_for_answer=not wish.continues_last,
            continues=wish.continues_last,
        )
    except ConversationError as error:
        raise invalid_conversation(error) from error
    return known_speech(speech).turn(
        conversation, tooling=tooling, shape=shape, shape_field="response_format"
    )


def _variables(wish: ChatWish) -> Json:
    """Returns what templates know of how much a model thinks."""
    said: dict[str, Any] = dict(wish.template_kwargs)
    if wish.thinks is not None:
        said["enable_thinking"] = wish.thinks
    if wish.effort is not None:
        said["reasoning_effort"] = wish.effort
    return said


def _named_by_us(message: Json) -> Json:
    """Returns a message whose role templates know."""
    is_new = message.get("role") == "developer"
    return {**message, "role": "system"} if is_new else message


async def _steps(deltas: AsyncGenerator[Delta], *, turn: Turn) -> AsyncGenerator[Step]:
    """Yields the steps of one answer."""
    parser: AnswerParser | None = None
    thought_tokens = 0
    async with contextlib.aclosing(deltas):
        async for delta in deltas:
            is_first = parser is None
            parser = parser or turn.parser()
            events = parser.push(delta.text)
            if delta.finish is not None:
                events = (*events, *parser.finish())
            if events and all(isinstance(event, Thought) for event in events):
                thought_tokens += len(delta.token_ids)
            usage = Usage(
                prompt_tokens=delta.prompt_tokens,
                cached_tokens=delta.cached_tokens,
                completion_tokens=delta.completion_tokens,
                thought_tokens=thought_tokens,
            )
            if is_first:
                yield Begun(usage=usage)
            for event in events:
                yield event
            if delta.finish is None:
                continue
            if delta.finish.reason not in ("stop", "length"):
                raise RequestFailedError(f"the sample ended by {delta.finish.reason}")
            yield Ended(
                is_cut=delta.finish.reason == "length",
                usage=usage,
                stop_string=delta.finish.stop_string,
            )
