"""The route of the Responses API is thin: it has no rules of its own."""

import time
import uuid
from typing import final

from starlette.requests import Request
from starlette.responses import Response

from mell_jax.serving.asker import Asker
from mell_jax.serving.chat.body import read_body, renamed
from mell_jax.serving.chat.desk import Desk
from mell_jax.serving.chat.reply import Manner
from mell_jax.serving.chat.unknown import passed_over
from mell_jax.serving.client_values import known_request_id
from mell_jax.serving.http.errors import error_response
from mell_jax.serving.http.route import HttpRoute
from mell_jax.serving.openai.responses.answers import ResponseHeading, ResponseTeller
from mell_jax.serving.openai.responses.asking import FIELD_NAMES, asked_by
from mell_jax.serving.openai.responses.fields import RESPONSES
from mell_jax.serving.openai.responses.wire import ResponsesRequest


@final
class ResponsesDoor:
    """Answers /v1/responses; keeps nothing between requests."""

    def __init__(self, desk: Desk) -> None:
        """Takes the desk where wishes go."""
        self._desk = desk

    def routes(self) -> list[HttpRoute]:
        """Returns the routes, for `make_app`."""
        return [
            HttpRoute(
                path="/v1/responses",
                endpoint=self._respond,
                methods=("POST",),
                operation="chat",
                refuse=_refuse,
            )
        ]

    async def _respond(self, request: Request, asker: Asker) -> Response:
        body = await self._desk.read(request)
        said, unknown = read_body(body, ResponsesRequest, fields=RESPONSES)
        model = self._desk.find(said.model)
        asked = asked_by(said, defaults=model.info.default_params)
        key = uuid.uuid4().hex
        shown_id = known_request_id(request.headers) or key
        heading = ResponseHeading(
            key=key,
            created_s=int(time.time()),
            model=model.info.model_name,
            repeated=asked.repeated,
            seals_thoughts=asked.seals_thoughts,
        )
        manner = Manner(
            is_streamed=bool(said.stream),
            headers=[
                (b"x-request-id", shown_id.encode("ascii")),
                *passed_over(unknown),
            ],
            refuse=_refuse,
            names=FIELD_NAMES,
            comment_s=self._desk.comment_s,
        )
        return self._desk.answer(
            asked.wish,
            model=model,
            asker=asker,
            teller=ResponseTeller(heading),
            manner=manner,
        )


def _refuse(error: Exception) -> Response:
    return error_response(renamed(error, FIELD_NAMES))
