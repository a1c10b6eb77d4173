"""A request lives here: check, tokenize, submit n samples, stream, clean up."""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import final

import numpy as np

from mell_jax.engine.frames import Handle, Int32Array, Submit
from mell_jax.engine.params import InvalidRequestError, SamplingParams
from mell_jax.engine.validate import check_prompt_size, check_submit
from mell_jax.frontend.admission import Ticket
from mell_jax.frontend.ask import Ask
from mell_jax.frontend.deadlines import Deadlines
from mell_jax.frontend.delta import Delta, DeltaMaker
from mell_jax.frontend.errors import OverloadedError
from mell_jax.frontend.executors import Executors, Job
from mell_jax.frontend.front_end import FrontEnd, OpenRequest
from mell_jax.frontend.grammar_gate import GrammarGate
from mell_jax.frontend.inbox import Arrival
from mell_jax.frontend.limits import AdmissionLimits
from mell_jax.frontend.meter import Watch
from mell_jax.frontend.models import FrontModel
from mell_jax.grammar import Grammar, GrammarError

_LONG_ARRIVAL_TOKENS = 2048  # of a reader that was slow, or of a prompt


async def generate(front_end: FrontEnd, ask: Ask) -> AsyncGenerator[Delta]:
    """Streams the answers to a prompt, all that is ready at a time.

    Each sample ends with one delta that has a `finish`. However the generator ends
    (read to its end, closed, cancelled, thrown into), no sequence stays alive in the
    engine. Close it with `contextlib.aclosing` when leaving early.

    Args:
        front_end: the way to the engine.
        ask: the request.

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
    model = front_end.models.find(ask.model)
    name = model.info.model_name
    meter, start_s = front_end.meter, front_end.meter.now_s
    with (
        front_end.tracing.watch(ask.origin, model=name) as trace,
        front_end.open(ask.scoped_id) as request,
        _admit(front_end, ask) as ticket,
        Deadlines(
            request, limits=front_end.admission.limits, load=front_end.load
        ) as deadlines,
    ):
        submits = await _prepare(front_end, ask, model=model, ticket=ticket)
        await request.confirm()
        begun = trace.follow(meter.begin(submits, model=name, start_s=start_s))
        with begun as watches:
            reader = _Reader(
                request,
                ticket=ticket,
                deadlines=deadlines,
                makers=_makers(ask, submits=submits, model=model),
                watches=watches,
                executors=front_end.executors,
            )
            request.submit(submits)
            while arrivals := await request.arrivals():
                for arrival in arrivals:
                    delta = await reader.read(arrival)
                    yield delta
                    request.tokens_sent += len(delta.token_ids)


def _admit(front_end: FrontEnd, ask: Ask) -> Ticket:
    caller = ask.caller
    with _counted_refusals(front_end):
        ticket = front_end.admission.enter(
            tenant=caller.tenant, samples=ask.params.n, weight=caller.weight
        )
    front_end.tell_growth(caller.tenant)
    return ticket


async def _prepare(
    front_end: FrontEnd, ask: Ask, *, model: FrontModel, ticket: Ticket
) -> list[Submit]:
    """Makes the prompt's ids, checks everything, counts the prompt in."""
    ask, wishes = await _render(ask, model=model, executors=front_end.executors)
    ids = await _prompt_ids(ask, model=model, executors=front_end.executors)
    await _check_grammar(ask, model=model, gate=front_end.grammars, wishes=wishes)
    submits = _samples(
        ask,
        model=model,
        handles=[front_end.new_handle() for _ in range(ask.params.n)],
        ids=ids,
        limits=front_end.admission.limits,
    )
    with _counted_refusals(front_end):
        ticket.count(ids.size)
    front_end.tell_growth(ask.caller.tenant)
    return submits


def _makers(
    ask: Ask, *, submits: Sequence[Submit], model: FrontModel
) -> list[DeltaMaker]:
    is_text_made = ask.is_text_wanted or bool(ask.params.stop)
    tokenizer = model.tokenizer if is_text_made else None
    prompt = tuple(submits[0].prompt.tolist())
    return [
        DeltaMaker(
            submit.params,
            prompt=prompt,
            following=ask.following,
            tokenizer=tokenizer,
            kept_ids=ask.kept_ids,
        )
        for submit in submits
    ]


@final
class _Reader:
    """Turns what arrives for a request into deltas, and tells all who count them."""

    def __init__(
        self,
        request: OpenRequest,
        *,
        ticket: Ticket,
        deadlines: Deadlines,
        makers: Sequence[DeltaMaker],
        watches: Sequence[Watch],
        executors: Executors,
    ) -> None:
        self._request = request
        self._ticket = ticket
        self._deadlines = deadlines
        self._makers = makers
        self._watches = watches
        self._executors = executors

    async def read(self, arrival: Arrival) -> Delta:
        if self._ticket.begin(arrival.index):
            self._deadlines.begin()
        maker = self._makers[arrival.index]
        if arrival.num_tokens > _LONG_ARRIVAL_TOKENS:
            delta = await self._executors.run(Job.READ, lambda: maker.read(arrival))
        else:
            delta = maker.read(arrival)
        self._watches[arrival.index].see(delta, prompt=arrival.prompt)
        if delta.finish is not None and arrival.finished is None:
            self._request.drop(arrival.handle)  # a stop string: the engine goes on
        return delta


@contextlib.contextmanager
def _counted_refusals(front_end: FrontEnd) -> Iterator[None]:
    try:
        yield
    except OverloadedError as error:
        front_end.meter.refuse(error.reason)
        raise


def derive_seed(seed: int, *, index: int) -> int:
    """Returns the seed of sample `index`; sample 0 keeps the request's own."""
    if index == 0:
        return seed
    key = seed.to_bytes(8, "little", signed=True) + index.to_bytes(4, "little")
    digest = hashlib.blake2b(key, digest_size=8, person=b"mell sample").digest()
    return int.from_bytes(digest, "little", signed=True)


def _samples(
    ask: Ask,
    *,
    model: FrontModel,
    handles: Sequence[Handle],
    ids: Int32Array,
    limits: AdmissionLimits,
) -> list[Submit]:
    """Returns one checked submission per sample.

    Args:
        limits: what the server lets anybody have.
    """
    room = model.info.max_model_len - ids.size
    if limits.clamps_max_tokens:
        ask = _clamped(ask, room=room, most=limits.max_output_tokens)
    params, caller = ask.params, ask.caller
    if params.stop and model.tokenizer is None:
        raise InvalidRequestError(
            "stop", "needs a tokenizer and this model has none; use stop_token_ids"
        )
    name = model.info.model_name
    unchecked = Submit(
        handle=handles[0],
        prompt=ids,
        params=params,
        model=name,
        following=ask.following,
        salt=caller.salt,
        tenant=caller.tenant,
        weight=caller.weight,
    )
    check_submit(unchecked, info=model.info)
    params = _with_max_tokens(ask, room=room, most=limits.max_output_tokens)
    others = dataclasses.replace(params, prompt_logprobs=None)  # sample 0 tells them
    seed = params.seed
    return [
        dataclasses.replace(
            unchecked,
            handle=handle,
            params=params if index == 0 else others,
            seed=None if seed is None else derive_seed(seed, index=index),
        )
        for index, handle in enumerate(handles)
    ]


def _clamped(ask: Ask, *, room: int, most: int | None) -> Ask:
    """Returns the ask for no more tokens than it can get, if it asks for any."""
    params = ask.params
    most = room if most is None else min(room, most)
    if params.max_tokens is None or not (0 < most < params.max_tokens):
        return ask
    if params.min_tokens > most:
        return ask  # what is refused all the same is refused as it was asked
    return dataclasses.replace(ask, params=dataclasses.replace(params, max_tokens=most))


def _with_max_tokens(ask: Ask, *, room: int, most: int | None) -> SamplingParams:
    """Returns the params with a max_tokens that the context and the server allow."""
    params = ask.params
    most = room if most is None else min(room, most)
    if params.max_tokens is None:
        wanted = most if ask.default_max_tokens is None else ask.default_max_tokens
        given = min(most, max(wanted, params.min_tokens))
        return dataclasses.replace(params, max_tokens=given)
    if not (params.max_tokens <= most):
        raise InvalidRequestError(
            "max_tokens", f"of {params.max_tokens} exceeds the {most} of this server"
        )
    return params


async def _render(
    ask: Ask, *, model: FrontModel, executors: Executors
) -> tuple[Ask, Mapping[str, Grammar]]:
    """Returns the request with a prompt that was made, if one is to be.

    With what its grammar was made of; see `MadePrompt`.
    """
    if not callable(ask.prompt):
        return ask, {}
    make = functools.partial(ask.prompt, model)
    made = await executors.run(Job.RENDER, make, model=model.info.model_name)
    # A chat template is ours: what it makes is its business.
    caller = dataclasses.replace(ask.caller, may_send_special_tokens=True)
    params = ask.params
    if made.grammar is not None:
        params = dataclasses.replace(params, grammar=made.grammar)
    ask = dataclasses.replace(ask, prompt=made.ids, params=params, caller=caller)
    return ask, made.wishes


async def _prompt_ids(
    ask: Ask, *, model: FrontModel, executors: Executors
) -> Int32Array:
    name = model.info.model_name
    prompt, may_be_special = ask.prompt, ask.caller.may_send_special_tokens
    assert not callable(prompt), "it is made before"
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
        # Also a short one: rules of a tokenizer may take their time over it.
        work = functools.partial(encode, prompt)
        made = await executors.run(Job.TOKENIZE, work, model=name)
    except ValueError as error:
        raise InvalidRequestError("prompt", f"is not usable: {error}") from error
    return np.asarray(made, dtype=np.int32)


async def _check_grammar(
    ask: Ask, *, model: FrontModel, gate: GrammarGate, wishes: Mapping[str, Grammar]
) -> None:
    grammar, tenant = ask.params.grammar, ask.caller.tenant
    if grammar is None:
        return
    if model.tokenizer is None:
        raise InvalidRequestError(
            "grammar",
            "needs a tokenizer and this model has none; use allowed_token_ids",
        )
    try:
        await gate.check(grammar, tenant=tenant)
    except GrammarError as error:
        if len(wishes) > 1:
            await _check_each(wishes, gate=gate, tenant=tenant)
        field = next(iter(wishes), "grammar")
        raise InvalidRequestError(field, str(error)) from error


async def _check_each(
    wishes: Mapping[str, Grammar], *, gate: GrammarGate, tenant: str
) -> None:
    """Raises where one of several wishes cannot be used by itself."""
    for field, grammar in wishes.items():
        try:
            await gate.check(grammar, tenant=tenant)
        except GrammarError as error:
            raise InvalidRequestError(field, str(error)) from error


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
    """Returns ids as the engine takes them, refused before a cast could wrap them."""
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
