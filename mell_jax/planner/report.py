"""Tells an answer as a table of at most 100 columns, and as values for JSON."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mell_jax.planner.question import Answer, Offer, Payment, Question, Side, Unmet
from mell_jax.planner.serve_command import serve_commands
from mell_jax.planner.shape import ModelShape
from mell_jax.scheduler.simulator.profile import Profile
from mell_jax.scheduler.simulator.report import count

HEADINGS = (
    *("devices", "policy", "$/h", "in use", "$/h used"),
    *("TTFT ms", "TPOT ms", "within", "moves", "preempt"),
)
PAYMENTS = {
    Payment.OWNED: "all devices are paid for all the time",
    Payment.USED: "devices are paid for while they are not parked",
}
MIXED = """\
One mell-serve has devices of one kind: a router divides the requests between these, and
none moves from one to the other, as the simulated ones may."""
LEGEND = """\
$/h: all devices, all the time; in use: mean of those not parked, and what they cost
TTFT, TPOT: 99th percentiles; within: requests with both in bounds
Devices are as in their data sheets or profiles; prices are examples: see --prices"""


def tell(answer: Answer, *, model: str) -> str:
    """Returns an answer as text.

    Args:
      model: the directory to serve.
    """
    begin_s, end_s = answer.busiest_s
    span = f"busiest {(end_s - begin_s) / 60:.1f} min, from {begin_s:,.0f} s on"
    parts = [_asked(answer.question), _table(sorted_offers(answer), title=span)]
    if answer.unmet:
        parts.append("\n".join(["no offers:", *map(_unmet, answer.unmet)]))
    whole = [offer for offer in answer.best.values() if offer.is_whole]
    if whole and not all(offer.is_whole for offer in answer.offers):
        parts.append(_table(whole, title="whole trace"))
    parts.append(LEGEND)
    parts.append(_advice(answer, model=model))
    return "\n\n".join(parts)


def sorted_offers(answer: Answer) -> list[Offer]:
    """Returns the cheapest offer of each set of kinds and side, cheapest first."""
    question = answer.question
    cheapest: dict[tuple[tuple[str, ...], Side], Offer] = {}
    for offer in sorted(answer.offers, key=question.cost_of):
        kinds = tuple(option.name for option in offer.instances)
        cheapest.setdefault((kinds, question.side_of(offer.trial.policy)), offer)
    return list(cheapest.values())


def saved(answer: Answer) -> dict[str, float]:
    """Returns what migration saves; empty where one side has no offer."""
    if len(answer.best) < len(Side):
        return {}
    moving, pinned = answer.best[Side.MOVING], answer.best[Side.PINNED]
    figures = {
        "devices": float(pinned.devices - moving.devices),
        "devices_in_use": pinned.devices_in_use - moving.devices_in_use,
    }
    for payment in Payment:
        name = f"price_per_hour_{payment.value}"
        without = pinned.price_per_hour(payment)
        figures[name] = without - moving.price_per_hour(payment)
        figures[f"{name}_share"] = figures[name] / without if without else 0.0
    return figures


def as_values(answer: Answer, *, model: str, command: str) -> dict[str, Any]:
    """Returns all figures of an answer as JSON has them."""
    question = answer.question
    return {
        "command": command,
        "workload": question.workload.name,
        "requests": len(question.workload),
        "model": asdict(question.shape),
        "slo": asdict(question.slo),
        "payment": question.payment.value,
        "options": [
            {
                "kind": option.kind,
                "width": option.width,
                "price_per_hour": option.price_per_hour,
                "is_measured": option.is_measured,
                "profile": _profile(option.profile),
            }
            for option in question.options
        ],
        "busiest_s": list(answer.busiest_s),
        "offers": [_values(offer, has_course=False) for offer in answer.offers],
        "unmet": [asdict(unmet) for unmet in answer.unmet],
        "best": {
            side.name.lower(): _values(offer, has_course=True)
            | {"serve": serve_commands(offer, model=model)}
            for side, offer in answer.best.items()
        },
        "saved": saved(answer),
        "trials": answer.trials,
    }


def _unmet(unmet: Unmet) -> str:
    policy = "" if unmet.policy is None else f", {unmet.policy}"
    return f"{unmet.kind}{policy}: {unmet.reason}"


def _profile(profile: Profile) -> dict[str, Any]:
    """A profile as its file has it: null is a link without a bound."""
    values = asdict(profile)
    if math.isinf(profile.link_bytes_per_s):
        values["link_bytes_per_s"] = None
    return values


def _asked(question: Question) -> str:
    workload, slo = question.workload, question.slo
    minutes = (float(workload.arrival_s[-1]) - float(workload.arrival_s[0])) / 60
    return (
        f"{workload.name}: {len(workload):,} requests in {minutes:.0f} min, "
        f"{_model(question.shape)}\n"
        f"TTFT <= {1e3 * slo.ttft_s:g} ms and TPOT <= {1e3 * slo.tpot_s:g} ms for "
        f"{100 * slo.attainment:.4g}% of them; {PAYMENTS[question.payment]}"
    )


def _model(shape: ModelShape) -> str:
    kib = shape.kv_bytes_per_token / 1024
    return f"{shape.name} ({shape.weight_bytes / 1e9:.1f} GB, {kib:.0f} KiB a token)"


def _table(offers: Sequence[Offer], *, title: str) -> str:
    if not offers:
        return f"{title}: no fleet meets the bounds"
    rows = [list(HEADINGS), *(_row(offer) for offer in offers)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEADINGS))]
    lines = [
        "  ".join(
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([f"{title}:", *lines])


def _row(offer: Offer) -> list[str]:
    trial = offer.trial
    return [
        offer.name,
        trial.policy,
        f"{offer.price_per_hour(Payment.OWNED):.2f}",
        f"{offer.devices_in_use:.2f}",
        f"{offer.price_per_hour(Payment.USED):.2f}",
        f"{1e3 * trial.ttft_p99_s:,.0f}",
        f"{1e3 * trial.tpot_p99_s:,.0f}",
        f"{trial.within_share:.2%}",
        count(trial.moves),
        count(trial.preemptions),
    ]


def cheapest(answer: Answer) -> Offer | None:
    """Returns the cheapest offer of both sides; of equal ones that with migration."""
    offers = [answer.best[side] for side in Side if side in answer.best]
    return min(offers, key=answer.question.cost_of, default=None)


def _advice(answer: Answer, *, model: str) -> str:
    best = cheapest(answer)
    if best is None:
        return "No fleet meets the bounds: allow more, or add other devices."
    lines = [_comparison(answer)] if saved(answer) else []
    lines += ["", f"serve it on {best.name}:", *serve_commands(best, model=model)]
    if len(best.instances) > 1:
        lines.append(MIXED)
    return "\n".join(lines).strip()


def _comparison(answer: Answer) -> str:
    """What migration saves, in devices and in money, as it is paid for."""
    figures, payment = saved(answer), answer.question.payment
    lines = []
    for side in Side:
        offer = answer.best[side]
        lines.append(
            f"{side.value}: {offer.name}, of which {offer.devices_in_use:.2f} are in "
            f"use: {offer.price_per_hour(payment):.2f} $/h"
        )
    money = figures[f"price_per_hour_{payment.value}"]
    share = figures[f"price_per_hour_{payment.value}_share"]
    if abs(money) < 0.005:
        lines.append("migration saves no money here")
    else:
        word = "saves" if money > 0 else "would cost"
        lines.append(f"migration {word} {abs(money):.2f} $/h ({abs(share):.1%})")
    return "\n".join(lines)


def _values(offer: Offer, *, has_course: bool) -> dict[str, Any]:
    """An offer's figures; its course is how many instances were in use when."""
    trial = asdict(offer.trial)
    if not has_course:
        del trial["times_s"], trial["instances"]
    return {
        "devices": {
            option.name: option.width * count
            for option, count in offer.instances.items()
        },
        "price_per_hour_owned": offer.price_per_hour(Payment.OWNED),
        "price_per_hour_used": offer.price_per_hour(Payment.USED),
        "devices_in_use": offer.devices_in_use,
        "is_whole": offer.is_whole,
    } | trial
