"""A request's body becomes prompts and sampling parameters; pure functions."""

from typing import TypeVar, cast

from mell_jax.engine.params import (
    MAX_N,
    InvalidRequestError,
    LogprobsMode,
    SamplingParams,
)
from mell_jax.serving.chat.tools import Tooling
from mell_jax.serving.chat.tools import tooling_of as read_tools
from mell_jax.serving.client_values import known_top_k
from mell_jax.serving.openai.shape import shape_of
from mell_jax.serving.openai.wire import ChatRequest, CompletionRequest, TokenizeRequest
from mell_jax.serving.problem import UnsupportedError

T = TypeVar("T")

MAX_PROMPTS = 128
DEFAULT_COMPLETION_TOKENS = 16  # of /v1/completions, as OpenAI has it


def prompts_of(request: CompletionRequest) -> list[str | list[int]]:
    """Returns one or more prompts, each text or ids.

    Raises:
      InvalidRequestError: there is none, too many, or kinds are mixed.
    """
    prompt = request.prompt
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise InvalidRequestError("prompt", "must not be an empty list")
    kinds = {type(part) for part in prompt}
    if len(kinds) > 1:
        raise InvalidRequestError(
            "prompt", "must be a text, token ids, or a list of one of these"
        )
    if kinds == {int}:
        return [cast("list[int]", prompt)]
    if not (len(prompt) <= MAX_PROMPTS):
        raise InvalidRequestError(
            "prompt", f"may have at most {MAX_PROMPTS} entries, got {len(prompt)}"
        )
    return cast("list[str | list[int]]", prompt)


def completion_params(
    request: CompletionRequest, *, defaults: SamplingParams
) -> SamplingParams:
    """Returns the checked parameters of each prompt.

    Args:
      defaults: the model's, for what the request leaves out.

    Raises:
      InvalidRequestError: a value is out of range.
      UnsupportedError: this server does not have what is asked for.
    """
    num_samples = samples_of(request)
    logprobs = _logprobs_of(request)
    echoes_logprobs = bool(request.echo) and logprobs is not None
    if echoes_logprobs and num_samples > 1:
        raise UnsupportedError("echo with logprobs is supported for n = 1 only")
    of_prompt = prompt_logprobs_of(request)
    if echoes_logprobs and of_prompt not in (None, logprobs):
        raise InvalidRequestError(
            "prompt_logprobs",
            f"must be logprobs ({logprobs}) where echo is true, got {of_prompt}",
        )
    if num_samples > (request.n or 1) and logprobs is None:
        logprobs = 0  # of the tokens alone, to choose by
    most = request.max_tokens
    return _params(
        request,
        defaults=defaults,
        max_tokens=_completion_tokens(most, is_echoed=bool(request.echo)),
        logprobs=logprobs,
        prompt_logprobs=logprobs if echoes_logprobs else of_prompt,
        n=num_samples,
    )


def samples_of(request: CompletionRequest | ChatRequest) -> int:
    """Returns how many answers to a prompt are made; `n` of them are shown.

    Raises:
      InvalidRequestError: `best_of` is less than `n`, or the answer is streamed.
    """
    shown = _or(request.n, 1)
    made = request.best_of if isinstance(request, CompletionRequest) else None
    if made is None or not (shown >= 1):
        return shown
    if not (made >= shown):
        raise InvalidRequestError("best_of", f"must be n ({shown}) or more, got {made}")
    if made > shown and request.stream:
        raise InvalidRequestError(
            "best_of",
            f"of {made} is above n ({shown}), and the best are known at the end only: "
            "leave out stream",
        )
    if not (made <= MAX_N):
        raise InvalidRequestError("best_of", f"may be at most {MAX_N}, got {made}")
    return made


def prompt_logprobs_of(request: CompletionRequest | ChatRequest) -> int | None:
    """Returns how many alternatives to each token of the prompt are asked for.

    Raises:
      InvalidRequestError: the answer is streamed, or it is no number.
    """
    count = request.prompt_logprobs
    if count is None or count is False:
        return None
    if count is True:
        raise InvalidRequestError(
            "prompt_logprobs", "must be a number of tokens, got true"
        )
    if request.stream:
        raise InvalidRequestError(
            "prompt_logprobs", "are not streamed: leave out stream"
        )
    return count


def _logprobs_of(request: CompletionRequest) -> int | None:
    if request.logprobs is True:
        raise InvalidRequestError("logprobs", "must be a number of tokens, got true")
    return None if request.logprobs is False else request.logprobs


def _completion_tokens(max_tokens: int | None, *, is_echoed: bool) -> int | None:
    """0 tokens and the prompt's echo: one is made, and not shown."""
    return 1 if max_tokens == 0 and is_echoed else max_tokens


def chat_params(request: ChatRequest, *, defaults: SamplingParams) -> SamplingParams:
    """Returns checked parameters.

    Args:
      defaults: the model's, for what the request leaves out.

    Raises:
      InvalidRequestError: a value is out of range.
      UnsupportedError: this server does not have what is asked for.
    """
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequestError("top_logprobs", "needs logprobs to be true")
    most = request.max_completion_tokens
    return _params(
        request,
        defaults=defaults,
        max_tokens=request.max_tokens if most is None else most,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        prompt_logprobs=prompt_logprobs_of(request),
        n=samples_of(request),
    )


def tooling_of(request: ChatRequest | TokenizeRequest) -> Tooling:
    """Returns the tools of a request.

    Raises:
      InvalidRequestError: one is not as it should be.
    """
    return read_tools(
        request.tools or (),
        choice=request.tool_choice,
        is_parallel=request.parallel_tool_calls is not False,
    )


def _params(
    request: CompletionRequest | ChatRequest,
    *,
    defaults: SamplingParams,
    max_tokens: int | None,
    logprobs: int | None,
    prompt_logprobs: int | None,
    n: int,
) -> SamplingParams:
    stop = request.stop
    allowed = request.allowed_token_ids
    return SamplingParams(
        temperature=_or(request.temperature, defaults.temperature),
        top_p=_or(request.top_p, defaults.top_p),
        top_k=known_top_k(_or(request.top_k, defaults.top_k)),
        min_p=_or(request.min_p, defaults.min_p),
        presence_penalty=_or(request.presence_penalty, 0.0),
        frequency_penalty=_or(request.frequency_penalty, 0.0),
        repetition_penalty=_or(request.repetition_penalty, defaults.repetition_penalty),
        logit_bias=request.logit_bias or {},
        allowed_token_ids=None if allowed is None else tuple(allowed),
        seed=request.seed,
        logprobs=logprobs,
        logprobs_mode=cast(
            "LogprobsMode", _or(request.logprobs_mode, defaults.logprobs_mode)
        ),
        prompt_logprobs=prompt_logprobs,
        n=n,
        max_tokens=max_tokens,
        min_tokens=_or(request.min_tokens, 0),
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        stop_token_ids=tuple(request.stop_token_ids or ()),
        include_stop_str_in_output=bool(request.include_stop_str_in_output),
        ignore_eos=bool(request.ignore_eos),
        skip_special_tokens=_or(request.skip_special_tokens, True),
        grammar=shape_of(request),
    )


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
