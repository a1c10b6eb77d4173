"""The life of a request: check, tokenize, submit n samples, stream, clean up."""

import asyncio
import contextlib
import dataclasses
import hashlib
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

import numpy as np

from mell_jax.engine.frames import Handle, Int32Array, Submit
from mell_jax.engine.params import InvalidRequestError, SamplingParams
from mell_jax.engine.validate import check_prompt_size, check_submit
from mell_jax.frontend.admission import Ticket
from mell_jax.frontend.deadlines import Deadlines
from mell_jax.frontend.delta import Delta, DeltaMaker
from mell_jax.frontend.errors import OverloadedError
from mell_jax.frontend.front_end import FrontEnd
from mell_jax.frontend.models import FrontModel
from mell_jax.frontend.tracing import ANYWHERE, Origin

_LONG_TEXT_CHARS = 512  # to tokenize them takes as long as to ask a thread
_LONG_ARRIVAL_TOKENS = 2048  # of a reader that was slow, or of a prompt

PromptMaker = Callable[[FrontModel], Sequence[int]]
"""Makes the ids of a prompt, in a thread; raises ValueError when it cannot."""


async def generate(
    front_end: FrontEnd,
    *,
    prompt: str | Sequence[int] | PromptMaker,
    params: SamplingParams,
    model: str = "",
    salt: bytes = b"",
    tenant: str = "",
    request_id: str = "",
    is_id_random: bool = False,
    is_text_wanted: bool = True,
    may_send_special_tokens: bool = True,
    default_max_tokens: int | None = None,
    origin: Origin = ANYWHERE,
) -> AsyncGenerator[Delta]:
    """Streams the answers to a prompt, all that is ready at a time.

    Each sample ends with one delta that has a `finish`. However the generator ends
    (read to its end, closed, cancelled, thrown into), no sequence stays alive in the
    engine. Close it with `contextlib.aclosing` when leaving early.

    Args:
        front_end: the way to the engine.
        prompt: text, token ids as they are, or what makes the ids.
        params: how to sample; an unset max_tokens becomes what the context leaves.
        model: the name of one of the models served; empty for the first one.
        salt: requests share cached prompts only with requests of the same salt.
        tenant: who asks, for quotas.
        request_id: a name for `FrontEnd.abort`; empty for a random one.
        is_id_random: no other request can have that name.
        is_text_wanted: False leaves `Delta.text` empty unless stop strings need it.
        may_send_special_tokens: False keeps the letters of special tokens that a text
            spells, and refuses their ids; what a `PromptMaker` makes is its business.
        default_max_tokens: what an unset max_tokens becomes, if the context leaves it
            and min_tokens does not ask for more.
        origin: where the request comes from, for traces.

    Raises:
        UnknownModelError: no model of that name is served.
        InvalidRequestError: the request breaks a rule; nothing was generated.
        DuplicateRequestError: `request_id` is in flight.
        OverloadedError: too much is open or waits, of everyone or of the tenant.
        QueueTimeoutError: no token came in time.
        RequestTimeoutError: the answer took too long.
        EngineDeadError: the engine stopped; says how many tokens were yielded.
        RequestFailedError: the engine gave up this request alone.
    """
    chosen = front_end.models.find(model)
    meter, start_s = front_end.meter, front_end.meter.now_s
    admission = front_end.admission
    name = chosen.info.model_name
    with (
        front_end.tracing.watch(origin, model=name) as trace,
        front_end.open(request_id, is_id_random=is_id_random) as request,
        _admit(front_end, tenant=tenant, samples=params.n) as ticket,
        Deadlines(request, limits=admission.limits) as deadlines,
    ):
        ids = await _prompt_ids(
            chosen, prompt=prompt, may_be_special=may_send_special_tokens
        )
        handles = [front_end.new_handle() for _ in range(params.n)]
        submits = _samples(
            chosen,
            handles=handles,
            ids=ids,
            params=params,
            salt=salt,
            max_tokens=admission.limits.max_output_tokens,
            default_max_tokens=default_max_tokens,
        )
        with _counted_refusals(front_end):
            ticket.count(ids.size)
        front_end.tell_growth(tenant)
        await request.confirm()
        is_text_made = is_text_wanted or bool(params.stop)
        tokenizer = chosen.tokenizer if is_text_made else None
        prompt_ids = tuple(ids.tolist())
        makers = [
            DeltaMaker(submit.params, prompt=prompt_ids, tokenizer=tokenizer)
            for submit in submits
        ]
        begun = trace.follow(meter.begin(submits, model=name, start_s=start_s))
        with begun as watches:
            request.submit(submits)
            while arrivals := await request.arrivals():
                for arrival in arrivals:
                    if ticket.begin(arrival.index):
                        deadlines.begin()
                    maker = makers[arrival.index]
                    if arrival.num_tokens > _LONG_ARRIVAL_TOKENS:
                        delta = await asyncio.to_thread(maker.read, arrival)
                    else:
                        delta = maker.read(arrival)
                    watches[arrival.index].see(delta, prompt=arrival.prompt)
                    if delta.finish is not None and arrival.finished is None:
                        # A stop string: the engine goes on.
                        request.drop(arrival.handle)
                    yield delta
                    request.tokens_sent += len(delta.token_ids)


def _admit(front_end: FrontEnd, *, tenant: str, samples: int) -> Ticket:
    with _counted_refusals(front_end):
        ticket = front_end.admission.enter(tenant=tenant, samples=samples)
    front_end.tell_growth(tenant)
    return ticket


@contextlib.contextmanager
def _counted_refusals(front_end: FrontEnd) -> Iterator[None]:
    try:
        yield
    except OverloadedError as error:
        front_end.meter.refuse(error.reason)
        raise


def derive_seed(seed: int, *, index: int) -> int:
    """The seed of sample `index`; sample 0 keeps the request's own."""
    if index == 0:
        return seed
    key = seed.to_bytes(8, "little", signed=True) + index.to_bytes(4, "little")
    digest = hashlib.blake2b(key, digest_size=8, person=b"mell sample").digest()
    return int.from_bytes(digest, "little", signed=True)


def _samples(
    model: FrontModel,
    *,
    handles: Sequence[Handle],
    ids: Int32Array,
    params: SamplingParams,
    salt: bytes,
    max_tokens: int | None,
    default_max_tokens: int | None,
) -> list[Submit]:
    """One checked submission per sample."""
    if params.stop and model.tokenizer is None:
        raise InvalidRequestError(
            "stop", "needs a tokenizer and this model has none; use stop_token_ids"
        )
    name = model.info.model_name
    unchecked = Submit(
        handle=handles[0], prompt=ids, params=params, model=name, salt=salt
    )
    check_submit(unchecked, info=model.info)
    room = model.info.max_model_len - ids.size
    most = room if max_tokens is None else min(room, max_tokens)
    if params.max_tokens is None:
        wanted = most if default_max_tokens is None else default_max_tokens
        given = min(most, max(wanted, params.min_tokens))
        params = dataclasses.replace(params, max_tokens=given)
    elif not (params.max_tokens <= most):
        raise InvalidRequestError(
            "max_tokens", f"of {params.max_tokens} exceeds the {most} of this server"
        )
    others = dataclasses.replace(params, prompt_logprobs=None)  # sample 0 tells them
    seed = params.seed
    return [
        Submit(
            handle=handle,
            prompt=ids,
            params=params if index == 0 else others,
            model=name,
            seed=None if seed is None else derive_seed(seed, index=index),
            salt=salt,
        )
        for index, handle in enumerate(handles)
    ]


async def _prompt_ids(
    model: FrontModel,
    *,
    prompt: str | Sequence[int] | PromptMaker,
    may_be_special: bool,
) -> Int32Array:
    if callable(prompt):
        prompt, may_be_special = await asyncio.to_thread(prompt, model), True
    if not isinstance(prompt, str):
        check_prompt_size(len(prompt), info=model.info)  # before a copy is made
        ids = _checked_ids(prompt, vocab_size=model.info.vocab_size)
        if not may_be_special:
            _check_no_special(ids.tolist(), model=model)
        return ids
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InvalidRequestError(
            "prompt", "must be token ids: this model is served without a tokenizer"
        )
    if not prompt:
        raise InvalidRequestError("prompt", "must not be empty")
    encode = tokenizer.encode if may_be_special else tokenizer.encode_plain
    try:
        tokenizer.check_prompt_bytes(prompt, max_tokens=model.info.max_model_len)
        if len(prompt) > _LONG_TEXT_CHARS:
            made = await asyncio.to_thread(encode, prompt)
        else:
            made = encode(prompt)
    except ValueError as error:
        raise InvalidRequestError("prompt", f"is not usable: {error}") from error
    return np.asarray(made, dtype=np.int32)


def _check_no_special(ids: Sequence[int], *, model: FrontModel) -> None:
    """Without a tokenizer the ids that end a sequence are all that is known."""
    ends = model.info.eos_token_ids
    if model.tokenizer is None:
        found = next((i for i in ids if i in ends), None)
    else:
        found = model.tokenizer.find_control_token(ids, others=ends)
    if found is not None:
        raise InvalidRequestError(
            "prompt",
            f"holds token id {found}, a special token, which only those may send whose "
            "bearer token has the right 'special_tokens'; send text, or leave it out",
        )


def _checked_ids(prompt: Sequence[int], *, vocab_size: int) -> Int32Array:
    """Ids as the engine takes them, refused before a cast could wrap them."""
    try:
        ids = np.asarray(prompt)
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError("prompt", f"is no list of ids: {error}") from error
    if not (ids.ndim == 1 and ids.dtype.kind in "iu"):
        raise InvalidRequestError(
            "prompt", f"must be a flat list of integer token ids, got {ids.dtype}"
        )
    low, high = int(ids.min()), int(ids.max())
    if not (low >= 0 and high < vocab_size):
        bad = low if low < 0 else high
        raise InvalidRequestError(
            "prompt", f"holds token id {bad}; ids go from 0 to {vocab_size - 1}"
        )
    return ids.astype(np.int32)
