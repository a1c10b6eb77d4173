"""Knows devices that can be bought: memory, speeds, and what an hour costs.

Speeds in `devices.json` are the makers'. Prices there are examples, which is why they
are a flag: `--prices=H100:2.5,L4:0.6`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

TABLE = Path(__file__).with_name("devices.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device of a kind, as its maker describes it."""

    kind: str
    memory_bytes: float
    bytes_per_s: float  # of its memory
    flops_per_s: float  # dense bfloat16
    link_bytes_per_s: float  # each way, to a neighbour
    price_per_hour: float


def read_devices(path: Path = TABLE) -> dict[str, Device]:
    """Returns the devices of a table by their kinds."""
    table = json.loads(path.read_text())["devices"]
    return {
        kind: Device(
            kind=kind,
            memory_bytes=1e9 * entry["memory_gb"],
            bytes_per_s=1e9 * entry["bandwidth_gb_s"],
            flops_per_s=1e12 * entry["bf16_tflops"],
            link_bytes_per_s=1e9 * entry["link_gb_s"],
            price_per_hour=entry["price_per_hour"],
        )
        for kind, entry in table.items()
    }


def choose_devices(
    kinds: Sequence[str], *, devices: Mapping[str, Device], prices: Mapping[str, float]
) -> list[Device]:
    """Returns devices of `kinds`, in this order, at the prices that are given.

    Raises:
      ValueError: no kind is asked for, one is unknown, or a price is for none of them.
    """
    if not kinds:
        raise ValueError(f"--devices names no kind: there are {_listed(devices)}")
    for kind in (*kinds, *prices):
        if kind not in devices:
            raise ValueError(
                f"no device is called {kind!r}: there are {_listed(devices)}"
            )
    for kind in prices:
        if kind not in kinds:
            raise ValueError(
                f"--prices has {kind}, which is not asked for: add it to --devices, "
                "or leave its price out"
            )
    return [
        replace(
            devices[kind],
            price_per_hour=prices.get(kind, devices[kind].price_per_hour),
        )
        for kind in dict.fromkeys(kinds)
    ]


def read_prices(entries: Sequence[str]) -> dict[str, float]:
    """Returns prices per hour by kind, out of texts such as "H100:2.5".

    Raises:
      ValueError: a text says something else.
    """
    prices = {}
    for entry in entries:
        kind, _, text = entry.partition(":")
        try:
            price = float(text)
        except ValueError:
            price = math.nan
        if not (0 < price < math.inf):
            raise ValueError(
                f"--prices: {entry!r} is not KIND:PRICE with a price above 0, as in "
                "H100:2.5,L4:0.6"
            )
        prices[kind] = price
    return prices


def _listed(devices: Mapping[str, Device]) -> str:
    return ", ".join(devices)
