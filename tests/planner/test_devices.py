"""Devices that can be bought, and their prices."""

import pytest

from mell_jax.planner.devices import choose_devices, read_devices, read_prices

DEVICES = read_devices()


def test_the_table_has_the_makers_figures() -> None:
    h100, v6e = DEVICES["H100"], DEVICES["v6e"]
    assert (h100.memory_bytes, h100.bytes_per_s) == (80e9, 3.35e12)
    assert (h100.flops_per_s, h100.link_bytes_per_s) == (989e12, 450e9)
    assert (v6e.memory_bytes, v6e.bytes_per_s, v6e.flops_per_s) == (
        *(32e9, 1.638e12),
        918e12,
    )


@pytest.mark.parametrize("kind", DEVICES)
def test_every_device_has_whole_figures(kind: str) -> None:
    device = DEVICES[kind]
    assert device.kind == kind
    assert 10e9 < device.memory_bytes < 200e9
    assert 0.2e12 < device.bytes_per_s < 10e12
    assert 100e12 < device.flops_per_s < 3000e12
    assert 10e9 < device.link_bytes_per_s < 1e12
    assert 0.1 < device.price_per_hour < 20


def test_prices_are_the_askers_where_he_gives_them() -> None:
    prices = read_prices(["H100:2.5", "L4:0.25"])
    chosen = choose_devices(["L4", "H100", "v5e"], devices=DEVICES, prices=prices)
    assert [(each.kind, each.price_per_hour) for each in chosen] == [
        ("L4", 0.25),
        ("H100", 2.5),
        ("v5e", 1.2),
    ]


@pytest.mark.parametrize("text", ["H100", "H100:", "H100:free", "H100:0", "H100:nan"])
def test_a_price_is_a_number_above_zero(text: str) -> None:
    with pytest.raises(ValueError, match="is not KIND:PRICE with a price above 0"):
        read_prices([text])


def test_kinds_and_prices_fit_the_table() -> None:
    with pytest.raises(ValueError, match="no device is called 'H101': there are H200"):
        choose_devices(["H101"], devices=DEVICES, prices={})
    with pytest.raises(ValueError, match="no device is called 'B1'"):
        choose_devices(["H100"], devices=DEVICES, prices={"B1": 1.0})
    with pytest.raises(ValueError, match="--prices has L4, which is not asked for"):
        choose_devices(["H100"], devices=DEVICES, prices={"L4": 1.0})
    with pytest.raises(ValueError, match="--devices names no kind"):
        choose_devices([], devices=DEVICES, prices={})
