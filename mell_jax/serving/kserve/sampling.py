"""Clients of Triton write sampling parameters in words of their own.

    sampling_parameters   {"temperature": "0.1", "max_tokens": 100, "stop": ["\\n"]}
    parameters            temperature: double_param 0.1, max_tokens: int64_param 100

Numbers may be strings, as in examples of the vLLM backend. What a value may be is
`SamplingParams`' business; here it is only given its type.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from mell_jax.engine.params import InvalidRequestError, SamplingParams
from mell_jax.serving.client_values import known_top_k
from mell_jax.serving.constraint import FIELDS, grammar_of

MAX_JSON_CHARS = 64 * 1024


def params_of(
    text: str, *, others: Mapping[str, object], defaults: SamplingParams
) -> SamplingParams:
    """Returns checked sampling parameters.

    Args:
      text: a JSON object; empty for none.
      others: more of them, by name.
      defaults: the model's, for those that are not given.

    Raises:
      InvalidRequestError: one is unknown, given twice, or has a value that cannot be.
    """
    given = _read(text) if text else {}
    for name in others:
        if name in given:
            raise InvalidRequestError(
                "parameters", f"have {name!r:.100}, as have sampling_parameters"
            )
    values = {}
    for name, value in {**given, **others}.items():
        if name not in _FIELDS:
            # Not named as the field at fault: that is a word of ours, for the log too.
            where = "sampling_parameters" if name in given else "parameters"
            raise InvalidRequestError(
                where,
                f"have {name!r:.100}, which is no parameter of this server; there are "
                f"{', '.join(_FIELDS)}",
            )
        if value is not None:  # null leaves the default
            values[name] = _FIELDS[name](name, value)
    shapes = {name: values.pop(name) for name in FIELDS if name in values}
    return dataclasses.replace(defaults, **values, grammar=grammar_of(shapes))


def _read(text: str) -> dict[str, object]:
    if len(text) > MAX_JSON_CHARS:
        raise InvalidRequestError(
            "sampling_parameters",
            f"may have {MAX_JSON_CHARS} characters, got {len(text)}",
        )
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(
            "sampling_parameters", f"must be JSON: {error!s:.200}"
        ) from error
    if not isinstance(found, dict):
        raise InvalidRequestError(
            "sampling_parameters", f"must be a JSON object, got {text!r:.100}"
        )
    return found


def _number(name: str, value: object) -> float:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    _fail(name, "a number", value)


def _count(name: str, value: object) -> int:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            _fail(name, "an integer", value)
    if not isinstance(value, int) or isinstance(value, bool):
        _fail(name, "an integer", value)
    return value


def _top_k(name: str, value: object) -> int:
    return known_top_k(_count(name, value))


def _flag(name: str, value: object) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        _fail(name, "true or false", value)
    return value


def _texts(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not (isinstance(value, list) and all(isinstance(each, str) for each in value)):
        _fail(name, "a string or a list of strings", value)
    return tuple(value)


def _counts(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        _fail(name, "a list of integers, in sampling_parameters", value)
    return tuple(_count(name, each) for each in value)


def _biases(name: str, value: object) -> dict[int, float]:
    if not isinstance(value, dict):
        _fail(name, "an object of numbers by token id, in sampling_parameters", value)
    return {_count(name, key): _number(name, bias) for key, bias in value.items()}


def _shape(name: str, value: object) -> object:
    """Returns what binds an answer; a list of choices may be written as JSON."""
    if name != "guided_choice" or not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        _fail(name, "a list of texts, in JSON", value)


def _fail(name: str, rule: str, value: object) -> NoReturn:
    raise InvalidRequestError(name, f"must be {rule}, got {value!r:.100}")


_FIELDS: Mapping[str, Callable[[str, object], Any]] = {
    "temperature": _number,
    "top_p": _number,
    "top_k": _top_k,
    "min_p": _number,
    "presence_penalty": _number,
    "frequency_penalty": _number,
    "repetition_penalty": _number,
    "logit_bias": _biases,
    "allowed_token_ids": _counts,
    "seed": _count,
    "n": _count,
    "max_tokens": _count,
    "min_tokens": _count,
    "stop": _texts,
    "stop_token_ids": _counts,
    "include_stop_str_in_output": _flag,
    "ignore_eos": _flag,
    "skip_special_tokens": _flag,
    **dict.fromkeys(FIELDS, _shape),
}
