"""The fleet keeps a state of each request that is not over."""

import dataclasses

from mell_jax.engine.frames import Handle
from mell_jax.engine.slots import Request
from mell_jax.scheduler.ids import CopyId, ModelId, PageKey, RequestId, Serial, Tokens
from mell_jax.scheduler.prefix_cache import page_keys


class RequestState:
    """This is a request, wherever it runs; an instance knows it by its copy's id."""

    __slots__ = (
        "id",
        "is_mixed",
        "model",
        "pages",
        "replays",
        "template",
        "tokens",
    )

    def __init__(
        self, request: RequestId, *, model: ModelId, template: Request
    ) -> None:
        self.id = request
        self.model = model
        self.template = template
        self.tokens: Tokens = template.submit.prompt  # as of its last start or move
        self.pages = 0  # that it was granted
        self.replays = 0
        self.is_mixed = False  # weights of several generations made its pages

    @property
    def handle(self) -> Handle:
        return self.template.handle

    @property
    def num_generated(self) -> int:
        """Returns its output tokens, as of its last start or move."""
        return len(self.tokens) - len(self.template.submit.prompt)

    def copy(self, copy_id: CopyId) -> Request:
        """Returns the request under the name of one of its copies."""
        return dataclasses.replace(self.template, serial=Serial(copy_id))

    def prefix_keys(self, *, page_tokens: int, generation: int) -> list[PageKey]:
        """Returns keys of the full pages that a copy of the request might find cached.

        The last token is always computed; prompt log probabilities need all of them.

        Args:
          page_tokens: of a page.
          generation: of the weights that compute its copies.
        """
        submit = self.template.submit
        if self.is_mixed or submit.params.prompt_logprobs is not None:
            return []
        return page_keys(
            self.tokens[:-1],
            page_tokens=page_tokens,
            salt=submit.salt,
            generation=generation,
        )
