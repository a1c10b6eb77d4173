"""The additive toy model: the next token is the sum of all tokens so far, modulo V.

A toy with another factor, another model, answers so many times the sum.

The sum is read from the real pool through the page table by the real attention op:
with queries of zero every cached token weighs the same, so attention answers the mean
of the values, and the mean times the length is the sum. A wrong page, a stale copy or a
dropped token changes the very next token, and the right answer can be done in your
head:

    prompt 1 2 3 -> 6 -> 12 -> 24 -> 48 -> ...     each token doubles the sum

Its weights are two numbers: the sum counts so many times (`factor`) when a token is
sampled, and a token counts so many times (`scale`) in the pages that it is written to.
"""

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh

from mell_jax.engine.fleet.fleet import Fleet
from mell_jax.engine.fleet.models import FleetModel
from mell_jax.engine.fleet.transport import DevicePut
from mell_jax.engine.frames import EngineInfo, Handle, StepFrame, Submit
from mell_jax.engine.instance import Instance
from mell_jax.engine.intake import resolve
from mell_jax.engine.params import SamplingParams
from mell_jax.engine.step_times import StepTimes
from mell_jax.grammar import TokenTable
from mell_jax.models.attention import Attend, LayerAttention
from mell_jax.models.config import ModelConfig
from mell_jax.models.uniform import uniform_config
from mell_jax.scheduler.batching import Batcher
from mell_jax.scheduler.cache_spec import CacheSpec
from mell_jax.scheduler.ids import DeviceGroupId, ModelId, Serial
from mell_jax.scheduler.pages import PagePool
from mell_jax.scheduler.placement.machine import Machine
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.plan import BatchLimits
from mell_jax.scheduler.policies import POLICIES
from mell_jax.scheduler.prefix_cache import PrefixCache
from mell_jax.worker.device import DeviceWorker
from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.held_weights import HeldWeights
from mell_jax.worker.layout import Bucket
from mell_jax.worker.pool import make_pool
from mell_jax.worker.step import StepOptions, make_programs, put_weights, split_model

VOCAB = 101
HEAD_DIM = 32
PAGE_TOKENS = 16
SHARPNESS = 4.0
"""Logit of the sum; the others are 0, so that sampling has something to choose."""
ONE = DeviceGroupId(0)


def toy_config(*, heads: int = 1, kv_heads: int = 1) -> ModelConfig:
    return uniform_config(
        vocab_size=VOCAB,
        hidden_size=1,
        intermediate_size=heads,
        num_layers=1,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=HEAD_DIM,
        max_position_embeddings=1 << 20,
    )


CONFIG = toy_config()
LAYER = LayerAttention(index=0, scale=HEAD_DIM**-0.5)


class AdditiveToy(nnx.Module):
    """Takes the place of a `Decoder`.

    With several KV heads each keeps the tokens of its remainder, so all must be right:

        heads 2    tokens 1 2 3    head 0 keeps 0 2 0, head 1 keeps 1 0 3
    """

    def __init__(
        self, config: ModelConfig = CONFIG, *, factor: int = 1, scale: int = 1
    ) -> None:
        attention = config.layers[0].attention
        self.heads, self.kv_heads = attention.num_heads, attention.num_kv_heads
        self.factor = nnx.Param(jnp.full((1,), factor, jnp.float32))
        self.scale = nnx.Param(jnp.full((1,), scale, jnp.float32))

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        cache,
        attend: Attend,
    ) -> tuple[jax.Array, jax.Array]:
        is_mine = tokens[:, None] % self.kv_heads == jnp.arange(self.kv_heads)[None]
        kept = jnp.where(is_mine, tokens[:, None], 0).astype(jnp.float32)  # [T, K]
        kept = kept * self.scale.get_value()[None]
        values = jnp.pad(kept[:, :, None], ((0, 0), (0, 0), (0, HEAD_DIM - 1)))
        queries = jnp.zeros((len(tokens), self.heads, HEAD_DIM), jnp.float32)
        keys = jnp.zeros_like(values)
        cache, mean = attend(cache, queries, keys, values, layer=LAYER)
        total = mean[:, :, 0].sum(1) * (positions + 1).astype(jnp.float32)
        total = total * jnp.float32(self.kv_heads / self.heads)
        return total[:, None] * self.factor.get_value()[None], cache  # [T, 1]

    def logits(self, hidden: jax.Array) -> jax.Array:
        # A sum that is not a number stays one, as in a real model.
        poison = jnp.where(jnp.isfinite(hidden), jnp.float32(0.0), hidden)
        answer = jnp.round(hidden[:, 0]).astype(jnp.int32) % VOCAB
        return jax.nn.one_hot(answer, VOCAB) * jnp.float32(SHARPNESS) + poison


def expected(prompt: Sequence[int], *, count: int, factor: int = 1) -> list[int]:
    """The `count` tokens after `prompt`, greedily."""
    total, out = sum(prompt), []
    for _ in range(count):
        out.append(factor * total % VOCAB)
        total += out[-1]
    return out


POOL_PAGES = 65
MAX_ROWS = 8
STEP_TOKENS = 64
"""Sizes that are compiled; smaller engines run in them, so that compiling is rare."""


@functools.cache
def _programs(
    config: ModelConfig,
    layout: AbstractMesh | None,
    *,
    max_rows: int,
    token_budget: int,
    max_pages: int,
):
    parts, _ = split_model(*nnx.split(AdditiveToy(config)))
    buckets = [
        Bucket(tokens=max_rows, rows=max_rows, pages=max_pages, is_decode=True),
        Bucket(tokens=token_budget, rows=max_rows, pages=max_pages, is_decode=False),
    ]
    options = StepOptions(
        attention_backend="xla",
        page_tokens=PAGE_TOKENS,
        places=((0, 0),),
        layout=layout,
    )
    return make_programs(parts, buckets=buckets, options=options, platform="cpu")


def toy_worker(
    config: ModelConfig = CONFIG,
    *,
    num_pages: int,
    max_rows: int,
    token_budget: int,
    max_tokens: int,
    devices: Sequence[jax.Device] = (),
    factor: int = 1,
    held: HeldWeights | None = None,
):
    """A worker with a pool of zeros, and weights of its own unless it gets some."""
    group = DeviceGroup.of_model(config, devices=devices or jax.devices()[:1])
    programs = _programs(
        config,
        group.layout,
        max_rows=max_rows,
        token_budget=token_budget,
        max_pages=-(-max_tokens // PAGE_TOKENS),
    )
    return DeviceWorker(
        programs,
        group=group,
        weights=held or toy_weights(config, factor=factor, group=group),
        pool=make_pool(config, num_pages=num_pages, dtype=jnp.float32, group=group),
        max_rows=max_rows,
        vocab_size=VOCAB,
    )


def toy_weights(
    config: ModelConfig = CONFIG, *, factor: int, group: DeviceGroup
) -> HeldWeights:
    parts, weights = split_model(*nnx.split(AdditiveToy(config, factor=factor)))
    return HeldWeights(put_weights(weights, paths=parts.paths, group=group))


class ToyGroup:
    """One device group; each opening makes an instance on the same worker."""

    def __init__(
        self, worker: DeviceWorker, make_batcher: Callable[[], Batcher]
    ) -> None:
        self.worker = worker
        self._make_batcher = make_batcher
        self._is_parked = False

    @property
    def devices(self) -> Mapping[DeviceGroupId, DeviceGroup]:
        return {ONE: self.worker.group}

    def open(self, device: DeviceGroupId, model: ModelId) -> Instance:
        max_rows = self.worker.scratch_slot  # rows come before it
        if self._is_parked:
            self.worker.unpark()
        return Instance(self.worker, self._make_batcher(), max_rows=max_rows)

    def close(self, device: DeviceGroupId) -> None:
        self._is_parked = True
        self.worker.park(keeps_weights=True)

    def held(self, model: ModelId) -> Mapping[DeviceGroupId, HeldWeights]:
        return {ONE: self.worker.held}


def toy_engine(
    config: ModelConfig = CONFIG,
    *,
    num_pages: int = POOL_PAGES,
    max_rows: int = MAX_ROWS,
    token_budget: int = STEP_TOKENS,
    max_tokens: int = 128,
    eos: tuple[int, ...] = (),
    prefix_cache: bool = True,
    devices: Sequence[jax.Device] = (),
) -> Fleet:
    """A fleet of one around the toy; compiled steps are shared between tests.

    `devices` are those of its one instance, by default the first.
    """
    compiled_rows = max(max_rows, MAX_ROWS)
    worker = toy_worker(
        config,
        num_pages=max(num_pages, POOL_PAGES),
        max_rows=compiled_rows,
        token_budget=max(token_budget, STEP_TOKENS),
        max_tokens=max_tokens,
        devices=devices,
    )
    worker.warm_up(progress=False)
    info = toy_info(
        eos=eos, max_tokens=max_tokens, max_rows=compiled_rows, num_pages=num_pages
    )
    spec = ModelSpec(capacity_pages=num_pages - 1, max_rows=max_rows)
    return Fleet(
        models=[FleetModel(info=info, transport=DevicePut())],
        machine=Machine(
            models={ModelId(info.model_name): spec},
            policy=POLICIES["consolidate"](PolicyConfig()),
        ),
        instance_pool=ToyGroup(
            worker,
            lambda: Batcher(
                PrefixCache(PagePool(num_pages)),
                limits=BatchLimits(
                    max_rows=max_rows, token_budget=token_budget, max_tokens=max_tokens
                ),
                spec=CacheSpec(page_tokens=PAGE_TOKENS),
                shares_prefixes=prefix_cache,
            ),
        ),
        clock=time.monotonic,
        shares_prefixes=prefix_cache,
    )


def only(engine: Fleet) -> Instance:
    """The instance of a fleet of one; it opens with the first request."""
    return engine.instances[ONE].inner


def toy_info(
    *,
    name: str = "toy",
    eos: tuple[int, ...] = (),
    max_tokens: int = 128,
    max_rows: int = MAX_ROWS,
    num_pages: int = POOL_PAGES,
) -> EngineInfo:
    return EngineInfo(
        model_name=name,
        model_type="toy",
        architecture="AdditiveToy",
        vocab_size=VOCAB,
        eos_token_ids=eos,
        bos_token_id=None,
        max_model_len=max_tokens,
        max_rows=max_rows,
        num_pages=num_pages,
        page_tokens=PAGE_TOKENS,
    )


TOY_END = VOCAB - 1
"""Ends a text where the toy writes texts."""
_LONGER = (b'{"', b'": ', b"ab", b'", "', b"true")


def toy_table() -> TokenTable:
    """What tokens write where the toy writes texts: ASCII, longer ones, an end."""
    return TokenTable(
        token_bytes=[bytes([code]) for code in range(32, 127)] + [*_LONGER, b"<end>"],
        special_ids=frozenset([TOY_END]),
        end_ids=(TOY_END,),
        vocab_size=VOCAB,
        encode=lambda text: [ord(letter) - 32 for letter in text],
    )


def toy_text(tokens: Sequence[int]) -> str:
    """The text of tokens, without an end."""
    table = toy_table().token_bytes
    return b"".join(table[i] for i in tokens if i != TOY_END).decode()


GREEDY = SamplingParams(temperature=0.0)


def submit(
    engine: Fleet,
    prompt: Sequence[int],
    *,
    handle: int,
    params: SamplingParams,
    **more,
) -> None:
    engine.submit(
        Submit(
            handle=Handle(handle),
            prompt=np.array(prompt, np.int32),
            params=params,
            **more,
        )
    )


class Transcript:
    """What a front end would have seen, per handle."""

    def __init__(self) -> None:
        self.tokens: dict[int, list[int]] = {}
        self.finished = {}
        self.prompts = {}
        self.logprobs: dict[int, list[tuple[float, list[int], list[float]]]] = {}
        self.versions: dict[int, list[str]] = {}  # of each token
        self._version: dict[int, str] = {}

    def read(self, frame: StepFrame | None) -> None:
        if frame is None:
            return
        for new in frame.versions:
            self._version |= dict.fromkeys(new.handles, new.version)
        for row, (handle, token) in enumerate(
            zip(frame.handles.tolist(), frame.tokens.tolist(), strict=True)
        ):
            assert handle not in self.finished, "a token after the end"
            self.tokens.setdefault(handle, []).append(token)
            self.versions.setdefault(handle, []).append(self._version.get(handle, "?"))
            if frame.logprobs is not None:
                self.logprobs.setdefault(handle, []).append(
                    (
                        float(frame.logprobs.chosen[row]),
                        frame.logprobs.top_ids[row].tolist(),
                        frame.logprobs.top[row].tolist(),
                    )
                )
        for prompt in frame.prompts:
            assert prompt.handle not in self.prompts
            self.prompts[prompt.handle] = prompt
        for end in frame.finished:
            assert end.handle not in self.finished, "two ends"
            self.finished[end.handle] = end


def run(engine: Fleet, *, transcript: Transcript | None = None) -> Transcript:
    """Steps an engine until it has nothing to do."""
    seen = transcript or Transcript()
    while engine.has_work:
        seen.read(engine.step())
    return seen


def generate(
    engine: Fleet, prompts: Iterable[Sequence[int]], *, params: SamplingParams
) -> list[list[int]]:
    """The tokens of each prompt, run together."""
    count = 0
    for handle, prompt in enumerate(prompts):
        submit(engine, prompt, handle=handle, params=params)
        count += 1
    seen = run(engine)
    return [seen.tokens.get(handle, []) for handle in range(count)]


def generate_by_hand(
    instance: Instance, prompt: Sequence[int], *, params: SamplingParams
) -> list[int]:
    """The tokens of a prompt on an instance that nobody else drives."""
    submission = Submit(
        handle=Handle(1), prompt=np.array(prompt, np.int32), params=params
    )
    request = resolve(submission, serial=Serial(1), info=toy_info(), seed=0)
    instance.start(request, tokens=submission.prompt)
    seen, times = Transcript(), StepTimes()
    while instance.has_work:
        instance.launch(times)
        seen.read(instance.land(times))
    return seen.tokens[1]
