"""The route of the Messages API is thin: it has no rules of its own."""

import uuid
from typing import final

from starlette.requests import Request
from starlette.responses import Response

from mell_jax.serving.anthropic.answers import MessageHeading, MessageTeller
from mell_jax.serving.anthropic.asking import FIELD_NAMES, wish_of
from mell_jax.serving.anthropic.errors import refuse
from mell_jax.serving.anthropic.fields import MESSAGES
from mell_jax.serving.anthropic.wire import MessagesRequest
from mell_jax.serving.asker import Asker
from mell_jax.serving.chat.body import read_body
from mell_jax.serving.chat.desk import Desk
from mell_jax.serving.chat.reply import Manner
from mell_jax.serving.chat.unknown import passed_over
from mell_jax.serving.client_values import known_request_id
from mell_jax.serving.http.route import HttpRoute


@final
class AnthropicDoor:
    """Answers /v1/messages; keeps nothing between requests."""

    def __init__(self, desk: Desk) -> None:
        """Takes the desk where wishes go."""
        self._desk = desk

    def routes(self) -> list[HttpRoute]:
        """Returns the routes, for `make_app`."""
        return [
            HttpRoute(
                path="/v1/messages",
                endpoint=self._write,
                methods=("POST",),
                operation="chat",
                refuse=refuse,
            )
        ]

    async def _write(self, request: Request, asker: Asker) -> Response:
        body = await self._desk.read(request)
        said, unknown = read_body(body, MessagesRequest, fields=MESSAGES)
        model = self._desk.find(said.model)
        key = uuid.uuid4().hex
        shown_id = (known_request_id(request.headers) or key).encode("ascii")
        return self._desk.answer(
            wish_of(said, defaults=model.info.default_params),
            model=model,
            asker=asker,
            teller=MessageTeller(MessageHeading(key=key, model=model.info.model_name)),
            manner=Manner(
                is_streamed=bool(said.stream),
                headers=[
                    (b"x-request-id", shown_id),
                    (b"request-id", shown_id),  # as Anthropic calls it
                    *passed_over(unknown),
                ],
                refuse=refuse,
                names=FIELD_NAMES,
                comment_s=self._desk.comment_s,
            ),
        )
