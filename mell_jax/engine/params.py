"""Sampling parameters are validated here, where every door leads.

Every range check is positive (`if not (low <= x <= high)`), so NaN fails it. Caps are
numbers, because a request may come from someone who wishes the server ill.
"""

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NoReturn, SupportsFloat, SupportsIndex

from mell_jax.grammar import Grammar

LogprobsMode = Literal["raw", "processed"]
LOGPROBS_MODES: tuple[LogprobsMode, ...] = ("raw", "processed")
MAX_TOP_LOGPROBS = 20
MAX_PROMPT_LOGPROBS = 2**20  # of all prompt tokens; they come in one message
MAX_N = 16
MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 256
MAX_STOP_IDS = 16  # end-of-sequence ids included
MAX_BIASED_TOKENS = 1024
MIN_TEMPERATURE = 1e-5  # anything smaller is greedy
MIN_REPETITION_PENALTY = 0.01  # logits are divided by it: 1e-39 would make them inf
MAX_REPETITION_PENALTY = 100.0

_NUMBERS = {
    "temperature": (0.0, 100.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY),
}
_COUNTS = {
    "top_k": (0, 2**31 - 1),
    "n": (1, MAX_N),
    "min_tokens": (0, 2**31 - 1),
}
_OPTIONAL_COUNTS = {
    "max_tokens": (1, 2**31 - 1),
    "logprobs": (0, MAX_TOP_LOGPROBS),
    "prompt_logprobs": (0, MAX_TOP_LOGPROBS),
    "seed": (-(2**63), 2**63 - 1),
}


class InvalidRequestError(ValueError):
    """A request breaks a rule; `field` names the parameter at fault."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """The parameters say how tokens are chosen; the defaults change nothing.

    Raises:
      InvalidRequestError: when a value is out of range, naming the parameter, the rule
        and the value.
    """

    temperature: float = 1.0
    """Divides the logits; below 1e-5 the most likely token is taken (greedy)."""
    top_p: float = 1.0
    """Keep the fewest likely tokens of this probability together, one at least."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 and -1 keep all."""
    min_p: float = 0.0
    """Drop tokens less likely than `min_p` times the most likely one."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    allowed_token_ids: tuple[int, ...] | None = None
    """Only these tokens may be generated; None allows all."""
    seed: int | None = None
    """Any 64-bit integer; None lets the engine draw one."""
    logprobs: int | None = None
    """Top alternatives per generated token; 0 gives the chosen token's alone."""
    logprobs_mode: LogprobsMode = "raw"
    """"raw": of the model's own logits. "processed": of the distribution that the token
    was drawn from, after penalties, bias, allowed tokens, grammar, temperature and
    filters, where -inf is what these bar; of greedy tokens, for which there is none, as
    if the temperature was 1 and nothing was filtered; of a prompt's tokens with the
    temperature alone."""
    prompt_logprobs: int | None = None
    n: int = 1
    max_tokens: int | None = None
    """Most tokens to generate; None means what the context leaves."""
    min_tokens: int = 0
    """No end of sequence, stop id or stop string before this many tokens."""
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    grammar: Grammar | None = None
    """The answer is one of its texts; every other option is kept to as well."""

    def __post_init__(self) -> None:
        """Checks, and keeps Python's own numbers whatever the caller computed with."""
        set_field = object.__setattr__
        for name, (low, high) in _NUMBERS.items():
            set_field(self, name, _number(name, getattr(self, name), low, high))
        top_p = _as_float(self.top_p)
        if top_p is None or not (0.0 < top_p <= 1.0):
            _fail("top_p", "must be in (0, 1]", self.top_p)
        set_field(self, "top_p", top_p)
        if self.top_k == -1:  # how others say that all are kept
            set_field(self, "top_k", 0)
        for name, (low, high) in _COUNTS.items():
            set_field(self, name, _count(name, getattr(self, name), low, high))
        for name, (low, high) in _OPTIONAL_COUNTS.items():
            value = getattr(self, name)
            if value is not None:
                set_field(self, name, _count(name, value, low, high))
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            _fail(
                "min_tokens", f"exceeds max_tokens {self.max_tokens}", self.min_tokens
            )
        if self.logprobs_mode not in LOGPROBS_MODES:
            _fail("logprobs_mode", "must be raw or processed", self.logprobs_mode)
        if not (self.grammar is None or isinstance(self.grammar, Grammar)):
            _fail("grammar", "must be a Grammar (mell_jax.Grammar)", self.grammar)
        self._check_stops()
        self._check_token_lists()

    def _check_stops(self) -> None:
        if isinstance(self.stop, str):
            _fail("stop", "must be a tuple of strings", self.stop)
        object.__setattr__(self, "stop", tuple(self.stop))
        _check_size("stop", len(self.stop), MAX_STOP_STRINGS)
        for text in self.stop:
            if not (isinstance(text, str) and 1 <= len(text) <= MAX_STOP_CHARS):
                _fail("stop", f"strings need 1 to {MAX_STOP_CHARS} characters", text)
        ids = _ids("stop_token_ids", self.stop_token_ids)
        object.__setattr__(self, "stop_token_ids", ids)
        _check_size("stop_token_ids", len(ids), MAX_STOP_IDS)

    def _check_token_lists(self) -> None:
        if self.allowed_token_ids is not None:
            allowed = _ids("allowed_token_ids", self.allowed_token_ids)
            if not allowed:
                _fail("allowed_token_ids", "must name at least one token", allowed)
            _check_size("allowed_token_ids", len(allowed), MAX_BIASED_TOKENS)
            object.__setattr__(self, "allowed_token_ids", allowed)
        _check_size("logit_bias", len(self.logit_bias), MAX_BIASED_TOKENS)
        bias = {}
        for token, value in self.logit_bias.items():
            number = _as_float(value)
            if number is None or not (-100.0 <= number <= 100.0):
                _fail("logit_bias", f"of token {token} must be in [-100, 100]", value)
            bias[_one_id("logit_bias", token)] = number
        object.__setattr__(self, "logit_bias", bias)

    @property
    def has_penalty(self) -> bool:
        """Returns whether tokens of the answer change the logits of later ones."""
        return (
            self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
            or self.repetition_penalty != 1.0
        )

    @property
    def is_greedy(self) -> bool:
        return self.temperature < MIN_TEMPERATURE


def _as_float(value: object) -> float | None:
    """A number of any library as Python's; None for what is none."""
    if isinstance(value, str | bool) or not isinstance(value, SupportsFloat):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):  # an array of several, or 10**400
        return None


def _as_int(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:  # an array of several, or of floats
        return None


def _number(name: str, value: object, low: float, high: float) -> float:
    number = _as_float(value)
    if number is None or not (low <= number <= high):
        _fail(name, f"must be a finite number from {low} to {high}", value)
    return number


def _count(name: str, value: object, low: int, high: int) -> int:
    number = _as_int(value)
    if number is None or not (low <= number <= high):
        _fail(name, f"must be an integer from {low} to {high}", value)
    return number


def _ids(name: str, values: Iterable[object]) -> tuple[int, ...]:
    return tuple(_one_id(name, value) for value in values)


def _one_id(name: str, value: object) -> int:
    number = _as_int(value)
    if number is None:
        _fail(name, "must hold integer token ids", value)
    return number


def _check_size(name: str, size: int, most: int) -> None:
    if not (size <= most):
        _fail(name, f"may have at most {most} entries", size)


def _fail(field: str, rule: str, value: object) -> NoReturn:
    raise InvalidRequestError(field, f"{rule}, got {value!r:.100}")


NEUTRAL = SamplingParams()
"""These change nothing."""
