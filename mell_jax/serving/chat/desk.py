"""The desk takes wishes of any protocol to the engine, and answers back as steps."""

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import final

from starlette.requests import Request
from starlette.responses import Response

from mell_jax.engine.params import InvalidRequestError, SamplingParams
from mell_jax.frontend import (
    Delta,
    FrontEnd,
    FrontModel,
    PromptMaker,
    RequestFailedError,
    generate,
)
from mell_jax.grammar import Grammar, GrammarError
from mell_jax.serving.asker import Asker
from mell_jax.serving.chat.events import Begun, Ended, Said, Step, Usage
from mell_jax.serving.chat.reply import Manner, Reply
from mell_jax.serving.chat.teller import Teller
from mell_jax.serving.chat.wish import ChatWish, Json
from mell_jax.serving.http.body import Bodies
from mell_jax.serving.http.sse import AsResponse
from mell_jax.serving.problem import MissingTokenizerError, UnsupportedError
from mell_jax.serving.stall import Stalls
from mell_jax.text.chat_prompt import ChatPrompt
from mell_jax.text.chat_template import ChatTemplateError

_MAX_MESSAGES = 4096


@final
class Desk:
    """A desk keeps nothing between requests."""

    def __init__(
        self,
        front_end: FrontEnd,
        *,
        chats: Mapping[str, ChatPrompt],
        check_open: Callable[[], None],
        stalls: Stalls,
        comment_s: float,
    ) -> None:
        """Gets ready to answer.

        Args:
          front_end: where requests go.
          chats: of the models that have a chat template, by name.
          check_open: raises what keeps new requests out.
          stalls: ends streams that nobody reads.
          comment_s: after so long without an event a stream gets a comment.
        """
        self.comment_s = comment_s
        self._front_end = front_end
        self._chats = chats
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
        if model.tokenizer is None:
            raise MissingTokenizerError(
                "text needs a tokenizer and this model is served without one"
            )
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
        ask = asker.ask(
            prompt=_prompt(wish, chat=self._chats.get(name)),
            params=_params(wish),
            model=name,
        )
        steps = _steps(generate(self._front_end, ask))
        return AsResponse(
            Reply(steps, teller=teller, manner=manner, stalls=self._stalls)
        )


async def _steps(deltas: AsyncGenerator[Delta]) -> AsyncGenerator[Step]:
    """Yields the steps of an answer that is nothing but text."""
    is_begun = False
    async with contextlib.aclosing(deltas):
        async for delta in deltas:
            usage = Usage(
                prompt_tokens=delta.prompt_tokens,
                cached_tokens=delta.cached_tokens,
                completion_tokens=delta.completion_tokens,
            )
            if not is_begun:
                is_begun = True
                yield Begun(usage=usage)
            if delta.text:
                yield Said(delta.text)
            if delta.finish is None:
                continue
            if delta.finish.reason not in ("stop", "length"):
                raise RequestFailedError(f"the sample ended by {delta.finish.reason}")
            yield Ended(
                is_cut=delta.finish.reason == "length",
                usage=usage,
                stop_string=delta.finish.stop_string,
            )


def _params(wish: ChatWish) -> SamplingParams:
    """Returns the parameters, with the grammar of the answer's format."""
    if wish.tools and wish.tool_choice != "none":
        raise UnsupportedError("tools are not supported; leave them out")
    if wish.thinks or wish.effort or wish.template_kwargs:
        raise UnsupportedError("thinking is not supported; leave it out")
    wanted = wish.response_format
    if wanted is None:
        return wish.params
    try:
        grammar = Grammar.json_object()
        if wanted["type"] == "json_schema":
            grammar = Grammar.from_json_schema(wanted["json_schema"]["schema"])
    except GrammarError as error:
        raise InvalidRequestError("response_format", str(error)) from error
    return dataclasses.replace(wish.params, grammar=grammar)


def _prompt(wish: ChatWish, *, chat: ChatPrompt | None) -> PromptMaker:
    if chat is None:
        raise InvalidRequestError(
            "messages",
            "need a chat template and this model has none: start the server with "
            "--chat_template=FILE, or use /v1/completions",
        )
    if not (1 <= len(wish.messages) <= _MAX_MESSAGES):
        raise InvalidRequestError(
            "messages", f"must be 1 to {_MAX_MESSAGES}, got {len(wish.messages)}"
        )
    if wish.continues_last:
        raise UnsupportedError("an answer that goes on is not supported; ask for it")
    plain = [_plain(message) for message in wish.messages]

    def make(model: FrontModel) -> list[int]:
        try:
            return chat.encode(plain, max_tokens=model.info.max_model_len)
        except ChatTemplateError as error:
            raise InvalidRequestError("messages", str(error)) from error
        except ValueError as error:
            raise InvalidRequestError("messages", f"are not usable: {error}") from error

    return make


def _plain(message: Json) -> dict[str, str]:
    """Returns a message with nothing but a role and a text."""
    if message.get("tool_calls") or message["role"] == "tool":
        raise UnsupportedError("calls of tools are not supported; leave them out")
    role = "system" if message["role"] == "developer" else message["role"]
    return {"role": role, "content": message["content"] or ""}
