"""A rollout answers the prompts of a Tunix trainer by an `LLM` of its own.

    ClusterConfig(rollout_engine=MellRollout, ...)
    ClusterConfig(rollout_engine=functools.partial(MellRollout, max_rows=64), ...)

Its methods are those of `tunix.rl.rollout.base_rollout.BaseRollout`, of which nothing
is imported here. They may be called from any thread: what is asked at the same time
shares the engine's steps.
"""

import itertools
import threading
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import jax
import numpy as np
from flax import nnx

from mell_jax.engine.admin import OpenRequests
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.params import MIN_TEMPERATURE
from mell_jax.integrations.tunix.agreement import find_like
from mell_jax.integrations.tunix.models import configs_of, given_config
from mell_jax.integrations.tunix.options import defaults, dtype_of, places
from mell_jax.integrations.tunix.prompts import (
    encode,
    pad_left,
    sampling_params,
    seeded,
    without_padding,
)
from mell_jax.integrations.tunix.weights import WeightMap, make_decoder
from mell_jax.library.outputs import Completion
from mell_jax.llm import LLM
from mell_jax.models.config import ModelConfig
from mell_jax.models.decoder import Decoder


class Rollout:
    """The served model is a `Decoder` with the actor's parameters, as they are trained.

    Whether it computes what the actor does is tried at the start. Where the trainer
    offloads its models to the host (`offload_to_cpu`) this engine cannot be used.

    Args:
      rollout_actor: the module that is trained, of `tunix.models` or MaxText.
      tokenizer: Tunix' `TokenizerAdapter`.
      mesh: of the rollout. Devices along its axis "tp", "tensor" or "model" serve one
        instance together; its other axes count instances.
      rollout_config: of the training; the calls of `generate` bring their own.
      model: what the actor is, if it is none of the models that are known: a config,
        or the directory of a Hugging Face model, of which config.json is read.
      lora_alpha: that of the actor's `LoraProvider`, if it has LoRA.
      open_requests: what becomes of those that are open when weights change; see
        `LLM.update_weights`.
      streamed: weights change one by one, in less memory and more time.
      fleet: how instances work together; by default each gets its part of the load.
      options: any field of `EngineConfig`. By default `dtype` is `data_type` of
        `rollout_config`, or the actor's; `max_model_len` what `rollout_config` asks
        for, or its `kv_cache_size` if that is more; and `kv_memory_fraction` is 0.2
        where the actor is on the same devices.

    Raises:
      ValueError: the actor cannot be served, or an option is out of range.
    """

    make_output: Callable[..., Any]
    """Makes a `RolloutOutput` of its fields."""

    def __init__(
        self,
        *,
        rollout_actor: Any,
        tokenizer: Any,
        mesh: jax.sharding.Mesh,
        rollout_config: Any,
        model: ModelConfig | str | PathLike[str] | None = None,
        lora_alpha: float | None = None,
        open_requests: OpenRequests = "keep",
        streamed: bool = False,
        fleet: FleetConfig | None = None,
        **options: Any,
    ) -> None:
        state = nnx.state(rollout_actor)
        wanted = (
            defaults(state, mesh=mesh, config=rollout_config)
            | places(mesh, rollout_config, options)
            | options
        )
        context = wanted["max_model_len"]
        configs = (
            configs_of(rollout_actor, context=context)
            if model is None
            else (given_config(model, context=context),)
        )
        self._weights = WeightMap(
            rollout_actor, config=configs[0], lora_alpha=lora_alpha
        )
        decoder = _like(rollout_actor, configs, self._weights)
        self._mesh, self._config = mesh, rollout_config
        self._tokenizer = tokenizer
        self._open_requests, self._is_streamed = open_requests, streamed
        self._calls = itertools.count()
        self._turn = threading.Lock()
        self._llm = LLM.from_nnx(
            decoder,
            eos_ids=(self.eos_id(),),
            fleet=fleet or FleetConfig(policy="load_balance"),
            **wanted,
        )

    @property
    def llm(self) -> LLM:
        """Returns what answers, for what Tunix does not ask: versions, load, scores."""
        return self._llm

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """Returns the mesh that it was given."""
        return self._mesh

    def generate(self, prompts: list[str], rollout_config: Any, **kwargs: Any) -> Any:
        """Answers prompts together.

        A token that ends an answer is the last of its tokens and not in its text. With
        `return_logprobs` each has its log probability under the distribution that it
        was drawn from, float32.

        Args:
          prompts: texts.
          rollout_config: how to sample. Its seed counts together with the number of
            the call and of the prompt, so that equal prompts get different answers.
          kwargs: fields of `SamplingParams` that count more.

        Returns:
          A `RolloutOutput`.

        Raises:
          InvalidRequestError: a prompt is too long, or a value is out of range.
        """
        ids = [encode(self._tokenizer, prompt) for prompt in prompts]
        params = seeded(
            sampling_params(rollout_config, **kwargs),
            seed=rollout_config.seed,
            call=next(self._calls),
            count=len(ids),
        )
        outputs = self._llm.generate(ids, params)
        answers = [output.completions[0] for output in outputs]
        logprobs = None
        if rollout_config.return_logprobs:
            logprobs = [_logprobs_of(answer) for answer in answers]
        return self.make_output(
            text=[self._text_of(answer) for answer in answers],
            logits=None,
            tokens=[np.asarray(answer.token_ids, np.int32) for answer in answers],
            left_padded_prompt_tokens=pad_left(
                ids, pad_id=self.pad_id(), length=rollout_config.max_prompt_length
            ),
            logprobs=logprobs,
        )

    def get_per_token_logps(
        self, prompt_tokens: jax.Array, completion_tokens: jax.Array
    ) -> jax.Array:
        """Returns log probabilities of given tokens, float32 [B, T].

        They are those of the rollout's temperature, as the trainer's loss has them;
        padding gets 0.

        Args:
          prompt_tokens: int32 [B, P], padded on the left.
          completion_tokens: int32 [B, T], padded on the right.
        """
        asked = np.asarray(completion_tokens)
        found = np.zeros(asked.shape, np.float32)
        pad = self.pad_id()
        prompts = [
            without_padding(row, pad_id=pad, is_left=True)
            for row in np.asarray(prompt_tokens)
        ]
        answers = [without_padding(row, pad_id=pad, is_left=False) for row in asked]
        scores = self._score(prompts, answers)
        for row, some in zip(found, scores, strict=True):
            row[: len(some)] = some
        return jax.numpy.asarray(found)

    def update_params(
        self, params: Any, filter_types: tuple[Any, ...] | None = None
    ) -> None:
        """Serves what was trained from the next step on; nothing passes the host.

        Args:
          params: an `nnx.State` of the actor, all of its parameters or LoRA's alone.
          filter_types: what `params` was cut out by; not needed.
        """
        with self._turn:
            self._llm.update_weights(
                self._weights.arrays_of(params),
                mapping=self._weights.mapping,
                open_requests=self._open_requests,
                streamed=self._is_streamed,
            )

    def pad_id(self) -> int:
        """Returns the token that fills rows up."""
        return int(self._tokenizer.pad_id())

    def eos_id(self) -> int:
        """Returns the token that ends an answer."""
        return int(self._tokenizer.eos_id())

    def model(self) -> None:
        """Returns None: the served module is of another class than the actor."""

    def close(self) -> None:
        """Stops the engine."""
        self._llm.close()

    def _score(
        self, prompts: Sequence[list[int]], answers: Sequence[list[int]]
    ) -> list[Any]:
        heat = self._config.temperature
        heat = None if heat < MIN_TEMPERATURE else heat  # greedy: the model's own
        return self._llm.score(prompts, answers, temperature=heat)

    def _text_of(self, answer: Completion) -> str:
        ids = list(answer.token_ids)
        if answer.stop_token is not None:
            del ids[-1]
        return str(self._tokenizer.decode(ids))


def _like(actor: Any, configs: Sequence[ModelConfig], weights: WeightMap) -> Decoder:
    """Returns a decoder of the actor's parameters that computes what it does."""
    state = nnx.state(actor)
    dtype = dtype_of(state)
    arrays = weights.parameters(state, dtype=dtype)
    decoders = [make_decoder(config, arrays, dtype=dtype) for config in configs]
    return find_like(actor, decoders)


def _logprobs_of(answer: Completion) -> np.ndarray[Any, Any]:
    assert answer.logprobs is not None, "they were asked for"
    return np.asarray([one.logprob for one in answer.logprobs], np.float32)
