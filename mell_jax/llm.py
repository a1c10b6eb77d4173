"""The library door gets text from a model in one line, in the same process.

    print(LLM().generate("Once upon a time")[0].text)

An engine thread and an event loop thread work behind it; every method may be called
from any thread, and requests that are made at the same time share the engine's steps.
"""

import atexit
import dataclasses
import os
import threading
import weakref
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Iterable,
    Iterator,
    Sequence,
)
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import jax
import numpy as np
import numpy.typing as npt

from mell_jax.checkpoints import read_eos_ids, spec_in_memory, split_ids
from mell_jax.engine.admin import (
    Keeps,
    OpenRequests,
    PauseMode,
    SleepLevel,
    WeightsUpdated,
)
from mell_jax.engine.build import BuiltEngine, build_engine, build_from_module
from mell_jax.engine.config import DEMO, EngineConfig
from mell_jax.engine.fleet.config import FleetConfig
from mell_jax.engine.frames import EngineInfo, EngineLoad
from mell_jax.engine.params import SamplingParams
from mell_jax.engine.weights.match import Mapped
from mell_jax.engine.weights.updater import WeightsUpdater
from mell_jax.frontend import (
    Ask,
    Caller,
    Delta,
    FrontEnd,
    FrontModel,
    generate,
)
from mell_jax.library.end import End
from mell_jax.library.mesh import with_mesh
from mell_jax.library.outputs import RequestOutput, collect_all
from mell_jax.library.prompts import Prompt, Prompts, as_params, as_prompt, as_prompts
from mell_jax.library.score import TokenIds, given_in, params_of, scores_of
from mell_jax.library.serving import Serving
from mell_jax.library.shared import shared_type
from mell_jax.loop_thread import LoopThread
from mell_jax.models.config import ModelConfig
from mell_jax.models.decoder import Decoder
from mell_jax.models.servable import ServableModel, check_servable
from mell_jax.text.tokenizer import Tokenizer, has_tokenizer, load_tokenizer

MAX_OPEN = 1_000_000
"""So many requests may be open: a program is not kept from making its own."""


@final
class LLM:
    """A model answers prompts.

    Args:
      model: a model directory (Hugging Face or Orbax), a GGUF file, or "demo".
      tokenizer: a folder with a tokenizer; by default the model's own.
      config: the model, where its directory has no `config.json`; one that has no
        tokenizer either takes token ids and gives them.
      fleet: how several instances work together, with `instances=N` among the options.
      progress: show bars while loading and compiling.
      options: any field of `EngineConfig`, such as `max_rows=8`.

    Raises:
      CheckpointError: the model directory cannot be used.
      ValueError: an option is out of range or does not fit the model.
      TypeError: an option does not exist.
      OSError: the folder of `compilation_cache_dir` cannot be used.
    """

    def __init__(
        self,
        model: str | PathLike[str] = DEMO,
        *,
        tokenizer: str | PathLike[str] | None = None,
        config: ModelConfig | None = None,
        fleet: FleetConfig | None = None,
        progress: bool = False,
        **options: Any,
    ) -> None:
        built = build_engine(
            EngineConfig(model=fspath(model), **options),
            model_config=config,
            fleet=fleet,
            progress=progress,
        )
        folder = Path(tokenizer) if tokenizer is not None else built.models[0].directory
        assert folder is not None, "a loaded model has a directory"
        has_text = config is None or tokenizer is not None or has_tokenizer(folder)
        self._start(built, load_tokenizer(folder) if has_text else None)

    @classmethod
    def from_nnx(
        cls,
        module: ServableModel,
        *,
        tokenizer: str | PathLike[str] | Tokenizer | None = None,
        eos_ids: Sequence[int] | None = None,
        fleet: FleetConfig | None = None,
        mesh: jax.sharding.Mesh | None = None,
        share: bool = False,
        progress: bool = False,
        **options: Any,
    ) -> Self:
        """Serves a module that is in memory, such as a decoder that was just trained.

        It is served as it is: subclasses of `Decoder`, changed attributes, adapters and
        modules of your own count. What has parts of your own has to say the same by
        `causal_attention` as over pages, which is tried on a prompt at the start. Over
        several devices parameters are cut by the names that a `Decoder` has for them;
        all others are whole on each.

        Args:
          module: any `ServableModel`; its parameters are cast and copied, so that it
            can be trained further, and dropout is off.
          tokenizer: a folder with a tokenizer, or one that is loaded; None for token
            ids in and out.
          eos_ids: tokens that end a text; by default the tokenizer's own, and those
            that `generation_config.json` and `config.json` in its folder name, as far
            as the decoder has them. How that folder's model wants to be sampled is not
            taken over: this is another model.
          fleet: how several instances work together.
          mesh: of the devices that serve. Those along its axis "tp", "tensor" or
            "model" are one instance, each index of other axes is one of its own.
          share: serves the module's own arrays without a copy, and those of later
            updates. They have to be of one type, which is the default of `dtype` then,
            and to lie as the first instance needs them: whole on its one device, or cut
            as a `Decoder` is over several. They are not put into the form in which a
            CPU is fastest, which takes a copy. Who trains the module further must not
            donate them to a jitted function while they are served: give others by
            `update_weights` first, or requests fail until then. A sleep gives nothing
            back that the trainer holds.
          progress: show bars while compiling.
          options: any field of `EngineConfig`, such as `max_rows=8`.

        Raises:
          TypeError: the module lacks something; the message says all of it.
          ValueError: its `config` says other sizes than it computes with, it says
            something else over pages, or its arrays cannot be shared.
        """
        check_servable(module)
        if mesh is not None:
            options = with_mesh(options, mesh)
        if share:
            options = {"dtype": shared_type(module), **options}
        named: tuple[int, ...] = ()
        if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
            named = read_eos_ids(Path(tokenizer))
            tokenizer = load_tokenizer(Path(tokenizer))
        if eos_ids is None:
            own = tokenizer.eos_id if tokenizer is not None else None
            named = (*named, *(() if own is None else (own,)))
            eos_ids, _ = split_ids(named, vocab_size=module.config.vocab_size)
        spec = spec_in_memory(
            module.config,
            eos_ids=tuple(eos_ids),
            bos_id=tokenizer.bos_id if tokenizer is not None else None,
        )
        if type(module) is not Decoder:
            spec = dataclasses.replace(spec, architecture=type(module).__name__)
        built = build_from_module(
            module,
            spec=spec,
            config=EngineConfig(**options),
            fleet=fleet,
            progress=progress,
            is_shared=share,
        )
        llm = cls.__new__(cls)
        llm._start(built, tokenizer)
        return llm

    def _start(self, built: BuiltEngine, tokenizer: Tokenizer | None) -> None:
        self._engine = built.thread
        self.tokenizer = tokenizer
        built.learn({built.thread.infos[0].model_name: tokenizer})
        self._front_end = FrontEnd(
            built.thread.send,
            models=[FrontModel(info=built.thread.infos[0], tokenizer=tokenizer)],
            max_open=MAX_OPEN,
        )
        name = built.models[0].name
        self._weights = WeightsUpdater(built.thread, model=name, plan=built.plans[name])
        self._serving = Serving(built.thread)
        self._pid = os.getpid()
        self._loop = LoopThread("mell-llm", owner="LLM")
        self._engine.start(self._front_end.sink(self._loop.loop))
        # Neither thread refers to this object, so that forgetting it ends both. It may
        # be forgotten on any thread, also one of theirs: nothing there may wait.
        self._end = End(self._engine, self._loop, front_end=self._front_end)
        end = threading.Thread(target=self._end)
        self._finalizer = weakref.finalize(self, end.start)
        self._finalizer.atexit = False
        atexit.register(self._end.at_exit)

    @property
    def info(self) -> EngineInfo:
        """Returns what is served: vocabulary, context, limits."""
        return self._engine.infos[0]

    @property
    def default_params(self) -> SamplingParams:
        """Returns the parameters of calls that bring none.

        They are those of the model's `generation_config.json` where it has any, unless
        `generation_config="none"` was among the options. `dataclasses.replace` changes
        some of them: `SamplingParams(max_tokens=64)` has none of the model's.
        """
        return self.info.default_params

    def load(self) -> EngineLoad:
        """Returns how busy the engine is, and its counters."""
        return self._engine.load()

    # -- answers -----------------------------------------------------------------

    def generate(
        self,
        prompts: Prompts,
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Answers prompts together and returns when all are done, in their order.

        Args:
          prompts: a text, token ids (a list or an array), or any iterable of these;
            an array of two dimensions is one prompt a row.
          params: for all prompts, or one for each; None takes `default_params`.

        Raises:
          InvalidRequestError: a prompt or parameter breaks a rule; nothing is returned
            and the other prompts are given up.
          RuntimeError: it is closed, or this process is a fork of the one that made it.

        An interrupt (Ctrl-C) ends all of its requests before it is raised.
        """
        self._check_usable()
        return self._loop.call(lambda: self.agenerate(prompts, params))

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None
    ) -> Iterator[Delta]:
        """Yields what is new as it comes; leaving the loop early ends the request."""
        self._check_usable()
        deltas = self._deltas(prompt, params)
        following = partial(_next_or_none, deltas)
        try:
            while (delta := self._loop.call(following)) is not None:
                yield delta
        finally:
            if self._is_open:
                self._loop.call(deltas.aclose)

    async def agenerate(
        self,
        prompts: Prompts,
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Does what `generate` does, for callers in an event loop of their own."""
        self._check_usable()
        many = as_prompts(prompts)
        given = self.default_params if params is None else params
        each = as_params(given, count=len(many))
        asks = [self._ask(prompt, own) for prompt, own in zip(many, each, strict=True)]
        return await self._loop.acall(lambda: collect_all(self._front_end, asks))

    async def astream(
        self, prompt: Prompt, params: SamplingParams | None = None
    ) -> AsyncIterator[Delta]:
        """Does what `stream` does, for callers in an event loop of their own."""
        self._check_usable()
        deltas = self._deltas(prompt, params)
        following = partial(_next_or_none, deltas)
        try:
            while (delta := await self._loop.acall(following)) is not None:
                yield delta
        finally:
            if self._is_open:
                await self._loop.acall(deltas.aclose)

    # -- scores ------------------------------------------------------------------

    def score(
        self,
        prompts: Iterable[TokenIds],
        completions: Iterable[TokenIds],
        *,
        temperature: float | None = None,
    ) -> list[npt.NDArray[np.float32]]:
        """Returns log probabilities of given tokens, an array for each completion.

        Each token's is that after its prompt and what is before it in its completion.
        Nothing of an answer is made but one token, which is thrown away.

        Args:
          prompts: token ids, one prompt for each completion.
          completions: token ids; one may be empty.
          temperature: of the distribution they are taken from, without filters and
            penalties; None and 1 take the model's own.

        Raises:
          InvalidRequestError: a rule is broken, such as by a sequence that exceeds the
            context; the message names the pair.
          RequestFailedError: it was ended by "abort" of a pause, a sleep or an update.
          RuntimeError: as by `generate`.
        """
        self._check_usable()
        return self._loop.call(
            lambda: self.ascore(prompts, completions, temperature=temperature)
        )

    async def ascore(
        self,
        prompts: Iterable[TokenIds],
        completions: Iterable[TokenIds],
        *,
        temperature: float | None = None,
    ) -> list[npt.NDArray[np.float32]]:
        """Does what `score` does, for callers in an event loop of their own."""
        self._check_usable()
        params = params_of(temperature)
        prompts, completions = list(prompts), list(completions)
        asks = [
            self._ask(given.prompt, params, following=given.following)
            for given in given_in(prompts, completions, info=self.info)
        ]
        outputs = await self._loop.acall(lambda: collect_all(self._front_end, asks))
        return scores_of(completions, [one.prompt_logprobs for one in outputs])

    # -- weights -----------------------------------------------------------------

    def update_weights(
        self,
        source: Any,
        *,
        version: str | None = None,
        open_requests: OpenRequests = "keep",
        mapping: Mapped | None = None,
        streamed: bool = False,
    ) -> WeightsUpdated:
        """Serves other weights of the same model from the next step on.

        All names, shapes and types are checked first, and nothing is changed if one
        does not fit. Values are not: weights that are NaN end requests with an error.
        Arrays on devices go there from device to device, cast and cut as it takes; the
        first update compiles small programs for that, later ones of such arrays
        nothing. They are copied (but see `share` of `from_nnx`), so that the source can
        be trained further, or donated. Two updates at once take turns.

        Args:
          source: an `nnx.State` or `nnx.Module` on any devices of this process; a
            dictionary of arrays of jax or NumPy, nested, or flat with names as
            "layers.0.mlp.up_proj.kernel" or tuples; or the path of a checkpoint, as
            `LLM` takes it, whose config.json has to say what is served and may name no
            other ends of a text. Random keys and counts are kept as they are served, as
            are `nnx.Variable`s that are no `nnx.Param` and not there. A state of
            nothing but `nnx.LoRAParam`s leaves all others as they are.
          version: what these weights are called in answers; by default "1" for the
            first update, and so on, one more than the last number.
          open_requests: they go on with the keys and values that they have ("keep"),
            are computed again from their tokens ("restart"), or end ("abort").
          mapping: what parameters are called in the source. The name of a layout: "hf"
            for Hugging Face's tensors, "maxtext", "tunix" or "gemma" for trees of these
            programs. Or by the name of each served parameter (a dictionary, or a
            function of it): the name there, a `checkpoints.sources.Source`, or a
            function of the dictionary of all arrays, which is compiled and should be
            the same object in each update. Those that it leaves out are called alike.
          streamed: makes each layer when the engine asks for it and gives the old one
            back, so that at most one is there twice; streams wait meanwhile. From the
            second on, arrays on the same devices are written over the old ones. What
            cannot be read half way, such as a file that is written anew meanwhile,
            costs the device; where it is the only one, the engine sleeps until whole
            weights are given, and it is woken.
            Otherwise all are made first, and there are twice the weights for a moment.

        Raises:
          ValueError: the source does not fit; the message says what, and the way out.
          CheckpointError: a file cannot be used (a ValueError).
          OSError: a file cannot be read.
          TypeError: it is no source of weights.
          RuntimeError: it is closed, or was closed meanwhile.
        """
        self._check_usable()
        return self._weights.update(
            source,
            version=version,
            open_requests=open_requests,
            mapping=mapping,
            streamed=streamed,
        )

    @property
    def weights_version(self) -> str:
        """Returns the version of the weights of the next step; "0" at first."""
        self._check_usable()
        return self._weights.version

    def reset_prefix_cache(self) -> int:
        """Forgets all cached pages, in use or not; returns how many it were.

        Updates of weights need no reset: pages of older weights are never found.
        """
        self._check_usable()
        return self._serving.reset_prefix_cache()

    # -- pauses and sleeps -------------------------------------------------------

    def pause(self, mode: PauseMode = "keep") -> None:
        """Makes no more steps, and returns when all is still.

        New requests, of any thread, wait in line until `resume`.

        Args:
          mode: open requests stand still with the keys and values that they have
            ("keep"), are finished first ("wait"), or end with "abort" ("abort").

        Raises:
          RuntimeError: open requests are to be finished in a sleep.
        """
        self._check_usable()
        self._serving.pause(mode)

    def resume(self) -> None:
        """Goes on after `pause`."""
        self._check_usable()
        self._serving.resume()

    @property
    def is_paused(self) -> bool:
        """Returns whether it is paused, or about to be."""
        self._check_usable()
        return self._serving.state.is_paused

    def sleep(
        self,
        level: SleepLevel = 1,
        *,
        keeps: Keeps = "host",
        mode: PauseMode = "keep",
    ) -> int:
        """Gives memory of the devices back until `wake`; returns how many bytes.

        New requests wait in line. Nothing has to be compiled again.

        Args:
          level: 1 for the pools of keys and values, 2 for the weights too.
          keeps: at level 2, weights wait in pinned memory of the host ("host"), or are
            dropped ("drop"): then `update_weights` comes before `wake`.
          mode: open requests wait and are computed again afterwards, as what was
            computed of them is given back with the pools ("keep"), are finished first
            ("wait"), or end with "abort" ("abort").

        Raises:
          RuntimeError: the devices have no pinned host memory.
        """
        self._check_usable()
        return self._serving.sleep(level, keeps=keeps, mode=mode)

    def wake(self) -> None:
        """Serves again after `sleep`, unless it was paused too.

        Raises:
          RuntimeError: weights were dropped and not given anew.
        """
        self._check_usable()
        self._serving.wake()

    @property
    def is_sleeping(self) -> bool:
        """Returns whether memory was given back by `sleep`."""
        self._check_usable()
        return self._serving.state.sleep_level > 0

    # -- ending ------------------------------------------------------------------

    def close(self) -> None:
        """Stops the engine; open requests fail. Closing twice does nothing.

        What is only forgotten (`del llm`) ends as well, a moment later.
        """
        if self._pid != os.getpid() or self._finalizer.detach() is None:
            return
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- parts --------------------------------------------------------------------

    def _check_usable(self) -> None:
        if self._pid != os.getpid():
            raise RuntimeError(
                f"this LLM was made in process {self._pid}, and its threads did not "
                f"come along to its fork {os.getpid()}: make one here, or start "
                "processes by spawn"
            )
        if not self._is_open:
            raise RuntimeError("this LLM is closed: make a new one")

    @property
    def _is_open(self) -> bool:
        return self._finalizer.alive and self._loop.is_alive

    def _deltas(
        self, prompt: Prompt, params: SamplingParams | None
    ) -> AsyncGenerator[Delta]:
        return generate(self._front_end, self._ask(prompt, params))

    def _ask(
        self,
        prompt: Prompt,
        params: SamplingParams | None,
        *,
        following: int | None = None,
    ) -> Ask:
        return Ask(
            caller=Caller.of_library(),
            prompt=as_prompt(prompt),
            params=params or self.default_params,
            following=following,
        )


async def _next_or_none(deltas: AsyncGenerator[Delta]) -> Delta | None:
    return await anext(deltas, None)
