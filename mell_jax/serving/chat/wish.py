"""A wish is what a client asks of a conversation, in the words of chat completions.

Every protocol turns its own words into a wish, so that prompts, tools and shapes are
understood in one place.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mell_jax.engine.params import SamplingParams

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatWish:
    """A wish is one request for one answer.

    Attributes:
      messages: as /v1/chat/completions has them, with `reasoning_content`.
      params: how tokens are chosen; without a grammar.
      tools: as there, {"type": "function", "function": {"name": ...}}.
      tool_choice: as there, "none", "auto", "required" or a function by its name.
      is_parallel: one answer may have several calls.
      response_format: as there; None for free text.
      thinks: whether the model thinks before it answers; None for its own habit.
      effort: how much it does, "low" or another word that its template knows.
      continues_last: the answer goes on with the last message, the assistant's.
      template_kwargs: more for the chat template.
    """

    messages: tuple[Json, ...]
    params: SamplingParams
    tools: tuple[Json, ...] = ()
    tool_choice: str | Json = "auto"
    is_parallel: bool = True
    response_format: Json | None = None
    thinks: bool | None = None
    effort: str | None = None
    continues_last: bool = False
    template_kwargs: Json = field(default_factory=dict)
