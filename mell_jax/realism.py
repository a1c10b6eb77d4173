"""Flags of `mell-simulate` make a run more like a real fleet; all are off by default.

    --profile=h100.json --slo_ttft_ms=500 --slo_tpot_ms=40      steps, latencies
    --load_s=code:30,chat:60 --warm=2 --warm_s=3                loading
    --devices_per_host=8 --host_gbps=400 --switch_gbps=1600     links that are shared
    --blocks=mooncake_conversation_blocks.jsonl.gz              prompts that begin alike

They become settings here; what they do stands in `scheduler/simulator/`.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from absl import flags

from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.simulator.blocks import add_blocks, read_blocks
from mell_jax.scheduler.simulator.profile import StepSpeed, read_profile
from mell_jax.scheduler.simulator.settings import Settings, settings_of
from mell_jax.scheduler.simulator.workload import Workload

_PROFILE = flags.DEFINE_string(
    "profile",
    None,
    "Instances make steps as this file says; flags beside it win over what it says.",
)
_SLO_TTFT_MS = flags.DEFINE_float(
    "slo_ttft_ms", None, "A first token should come within this; it is reported on."
)
_SLO_TPOT_MS = flags.DEFINE_float(
    "slo_tpot_ms",
    None,
    "A token should follow another within this, on average; it is reported on and, "
    "unless --tpot_slo_ms says otherwise, binds placement.",
)
_LOAD_S = flags.DEFINE_list(
    "load_s", [], "Each name:seconds is a model that does not load in --activation_s."
)
_WARM = flags.DEFINE_integer(
    "warm", 0, "So many idle devices are kept warm, to load in --warm_s.", lower_bound=0
)
_WARM_S = flags.DEFINE_float("warm_s", 0.0, "A device that was kept warm loads in it.")
_DEVICES_PER_HOST = flags.DEFINE_integer(
    "devices_per_host", 8, "So many devices, by number, are of one host."
)
_HOST_GBPS = flags.DEFINE_float(
    "host_gbps",
    0.0,
    "The devices of a host share a link of this each way to other hosts; 0: they do "
    "not.",
)
_SWITCH_GBPS = flags.DEFINE_float(
    "switch_gbps", 0.0, "All moves between hosts share this; 0: they do not."
)
_BLOCKS = flags.DEFINE_string(
    "blocks",
    None,
    "Instances keep the blocks of prompts that this .jsonl (.gz) names for those that "
    "begin alike; without --trace it is the trace, too.",
)


def blocks_from_flags(trace: Workload | None) -> Workload | None:
    """Returns a trace with the blocks of --blocks, if either is given.

    Raises:
      ValueError: the file is no such trace, or one of other requests.
      OSError: it cannot be read.
    """
    if _BLOCKS.value is None:
        return trace
    blocks = read_blocks(Path(_BLOCKS.value))
    return blocks if trace is None else add_blocks(trace, of=blocks)


def settings_of_profile() -> Settings | None:
    """Returns the fleet of the devices of --profile, if it is given.

    Raises:
      ValueError: the file is no profile.
      OSError: it cannot be read.
    """
    path = _PROFILE.value
    return None if path is None else settings_of(read_profile(Path(path)))


def pick(flag: flags.FlagHolder[Any], name: str, *, profiled: Settings | None) -> Any:
    """Returns the value of a flag, or what a profile makes of the setting `name`.

    A flag that is given wins; without a profile its default counts.
    """
    is_given = flags.FLAGS[flag.name].present
    return flag.value if is_given or profiled is None else getattr(profiled, name)


def make_real(settings: Settings, *, profiled: Settings | None) -> Settings:
    """Returns `settings` with what the flags here ask for.

    Args:
      profiled: what a profile says by itself, if there is one.

    Raises:
      ValueError: a flag is out of range, or names a model that there is not.
    """
    slo_tpot_s = _limit(_SLO_TPOT_MS.value, 1e-3)
    bound_s = settings.tpot_slo_s
    return replace(
        settings,
        steps=_steps(settings, profiled),
        slo_ttft_s=_limit(_SLO_TTFT_MS.value, 1e-3),
        slo_tpot_s=slo_tpot_s,
        tpot_slo_s=bound_s if bound_s < math.inf else slo_tpot_s,
        load_s=_loading(_LOAD_S.value),
        warm_devices=_WARM.value,
        warm_s=_WARM_S.value,
        devices_per_host=_DEVICES_PER_HOST.value,
        host_gbps=_HOST_GBPS.value or math.inf,
        switch_gbps=_SWITCH_GBPS.value or math.inf,
    )


def _limit(value: float | None, unit: float) -> float:
    return math.inf if value is None else value * unit


def _steps(settings: Settings, profiled: Settings | None) -> StepSpeed | None:
    """Returns the steps of a profile; a rate of prefill that is given wins."""
    if profiled is None or profiled.steps is None:
        return None
    if settings.prefill_tokens_per_s == profiled.prefill_tokens_per_s:
        return profiled.steps
    token_s = 1 / settings.prefill_tokens_per_s
    return replace(profiled.steps, prefill_token_s=token_s, prefill_pair_s=0.0)


def _loading(entries: Sequence[str]) -> dict[ModelId, float]:
    loading: dict[ModelId, float] = {}
    for entry in entries:
        name, _, seconds = entry.rpartition(":")
        try:
            loading[ModelId(name)] = float(seconds)
        except ValueError:
            raise ValueError(
                f"--load_s: {entry!r} is not name:seconds, as in code:30,chat:60"
            ) from None
    return loading
