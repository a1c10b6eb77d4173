"""Sampling parameters are validated here, where every door leads.

Every range check is positive (`if not (low <= x <= high)`), so NaN fails it. Caps are
numbers, because a request may come from someone who wishes the server ill.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

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
    """Keep the k most likely tokens; 0 keeps all."""
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

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, 0.0, 100.0)
        if not (0.0 < self.top_p <= 1.0):
            _fail("top_p", "must be in (0, 1]", self.top_p)
        _check_count("top_k", self.top_k, 0, 2**31 - 1)
        _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_number(
            "repetition_penalty",
            self.repetition_penalty,
            MIN_REPETITION_PENALTY,
            MAX_REPETITION_PENALTY,
        )
        _check_count("n", self.n, 1, MAX_N)
        _check_count("min_tokens", self.min_tokens, 0, 2**31 - 1)
        if self.max_tokens is not None:
            _check_count("max_tokens", self.max_tokens, 1, 2**31 - 1)
            if self.min_tokens > self.max_tokens:
                _fail(
                    "min_tokens",
                    f"exceeds max_tokens {self.max_tokens}",
                    self.min_tokens,
                )
        for name in ("logprobs", "prompt_logprobs"):
            value = self.logprobs if name == "logprobs" else self.prompt_logprobs
            if value is not None:
                _check_count(name, value, 0, MAX_TOP_LOGPROBS)
        if self.seed is not None:
            _check_count("seed", self.seed, -(2**63), 2**63 - 1)
        self._check_stops()
        self._check_token_lists()

    def _check_stops(self) -> None:
        if isinstance(self.stop, str):
            _fail("stop", "must be a tuple of strings", self.stop)
        _check_size("stop", len(self.stop), MAX_STOP_STRINGS)
        for text in self.stop:
            if not (isinstance(text, str) and 1 <= len(text) <= MAX_STOP_CHARS):
                _fail("stop", f"strings need 1 to {MAX_STOP_CHARS} characters", text)
        _check_size("stop_token_ids", len(self.stop_token_ids), MAX_STOP_IDS)

    def _check_token_lists(self) -> None:
        allowed = self.allowed_token_ids
        if allowed is not None and not allowed:
            _fail("allowed_token_ids", "must name at least one token", allowed)
        _check_size("allowed_token_ids", len(allowed or ()), MAX_BIASED_TOKENS)
        _check_size("logit_bias", len(self.logit_bias), MAX_BIASED_TOKENS)
        for token, bias in self.logit_bias.items():
            if not (-100.0 <= bias <= 100.0):
                _fail("logit_bias", f"of token {token} must be in [-100, 100]", bias)

    @property
    def is_greedy(self) -> bool:
        return self.temperature < MIN_TEMPERATURE


def _check_number(name: str, value: float, low: float, high: float) -> None:
    if not (isinstance(value, int | float) and low <= value <= high):
        _fail(name, f"must be a finite number from {low} to {high}", value)
    assert math.isfinite(value)


def _check_count(name: str, value: int, low: int, high: int) -> None:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not (is_integer and low <= value <= high):
        _fail(name, f"must be an integer from {low} to {high}", value)


def _check_size(name: str, size: int, most: int) -> None:
    if not (size <= most):
        _fail(name, f"may have at most {most} entries", size)


def _fail(field: str, rule: str, value: object) -> None:
    raise InvalidRequestError(field, f"{rule}, got {value!r:.100}")
