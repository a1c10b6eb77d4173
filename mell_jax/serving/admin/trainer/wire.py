"""Trainers' requests are read as typed values, from a body or from a query.

vLLM takes some of it from the query and SGLang all from the body, so either will do; a
query is read as the body of the same names.
"""

import re
from collections.abc import Mapping
from typing import cast

import msgspec
from starlette.datastructures import QueryParams

from mell_jax.engine.admin import OpenRequests
from mell_jax.engine.params import InvalidRequestError
from mell_jax.serving.admin.controls import PathUpdate, checked
from mell_jax.serving.problem import MalformedMessageError

_NUMBER = re.compile("-?[0-9]{1,9}")
_TRUTH = {"true": True, "false": False}
_LISTS = ("tags", "request_ids")


class UpdateInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A trainer of vLLM puts an update into this object."""

    path: str | None = None
    model_path: str | None = None
    version: str | int | None = None
    weight_version: str | int | None = None


class UpdateBody(UpdateInfo, frozen=True, kw_only=True):
    """A trainer asks for weights by this, in the words of either engine."""

    update_info: UpdateInfo | None = None
    open_requests: str | None = None
    abort_all_requests: bool | None = None
    model: str | None = None
    streamed: bool | None = None


class NameBody(msgspec.Struct, frozen=True, kw_only=True):
    """A trainer calls the weights that are served something else by this."""

    new_version: str | int | None = None
    weight_version: str | int | None = None
    model: str | None = None


class AbortBody(msgspec.Struct, frozen=True, kw_only=True):
    """A trainer ends requests by this: vLLM's ids, SGLang's one, or all of them."""

    request_ids: list[str] | None = None
    rid: str | None = None
    abort_all: bool | None = None


class PauseBody(msgspec.Struct, frozen=True, kw_only=True):
    """A trainer pauses by this."""

    mode: str | None = None
    wait_for_inflight_requests: bool | int | None = None


class SleepBody(msgspec.Struct, frozen=True, kw_only=True):
    """A trainer puts the engine to sleep by this."""

    level: int | None = None
    mode: str | None = None
    keeps: str | None = None


class TagsBody(msgspec.Struct, frozen=True, kw_only=True):
    """A trainer names parts of the memory by this."""

    tags: list[str] | None = None


class ModelBody(msgspec.Struct, frozen=True, kw_only=True):
    """A trainer names a model by this, where there are several."""

    model: str | None = None


class WorldBody(msgspec.Struct, frozen=True, kw_only=True):
    """A trainer asks how many devices take part in what by this."""

    include_dp: bool | int | None = None


class EmptyBody(msgspec.Struct, frozen=True, kw_only=True):
    """A trainer has nothing to say here."""


def body_of(query: QueryParams, body: bytes) -> bytes:
    """Returns the body of a request, or a query as if it were one.

    Raises:
      MalformedMessageError: both say something.
      InvalidRequestError: a parameter of a query is there twice.
    """
    body = body.strip()
    if not query:
        return body or b"{}"
    if body not in (b"", b"{}", b"null"):
        raise MalformedMessageError(
            "parameters may stand in the query or in the body, not in both"
        )
    said: dict[str, object] = {}
    for name in query:
        values = query.getlist(name)
        if name in _LISTS:
            said[name] = values
        elif len(values) > 1:
            raise InvalidRequestError(name, "is given twice: leave one out")
        else:
            said[name] = _value_of(values[0])
    return msgspec.json.encode(said)


def update_of(asked: UpdateBody) -> PathUpdate:
    """Returns the update that a body asks for.

    Raises:
      InvalidRequestError: it names no path, or says one thing in two ways.
    """
    info = asked.update_info or UpdateInfo()
    path = _same(
        {
            "path": asked.path,
            "model_path": asked.model_path,
            "update_info.path": info.path,
            "update_info.model_path": info.model_path,
        }
    )
    if path is None:
        raise InvalidRequestError(
            "path",
            "is required: write the weights as a checkpoint (safetensors or Orbax) "
            "and name its folder",
        )
    version = _same(
        {
            "version": asked.version,
            "weight_version": asked.weight_version,
            "update_info.version": info.version,
            "update_info.weight_version": info.weight_version,
        }
    )
    if asked.abort_all_requests and asked.open_requests not in (None, "abort"):
        raise InvalidRequestError(
            "open_requests",
            f"is {asked.open_requests!r:.50} and abort_all_requests is set: leave one "
            "out",
        )
    word = asked.open_requests or ("abort" if asked.abort_all_requests else "keep")
    return checked(
        lambda: PathUpdate(
            path=path,
            version=version,
            open_requests=cast(OpenRequests, word),
            model=asked.model,
            streamed=bool(asked.streamed),
        )
    )


def version_of(asked: NameBody) -> str | None:
    """Returns how weights are to be called, None for no other way than now.

    Raises:
      InvalidRequestError: two names are given.
    """
    return _same(
        {"new_version": asked.new_version, "weight_version": asked.weight_version}
    )


def _same(said: Mapping[str, str | int | None]) -> str | None:
    """Returns what is said, if all who say something say the same."""
    told = {name: str(value) for name, value in said.items() if value is not None}
    if len(set(told.values())) > 1:
        first, second, *_ = told
        raise InvalidRequestError(
            first.partition(".")[0], f"differs from {second}: leave one of them out"
        )
    return next(iter(told.values()), None)


def _value_of(text: str) -> str | int | bool:
    """Returns what a parameter of a query would be in a body."""
    if (truth := _TRUTH.get(text.lower())) is not None:
        return truth
    return int(text) if _NUMBER.fullmatch(text) else text
