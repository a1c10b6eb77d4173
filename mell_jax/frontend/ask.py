"""An `Ask` is one request as every door hands it to `generate`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mell_jax.engine.params import SamplingParams
from mell_jax.frontend.caller import Caller
from mell_jax.frontend.models import FrontModel
from mell_jax.frontend.tracing import ANYWHERE, Origin
from mell_jax.grammar import Grammar


@dataclass(frozen=True, slots=True, kw_only=True)
class MadePrompt:
    """A prompt that was made.

    Attributes:
        ids: of its tokens.
        grammar: of what may be answered; None leaves that to the parameters.
        wishes: what it was made of, by the field of the request that asks for it; an
            error names the field at fault.
    """

    ids: Sequence[int]
    grammar: Grammar | None = None
    wishes: Mapping[str, Grammar] = field(default_factory=dict)


PromptMaker = Callable[[FrontModel], MadePrompt]
"""Makes a prompt, in a thread; raises ValueError when it cannot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """An ask holds a prompt, how to continue it, and on whose behalf.

    The caller has no default: it guards cached prompts, quotas, request ids and
    special tokens, so that a door which leaves it out does not run at all.

    Attributes:
        caller: on whose behalf.
        prompt: text, token ids as they are, or a function that makes the ids.
        params: how to sample; an unset max_tokens becomes what the context leaves.
        model: the name of one of the models served; empty for the first one.
        request_id: the caller's own name for the request, for `FrontEnd.abort` once it
            is scoped; empty for a random one.
        is_text_wanted: False leaves `Delta.text` empty unless stop strings need it.
        kept_ids: special tokens that texts have, whatever `skip_special_tokens` says.
        default_max_tokens: what an unset max_tokens becomes, if the context leaves it
            and min_tokens does not ask for more.
        origin: where the request comes from, for traces.
        following: the token after the prompt, whose log probability is told with those
            of the prompt; None for none. What is generated does not know of it.
    """

    caller: Caller
    prompt: str | Sequence[int] | PromptMaker
    params: SamplingParams
    model: str = ""
    request_id: str = ""
    is_text_wanted: bool = True
    kept_ids: frozenset[int] = frozenset()
    default_max_tokens: int | None = None
    origin: Origin = ANYWHERE
    following: int | None = None

    @property
    def scoped_id(self) -> str:
        """Names the request among those of all callers."""
        return self.caller.scoped(self.request_id)
