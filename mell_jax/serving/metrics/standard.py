"""Every engine has these metrics, by the names that dashboards for vLLM know.

What an instance or a front end knows per model has a sample per model. What the engine
counts for all models together bears the model's name if there is one model, and
otherwise `all`.
"""

from collections.abc import Iterator, Mapping

from mell_jax.engine.fleet_view import FleetView, ServingView, SleepState
from mell_jax.engine.frames import EngineLoad
from mell_jax.frontend.meter import ModelFigures
from mell_jax.serving.metrics.families import (
    Labels,
    Metric,
    counter,
    gauge,
    histogram,
)

REASONS = ("stop", "length", "abort", "error")
ALL = "all"
SLEEP_STATES = {
    SleepState.AWAKE: "awake",
    SleepState.POOLS: "weights_offloaded",
    SleepState.DROPPED: "discard_all",
}


def standard(
    prefix: str, *, load: EngineLoad, measured: Mapping[str, ModelFigures]
) -> Iterator[Metric]:
    """Yields all of them, with `prefix` before the colon."""
    yield from _load(prefix, load, models=list(measured))
    yield from _counted(prefix, measured)
    yield from _timed(prefix, measured)


def _of(model: str) -> Labels:
    return {"model_name": model}


def _load(prefix: str, load: EngineLoad, *, models: list[str]) -> Iterator[Metric]:
    whole = models[0] if len(models) == 1 else ALL
    busy = _busy(load, models=models, whole=whole)
    yield gauge(
        f"{prefix}:num_requests_running",
        "Sequences that have a row on a device.",
        [(_of(model), running) for model, (running, _, _) in busy.items()],
    )
    yield gauge(
        f"{prefix}:num_requests_waiting",
        "Sequences that wait for a row or a device.",
        [(_of(model), waiting) for model, (_, waiting, _) in busy.items()],
    )
    yield gauge(
        f"{prefix}:kv_cache_usage_perc",
        "Share of the pages of devices in use that requests hold, 0 to 1.",
        [(_of(model), usage) for model, (_, _, usage) in busy.items()],
    )
    if load.fleet is not None and load.fleet.serving is not None:
        yield _sleep(prefix, load.fleet.serving, whole=whole)
    for name, text, value in (
        ("num_preemptions", "Sequences that gave up their pages.", load.preemptions),
        ("prefix_cache_queries", "Prompt tokens looked up.", load.prefix_query_tokens),
        ("prefix_cache_hits", "Prompt tokens found cached.", load.prefix_hit_tokens),
    ):
        yield counter(f"{prefix}:{name}", text, [(_of(whole), value)])


def _sleep(prefix: str, serving: ServingView, *, whole: str) -> Metric:
    return gauge(
        f"{prefix}:engine_sleep_state",
        "1 for what the engine does: it is awake, sleeps and has its weights, here or "
        "in host memory, or sleeps without them.",
        [
            ({**_of(whole), "sleep_state": name}, serving.sleep is state)
            for state, name in SLEEP_STATES.items()
        ],
    )


def _busy(
    load: EngineLoad, *, models: list[str], whole: str
) -> dict[str, tuple[int, int, float]]:
    """Running, waiting and share of pages held, by model."""
    if load.fleet is None:
        pages = load.used_pages + load.cached_pages + load.free_pages
        usage = load.used_pages / pages if pages else 0.0
        return {whole: (load.running, load.waiting, usage)}
    return {model: _busy_in(load.fleet, model) for model in models}


def _busy_in(fleet: FleetView, model: str) -> tuple[int, int, float]:
    own = [instance for instance in fleet.instances if instance.model == model]
    capacity = sum(instance.capacity_pages for instance in own)
    held = capacity - sum(instance.free_pages for instance in own)
    homeless = sum(each.waiting for each in fleet.models if each.name == model)
    return (
        sum(instance.running for instance in own),
        sum(instance.waiting for instance in own) + homeless,
        held / capacity if capacity else 0.0,
    )


def _counted(prefix: str, measured: Mapping[str, ModelFigures]) -> Iterator[Metric]:
    yield counter(
        f"{prefix}:prompt_tokens",
        "Tokens of prompts that were accepted.",
        [(_of(model), seen.prompt_tokens) for model, seen in measured.items()],
    )
    yield counter(
        f"{prefix}:generation_tokens",
        "Tokens that were generated and passed on.",
        [(_of(model), seen.generation_tokens) for model, seen in measured.items()],
    )
    yield counter(
        f"{prefix}:request_success",
        "Samples that are over, by reason.",
        [
            ({**_of(model), "finished_reason": reason}, seen.finished.get(reason, 0))
            for model, seen in measured.items()
            for reason in REASONS
        ],
    )


def _timed(prefix: str, measured: Mapping[str, ModelFigures]) -> Iterator[Metric]:
    for name, text, field in (
        ("time_to_first_token_seconds", "Request to first token.", "first_token_s"),
        ("inter_token_latency_seconds", "Token to token.", "inter_token_s"),
        ("e2e_request_latency_seconds", "Request to its end.", "request_s"),
        ("request_queue_time_seconds", "Request to its first step.", "queue_s"),
        ("request_prefill_time_seconds", "First step to first token.", "prefill_s"),
        ("request_decode_time_seconds", "First token to last.", "decode_s"),
        ("request_prompt_tokens", "Tokens of a prompt.", "request_prompt_tokens"),
        (
            "request_generation_tokens",
            "Tokens that a sample got.",
            "request_generation_tokens",
        ),
        (
            "request_max_num_generation_tokens",
            "Tokens that a sample was allowed.",
            "request_max_tokens",
        ),
    ):
        yield histogram(
            f"{prefix}:{name}",
            text,
            [(_of(model), getattr(seen, field)) for model, seen in measured.items()],
        )
