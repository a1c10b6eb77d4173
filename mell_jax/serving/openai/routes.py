"""The routes of OpenAI's API are thin: they have no rules of their own."""

import functools
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from mell_jax.engine.params import InvalidRequestError, SamplingParams
from mell_jax.frontend import FrontEnd, FrontModel, PromptMaker, generate
from mell_jax.frontend.executors import Job
from mell_jax.grammar import Grammar
from mell_jax.serving.asker import Asker
from mell_jax.serving.chat.speech import Speech, Turn, known_speech, tokenizer_of
from mell_jax.serving.chat.unknown import passed_over
from mell_jax.serving.client_values import checked_request_id, known_request_id
from mell_jax.serving.http.body import Bodies
from mell_jax.serving.http.route import HttpRoute
from mell_jax.serving.http.sse import AsResponse
from mell_jax.serving.openai.answers import (
    ChatWriter,
    CompletionWriter,
    Heading,
    Writer,
)
from mell_jax.serving.openai.asking import (
    DEFAULT_COMPLETION_TOKENS,
    chat_params,
    completion_params,
    prompt_logprobs_of,
    prompts_of,
    tooling_of,
)
from mell_jax.serving.openai.conversations import conversation_of
from mell_jax.serving.openai.exchange import Exchange, Style
from mell_jax.serving.openai.samples import Echo, Samples
from mell_jax.serving.openai.shape import naming_shape
from mell_jax.serving.openai.telling import Telling
from mell_jax.serving.openai.tokens import TokenRoutes
from mell_jax.serving.openai.wire import ChatRequest, CompletionRequest, parse
from mell_jax.serving.problem import UnknownRouteError
from mell_jax.serving.stall import Stalls

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_OF_MESSAGES = (  # fields that change what is made of messages
    *("tools", "tool_choice", "documents", "chat_template_kwargs"),
    "continue_final_message",
)
Prompts = Sequence[str | Sequence[int] | PromptMaker]


@final
class OpenAiDoor:
    """Answers /v1/...; keeps nothing between requests."""

    def __init__(
        self,
        front_end: FrontEnd,
        *,
        speeches: Mapping[str, Speech],
        folders: Mapping[str, Path],
        fingerprints: Mapping[str, str],
        check_open: Callable[[], None],
        stalls: Stalls,
        comment_s: float,
    ) -> None:
        """Gets ready to answer.

        Args:
          front_end: where requests go.
          speeches: of the models that have a chat template, by name.
          folders: where the files of a model's tokenizer lie, by name.
          fingerprints: of what is served, by name.
          check_open: raises what keeps new requests out.
          stalls: ends streams that nobody reads.
          comment_s: after so long without an event a stream gets a comment.
        """
        self._front_end = front_end
        self._speeches = speeches
        self._check_open = check_open
        self._stalls = stalls
        self._comment_s = comment_s
        self._fingerprints = fingerprints
        self._bodies = Bodies()
        self._tokens = TokenRoutes(
            front_end,
            speeches=speeches,
            folders=folders,
            bodies=self._bodies,
            check_open=check_open,
        )
        self._created = int(time.time())

    def routes(self) -> list[HttpRoute]:
        """Returns the routes, for `make_app`; the last one catches all others."""
        return [
            *self._tokens.routes(),
            HttpRoute(path="/v1/models", endpoint=self._list_models),
            HttpRoute(path="/v1/models/", endpoint=self._list_models),
            HttpRoute(path="/v1/models/{name:path}", endpoint=self._show_model),
            HttpRoute(
                path="/v1/completions", endpoint=self._complete, methods=("POST",)
            ),
            HttpRoute(
                path="/v1/chat/completions",
                endpoint=self._chat,
                methods=("POST",),
                operation="chat",
            ),
            HttpRoute(path="/v1/{rest:path}", endpoint=_unknown, methods=_METHODS),
        ]

    async def _list_models(self, request: Request, asker: Asker) -> Response:
        models = self._front_end.models.by_name.values()
        listed = {"object": "list", "data": [self._describe(each) for each in models]}
        return _json(listed)

    async def _show_model(self, request: Request, asker: Asker) -> Response:
        model = self._front_end.models.find(request.path_params["name"])
        return _json(self._describe(model))

    def _describe(self, model: FrontModel) -> Mapping[str, object]:
        return {
            "id": model.info.model_name,
            "object": "model",
            "created": self._created,
            "owned_by": "mell_jax",
            "max_model_len": model.info.max_model_len,
        }

    async def _complete(self, request: Request, asker: Asker) -> Response:
        asked, unknown = parse(await self._bodies.read(request), CompletionRequest)
        model = self._front_end.models.find(asked.model or "")
        prompts = prompts_of(asked)
        tokenizer_of(model)
        echo = None
        if asked.echo:
            texts = await self._front_end.executors.run(
                Job.READ,
                functools.partial(_shown, prompts, model=model),
                model=model.info.model_name,
            )
            echo = Echo(texts=texts, hides_answer=asked.max_tokens == 0)
        return self._exchange(
            request,
            asked,
            asker=asker,
            unknown=unknown,
            prompts=prompts,
            params=completion_params(asked, defaults=model.info.default_params),
            model=model,
            writer=CompletionWriter(),
            default_max_tokens=DEFAULT_COMPLETION_TOKENS,
            echo=echo,
        )

    async def _chat(self, request: Request, asker: Asker) -> Response:
        asked, unknown = parse(await self._bodies.read(request), ChatRequest)
        model = self._front_end.models.find(asked.model or "")
        params = chat_params(asked, defaults=model.info.default_params)
        turn = None
        prompt: Sequence[int] | PromptMaker
        if asked.prompt_token_ids is None:
            turn = self._turn(asked, model=model, shape=params.grammar)
            prompt = turn.make
        else:
            prompt = _checked_prompt(asked)
        return self._exchange(
            request,
            asked,
            asker=asker,
            unknown=unknown,
            prompts=[prompt],
            params=params,
            model=model,
            writer=ChatWriter(),
            turn=turn,
        )

    def _turn(
        self, asked: ChatRequest, *, model: FrontModel, shape: Grammar | None
    ) -> Turn:
        tooling = tooling_of(asked)
        conversation = conversation_of(asked, tooling=tooling)
        speech = known_speech(self._speeches.get(model.info.model_name))
        return speech.turn(conversation, tooling=tooling, shape=shape)

    def _exchange(
        self,
        request: Request,
        asked: CompletionRequest | ChatRequest,
        *,
        asker: Asker,
        unknown: Sequence[str],
        prompts: Prompts,
        params: SamplingParams,
        model: FrontModel,
        writer: Writer,
        default_max_tokens: int | None = None,
        echo: Echo | None = None,
        turn: Turn | None = None,
    ) -> Response:
        self._check_open()
        self._front_end.admission.check_size(params.n * len(prompts))
        # A proxy gives one x-request-id to all calls of one page: it is repeated to the
        # client and names nothing here.
        own_id = checked_request_id(asked.request_id or "")
        request_id = own_id or uuid.uuid4().hex
        shown_id = known_request_id(request.headers) or request_id
        name = model.info.model_name
        asks = [
            asker.ask(
                prompt=prompt,
                params=params,
                model=name,
                request_id=f"{own_id}-{number}" if own_id and number else own_id,
                kept_ids=frozenset() if turn is None else turn.kept_ids,
                default_max_tokens=default_max_tokens,
            )
            for number, prompt in enumerate(prompts)
        ]
        options = asked.stream_options
        return AsResponse(
            Exchange(
                [
                    naming_shape(generate(self._front_end, ask), asked=asked)
                    if params.grammar is not None or turn is not None
                    else generate(self._front_end, ask)
                    for ask in asks
                ],
                stalls=self._stalls,
                samples=Samples(
                    tokenizer_of(model),
                    n=params.n,
                    echo=echo,
                    skips_special_tokens=params.skip_special_tokens,
                    telling=_telling(asked),
                    new_parser=turn.parser if turn and turn.is_parsed else None,
                ),
                writer=writer,
                heading=Heading(
                    id=f"{writer.id_prefix}{request_id}",
                    created=int(time.time()),
                    model=name,
                    fingerprint=self._fingerprints.get(name),
                ),
                style=Style(
                    is_streamed=bool(asked.stream),
                    is_usage_streamed=bool(options and options.include_usage),
                    is_usage_continuous=bool(
                        options and options.continuous_usage_stats
                    ),
                    num_shown=asked.n or 1,
                ),
                comment_s=self._comment_s,
                headers=[
                    (b"x-request-id", shown_id.encode("ascii")),
                    *passed_over(unknown),
                ],
            )
        )


def _checked_prompt(asked: ChatRequest) -> Sequence[int]:
    """Returns the prompt of a chat that brings its ids."""
    assert asked.prompt_token_ids is not None, "it brings them"
    if asked.messages:
        raise InvalidRequestError(
            "prompt_token_ids", "and messages are both given: leave one of them out"
        )
    for name in _OF_MESSAGES:
        if getattr(asked, name) not in (None, False, "none", "auto", [], {}):
            raise InvalidRequestError(
                name, "needs messages: a prompt of token ids is taken as it is"
            )
    return asked.prompt_token_ids


def _telling(asked: CompletionRequest | ChatRequest) -> Telling:
    has_logprobs = asked.logprobs is not None and asked.logprobs is not False
    return Telling(
        has_logprobs=has_logprobs,
        has_token_ids=bool(asked.return_token_ids),
        has_prompt_logprobs=prompt_logprobs_of(asked) is not None,
    )


async def _unknown(request: Request, asker: Asker) -> Response:
    path = request.path_params["rest"]
    shown = path.encode("unicode_escape").decode("ascii")
    raise UnknownRouteError(f"there is no {request.method} /v1/{shown:.100} here")


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _shown(
    prompts: Sequence[str | Sequence[int]], *, model: FrontModel
) -> tuple[str, ...]:
    """Returns texts of prompts before a check: a long one is refused later."""
    tokenizer, most = tokenizer_of(model), model.info.max_model_len

    def decode(ids: Sequence[int]) -> str:
        known = [i for i in ids[:most] if 0 <= i < tokenizer.vocab_size]
        return tokenizer.decode(known, skip_special_tokens=False)

    return tuple(each if isinstance(each, str) else decode(each) for each in prompts)
