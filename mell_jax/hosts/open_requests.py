"""A front end's open requests: what was asked, and what its client has got."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import final

import numpy as np

from mell_jax.engine.frames import Handle, Submit
from mell_jax.engine.intake import choose_seed
from mell_jax.engine.validate import check_submit, find_info
from mell_jax.hosts.wire import Served
from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.ids import (
    FRONT_BITS,
    FrontId,
    ModelId,
    RequestId,
    Tokens,
)
from mell_jax.scheduler.migration import messages


@final
class OpenRequest:
    """A request that is open, and what its client has got.

    Attributes:
      submit: as hosts get it, with its number in the fleet.
      handle: as its client has it.
    """

    __slots__ = ("handle", "seed", "submit", "tokens")

    def __init__(self, submit: Submit, *, handle: Handle, seed: int) -> None:
        self.submit = submit
        self.handle = handle
        self.seed = seed
        self.tokens: list[int] = []

    def known(self, message: words.Opened) -> Tokens:
        """Returns the tokens that go with an opening: prompt and answer so far."""
        prompt = self.submit.prompt
        if isinstance(message, messages.Commit):
            return prompt  # the rest is there
        count = message.known - len(prompt)
        return np.concatenate([prompt, np.array(self.tokens[:count], np.int32)])


@final
class OpenRequests:
    """Those of one front end, by their numbers and by their clients' handles."""

    def __init__(self, front: FrontId, *, models: Sequence[Served]) -> None:
        self._front = front
        self._models = tuple(models)
        self._rng = np.random.default_rng(secrets.randbits(64))  # seeds not asked for
        self._open: dict[RequestId, OpenRequest] = {}
        self._numbers: dict[Handle, RequestId] = {}
        self._last = 0

    def __iter__(self) -> Iterator[Handle]:
        return iter(self._numbers)

    def __getitem__(self, request: RequestId) -> OpenRequest:
        return self._open[request]

    def get(self, request: RequestId) -> OpenRequest | None:
        """Returns an open request; None for one that has ended."""
        return self._open.get(request)

    def begin(self, submit: Submit) -> words.Ask:
        """Numbers a request; returns what the fleet is asked for.

        Raises:
          InvalidRequestError: it breaks a rule of its model.
        """
        infos = [model.info for model in self._models]
        info = find_info(submit, infos=infos)
        check_submit(submit, info=info)
        served = self._models[infos.index(info)]
        self._last += 1
        request = RequestId((self._front << FRONT_BITS) + self._last)
        model = ModelId(info.model_name)
        self._numbers[submit.handle] = request
        self._open[request] = OpenRequest(
            replace(submit, handle=Handle(request), model=str(model)),
            handle=submit.handle,
            seed=choose_seed(submit, rng=self._rng),
        )
        prompt, most = len(submit.prompt), info.max_model_len
        if submit.params.max_tokens is not None:
            most = min(most, prompt + submit.params.max_tokens)
        return words.Ask(
            request=request,
            model=model,
            prompt=prompt,
            known=prompt,
            pages=served.spec.cache.held_by(prompt),
            peak_pages=served.spec.cache.held_by(most),
            tenant=submit.tenant,
            weight=submit.weight,
        )

    def end(self, handle: Handle) -> RequestId | None:
        """Forgets a request; returns its number, None if it was not open."""
        request = self._numbers.pop(handle, None)
        if request is not None:
            del self._open[request]
        return request
