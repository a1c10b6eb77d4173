"""Defines the flags of mell-plan, grouped as --help shows them."""

from typing import Any

from absl import flags

from mell_jax.planner.question import Payment
from mell_jax.planner.roofline import Assumptions

ASSUMED = Assumptions()
DEVICES = ("H100", "A100-80", "L40S")
POLICIES = ("consolidate", "spread")
BASELINES = ("pinned_spread", "pinned_best_fit")


def make_flags() -> flags.FlagValues:
    """Returns the flags of mell-plan, in a registry of their own."""
    values = flags.FlagValues()
    _define_load(values)
    _define_devices(values)
    _define_search(values)
    _define_output(values)
    return values


def _define_load(values: flags.FlagValues) -> None:
    group: dict[str, Any] = {"flag_values": values, "module_name": "the load"}
    flags.DEFINE_string(
        "trace",
        None,
        "This CSV (.gz) has the requests: arrival_s,input_tokens,output_tokens.",
        **group,
    )
    flags.DEFINE_float(
        "slice_s", None, "Only the first seconds of the trace are used.", **group
    )
    flags.DEFINE_string(
        "model",
        None,
        "This model directory or GGUF file is to be served, or a shape by name: "
        "llama-8b, llama-70b, qwen-7b, qwen-14b, qwen-32b.",
        **group,
    )
    flags.DEFINE_float(
        "slo_ttft_ms", None, "The first token may take so long.", **group
    )
    flags.DEFINE_float(
        "slo_tpot_ms", None, "Each further token may take so long, as a mean.", **group
    )
    flags.DEFINE_float(
        "attainment", 0.99, "This share of the requests has both.", **group
    )


def _define_devices(values: flags.FlagValues) -> None:
    group: dict[str, Any] = {"flag_values": values, "module_name": "the devices"}
    flags.DEFINE_list(
        "devices",
        list(DEVICES),
        "These kinds can be bought; see devices.json.",
        **group,
    )
    flags.DEFINE_list(
        "prices",
        [],
        "KIND:PRICE of a device and hour, as in H100:2.5,L4:0.6. Those built in are "
        "examples of the end of 2025; they change.",
        **group,
    )
    flags.DEFINE_enum(
        "pay",
        Payment.OWNED.value,
        [payment.value for payment in Payment],
        "Devices are paid for all the time (owned), or while they are not parked.",
        **group,
    )
    flags.DEFINE_multi_string(
        "profile",
        [],
        "KIND:FILE, a profile as mell-bench measures it, instead of the data sheet's.",
        **group,
    )
    flags.DEFINE_float(
        "bandwidth_share",
        ASSUMED.bandwidth_share,
        "Steps get this part of a memory's bandwidth. The default rests on published "
        "decodes of 8B models by other engines, at 0.71 and 0.77.",
        **group,
    )
    flags.DEFINE_float(
        "compute_share",
        ASSUMED.compute_share,
        "Prefill gets this part of the bfloat16 speed; the default is a usual one.",
        **group,
    )
    flags.DEFINE_float(
        "kv_memory_fraction",
        ASSUMED.kv_memory_fraction,
        "KV pages take this part of what the weights leave free, as in mell-serve.",
        **group,
    )
    flags.DEFINE_integer(
        "max_rows", ASSUMED.max_rows, "An instance runs so many requests.", **group
    )
    flags.DEFINE_integer(
        "token_budget",
        None,
        "A step computes at most this many tokens; by default as many as make it last "
        "twice --slo_tpot_ms, 2,048 at most.",
        **group,
    )
    flags.DEFINE_float(
        "load_s",
        ASSUMED.load_s,
        "A parked instance takes so long to serve again; 0 where it keeps its weights.",
        **group,
    )


def _define_search(values: flags.FlagValues) -> None:
    group: dict[str, Any] = {"flag_values": values, "module_name": "the search"}
    flags.DEFINE_list(
        "policies", list(POLICIES), "These policies move requests.", **group
    )
    flags.DEFINE_list(
        "baselines", list(BASELINES), "These do not; the cheapest one counts.", **group
    )
    flags.DEFINE_float(
        "headroom", 0.0, "Baselines leave this fraction of an instance free.", **group
    )
    flags.DEFINE_integer(
        "slice_requests",
        1500,
        "The busiest stretch, of so many requests, is searched first.",
        lower_bound=1,
        **group,
    )
    flags.DEFINE_bool(
        "whole", True, "The cheapest fleets are tried on the whole trace.", **group
    )
    flags.DEFINE_integer(
        "mix_tries",
        4,
        "So many mixes of kinds are tried for each policy.",
        lower_bound=0,
        **group,
    )
    flags.DEFINE_integer("jobs", None, "So many simulations run at a time.", **group)


def _define_output(values: flags.FlagValues) -> None:
    group: dict[str, Any] = {"flag_values": values, "module_name": "the output"}
    flags.DEFINE_string(
        "output_json", None, "Every figure is written to this file.", **group
    )
    flags.DEFINE_string(
        "plot", None, "A picture of the answer is drawn to this file.", **group
    )
    flags.DEFINE_bool("progress", True, "A bar is shown while it searches.", **group)
