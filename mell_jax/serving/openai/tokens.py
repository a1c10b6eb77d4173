"""Routes that tell how a model reads text: nothing is generated.

They are vLLM's. A prompt is bounded as one to generate from is, and the work has
threads of its own, so that a flood of it holds up no prompt.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from mell_jax.engine.params import InvalidRequestError
from mell_jax.frontend import FrontEnd, FrontModel, OverloadedError, PromptMaker
from mell_jax.frontend.executors import Job
from mell_jax.model_files.folder import open_folder
from mell_jax.serving.asker import Asker
from mell_jax.serving.chat.speech import Speech, known_speech, tokenizer_of
from mell_jax.serving.chat.unknown import passed_over
from mell_jax.serving.http.body import Bodies
from mell_jax.serving.http.route import HttpRoute
from mell_jax.serving.openai.asking import tooling_of
from mell_jax.serving.openai.conversations import conversation_of
from mell_jax.serving.openai.wire import DetokenizeRequest, TokenizeRequest, parse
from mell_jax.text.tokenizer import Tokenizer

MAX_AT_A_TIME = 64
_PLACES = frozenset(  # where files lie is nobody's business
    (
        "name_or_path",
        "tokenizer_file",
        "vocab_file",
        "merges_file",
        "special_tokens_map_file",
    )
)


@final
class TokenRoutes:
    """Answers /tokenize, /detokenize and /tokenizer_info."""

    def __init__(
        self,
        front_end: FrontEnd,
        *,
        speeches: Mapping[str, Speech],
        folders: Mapping[str, Path],
        bodies: Bodies,
        check_open: Callable[[], None],
    ) -> None:
        """Gets ready to answer.

        Args:
          front_end: has the models.
          speeches: of the models that have a chat template, by name.
          folders: where the files of a model's tokenizer lie, by name.
          bodies: reads those of requests.
          check_open: raises what keeps new requests out.
        """
        self._front_end = front_end
        self._speeches = speeches
        self._folders = folders
        self._bodies = bodies
        self._check_open = check_open
        self._num_open = 0

    def routes(self) -> list[HttpRoute]:
        """Returns the routes, for `make_app`."""
        return [
            HttpRoute(path="/tokenize", endpoint=self._tokenize, methods=("POST",)),
            HttpRoute(path="/detokenize", endpoint=self._detokenize, methods=("POST",)),
            HttpRoute(path="/tokenizer_info", endpoint=self._info),
        ]

    async def _tokenize(self, request: Request, asker: Asker) -> Response:
        asked, unknown = parse(await self._bodies.read(request), TokenizeRequest)
        model = self._front_end.models.find(asked.model or "")
        tokenizer = tokenizer_of(model)
        may_be_special = asker.caller.may_send_special_tokens
        tooling = tooling_of(asked)  # is right even where a prompt needs none
        work: Callable[[], list[int]]
        if (asked.prompt is None) == (not asked.messages):
            raise InvalidRequestError(
                "prompt", "or messages must be given, and not both"
            )
        if asked.messages:
            if asked.add_special_tokens:
                raise InvalidRequestError(
                    "add_special_tokens", "must be false: the chat template writes them"
                )
            conversation = conversation_of(asked, tooling=tooling)
            speech = known_speech(self._speeches.get(model.info.model_name))
            make = speech.turn(conversation).make  # nothing is answered: no calls
            work = functools.partial(_rendered, make, model)
        else:
            assert asked.prompt is not None, "one of the two is given"
            work = functools.partial(
                _encoded,
                asked.prompt,
                model=model,
                may_be_special=may_be_special,
                has_around=asked.add_special_tokens is not False,
            )
        with self._room():
            ids = await self._front_end.executors.run(
                Job.LOOK, work, model=model.info.model_name
            )
            strs = None
            if asked.return_token_strs:
                spell = functools.partial(_spelled, ids, tokenizer=tokenizer)
                strs = await self._front_end.executors.run(
                    Job.LOOK, spell, model=model.info.model_name
                )
        answer = {
            "count": len(ids),
            "max_model_len": model.info.max_model_len,
            "tokens": ids,
            "token_strs": strs,
        }
        return _json(answer, unknown=unknown)

    async def _detokenize(self, request: Request, asker: Asker) -> Response:
        asked, unknown = parse(await self._bodies.read(request), DetokenizeRequest)
        model = self._front_end.models.find(asked.model or "")
        _check_ids(asked.tokens, model=model)
        decode = functools.partial(
            tokenizer_of(model).decode, asked.tokens, skip_special_tokens=False
        )
        with self._room():
            text = await self._front_end.executors.run(
                Job.LOOK, decode, model=model.info.model_name
            )
        return _json({"prompt": text}, unknown=unknown)

    async def _info(self, request: Request, asker: Asker) -> Response:
        model = self._front_end.models.find(request.query_params.get("model", ""))
        tokenizer_of(model)
        name = model.info.model_name
        read = functools.partial(_config_of, self._folders[name])
        with self._room():
            return _json(
                await self._front_end.executors.run(Job.LOOK, read, model=name)
            )

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        self._check_open()
        if not (self._num_open < MAX_AT_A_TIME):
            raise OverloadedError(
                f"{MAX_AT_A_TIME} texts are tokenized at a time, and so many are",
                retry_after_s=1.0,
            )
        self._num_open += 1
        try:
            yield
        finally:
            self._num_open -= 1


def _rendered(make: PromptMaker, model: FrontModel) -> list[int]:
    return list(make(model).ids)


def _encoded(
    text: str, *, model: FrontModel, may_be_special: bool, has_around: bool
) -> list[int]:
    tokenizer = tokenizer_of(model)
    encode = tokenizer.encode if may_be_special else tokenizer.encode_plain
    try:
        tokenizer.check_prompt_bytes(text, max_tokens=model.info.max_model_len)
        return encode(text, add_special_tokens=has_around)
    except ValueError as error:
        raise InvalidRequestError("prompt", f"is not usable: {error}") from error


def _spelled(ids: list[int], *, tokenizer: Tokenizer) -> list[str]:
    vocabulary = tokenizer.vocabulary
    return [vocabulary.join((token,)).decode("utf-8", "replace") for token in ids]


def _check_ids(ids: list[int], *, model: FrontModel) -> None:
    most, end = model.info.max_model_len, model.info.vocab_size
    if not (len(ids) <= most):
        raise InvalidRequestError(
            "tokens", f"may be {most}, what a context holds, got {len(ids)}"
        )
    bad = next((token for token in ids if not (0 <= token < end)), None)
    if bad is not None:
        raise InvalidRequestError(
            "tokens", f"hold token id {bad}; ids go from 0 to {end - 1}"
        )


def _config_of(folder: Path) -> Mapping[str, Any]:
    """Returns a tokenizer's configuration, as its file says it."""
    file = open_folder(folder) / "tokenizer_config.json"
    found: Any = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    config = found if isinstance(found, dict) else {}
    told = {name: value for name, value in config.items() if name not in _PLACES}
    return {"tokenizer_class": "PreTrainedTokenizerFast", **told}


def _json(value: object, *, unknown: tuple[str, ...] = ()) -> Response:
    response = Response(msgspec.json.encode(value), media_type="application/json")
    response.raw_headers += passed_over(unknown)
    return response
