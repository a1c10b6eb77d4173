"""An `Asker` is the sender of a call as every door finds it, and makes every `Ask`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mell_jax.engine.params import SamplingParams
from mell_jax.frontend import Ask, Caller, Origin, PromptMaker


def _unheard(request_id: str) -> None:
    """Takes an id where an answer has no place for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """An asker is the caller of one call, and what else its headers tell.

    Attributes:
      caller: on whose behalf; only a `Gate` makes one.
      origin: the call's place in a trace.
      model: the one that the headers name; empty for the first one.
      echo_id: puts the request's id, as the caller gave it, into the answer.
    """

    caller: Caller
    origin: Origin
    model: str = ""
    echo_id: Callable[[str], None] = _unheard

    def ask(
        self,
        *,
        prompt: str | Sequence[int] | PromptMaker,
        params: SamplingParams,
        model: str,
        request_id: str = "",
        is_text_wanted: bool = True,
        kept_ids: frozenset[int] = frozenset(),
        default_max_tokens: int | None = None,
        following: int | None = None,
    ) -> Ask:
        """Returns a request of this caller; the arguments are those of `Ask`."""
        return Ask(
            caller=self.caller,
            prompt=prompt,
            params=params,
            model=model,
            request_id=request_id,
            is_text_wanted=is_text_wanted,
            kept_ids=kept_ids,
            default_max_tokens=default_max_tokens,
            origin=self.origin,
            following=following,
        )
