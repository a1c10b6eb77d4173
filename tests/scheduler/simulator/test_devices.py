"""A table of devices is read, or refused with the line and what it should be."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from mell_jax.scheduler.ids import DeviceGroupId, KindId
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.kind import ONLY_KIND
from mell_jax.scheduler.placement.model import StepTime
from mell_jax.scheduler.simulator.devices import Devices, read_devices
from mell_jax.scheduler.simulator.results.compare import check_kinds
from mell_jax.scheduler.simulator.settings import Settings, with_devices

HEAD = "kind,count,capacity_tokens,speed,price_per_hour"
BASE = Settings(capacity_tokens=320)
L4 = Devices(kind=KindId("L4"), count=2, capacity_tokens=320)
A100 = Devices(
    kind=KindId("A100"), count=1, capacity_tokens=800, speed=2.0, price_per_hour=3.0
)


def read(folder: Path, *lines: str) -> tuple[Devices, ...]:
    path = folder / "devices.csv"
    path.write_text("\n".join(lines) + "\n")
    return read_devices(path)


def test_a_row_is_a_kind(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        HEAD + ",spot_losses_per_hour",
        "A100,4,160000,1.0,3.2,",
        "A100-spot, 8 ,160000,1,1.1,0.5",
    )
    on_demand, spot = table
    assert on_demand == Devices(
        kind=KindId("A100"), count=4, capacity_tokens=160_000, price_per_hour=3.2
    )
    assert (spot.kind, spot.count) == ("A100-spot", 8)
    assert (spot.price_per_hour, spot.losses_per_hour) == (1.1, 0.5)


def test_the_column_of_losses_may_be_left_out(tmp_path: Path) -> None:
    (own,) = read(tmp_path, HEAD, "L4,16,30000,0.3,0.7")
    assert (own.speed, own.losses_per_hour) == (0.3, None)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("L4,0,30000,1,1", "line 2: count of kind L4 must be a whole number of at lea"),
        ("L4,1.5,30000,1,1", "line 2: count must be a whole number, got '1.5'"),
        ("L4,inf,30000,1,1", "line 2: count must be a whole number, got 'inf'"),
        ("L4,200000,30000,1,1", "at most 100,000, got 200000"),
        ("L4,1,0,1,1", "capacity_tokens of kind L4 must be a whole number"),
        ("L4,1,many,1,1", "capacity_tokens must be a number, got 'many'"),
        ("L4,1,30000,0,1", "speed of kind L4 must be > 0 and finite, got 0.0"),
        ("L4,1,30000,nan,1", "speed of kind L4 must be > 0 and finite, got nan"),
        ("L4,1,30000,1,-2", "price_per_hour of kind L4 must be > 0 and finite"),
        ("L4,1,30000,1", "price_per_hour must be a number, got ''"),
        (",1,30000,1,1", "kind must be a name"),
        ("L4,1,30000,1,1,1", "more entries than columns"),
    ],
)
def test_a_wrong_row_is_refused(tmp_path: Path, row: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"devices\.csv, line 2: ") as error:
        read(tmp_path, HEAD, row)
    assert said in str(error.value)


def test_losses_must_be_a_rate(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"losses per hour of kind L4 must be >= 0"):
        read(tmp_path, HEAD + ",spot_losses_per_hour", "L4,1,30000,1,1,-1")


def test_a_wrong_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no table of devices .*none\.csv"):
        read_devices(tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r"missing: \['price_per_hour'\], unknown"):
        read(tmp_path, "kind,count,capacity_tokens,speed,price", "L4,1,3,1,1")
    with pytest.raises(ValueError, match="has no devices"):
        read(tmp_path, HEAD)
    with pytest.raises(ValueError, match="kind L4 is there 2 times"):
        read(tmp_path, HEAD, "L4,1,30000,1,1", "L4,2,30000,1,2")
    (tmp_path / "devices.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not readable as CSV"):
        read_devices(tmp_path / "devices.csv")


def test_a_fleet_has_the_devices_in_the_order_of_the_table() -> None:
    settings = with_devices(BASE, [L4, A100])
    kinds = [own.kind for own in settings.fleet().values()]
    assert kinds == ["L4", "L4", "A100"]
    assert (settings.max_devices, settings.capacity_tokens) == (3, 800)
    alike = Settings(capacity_tokens=320, max_devices=2).fleet()
    assert {own.kind for own in alike.values()} == {ONLY_KIND}
    assert list(alike) == [DeviceGroupId(0), DeviceGroupId(1)]


def test_each_kind_has_limits_of_its_own() -> None:
    settings = Settings(
        capacity_tokens=320,
        page_tokens=16,
        decode_tokens_per_s=32.0,
        step_time=StepTime(fixed_s=0.01, page_s=0.001),
        tpot_slo_s=0.04,
    )
    settings = with_devices(settings, [L4, A100])
    kinds = settings.kinds()
    l4, a100 = (kinds[KindId(name)].models[ONLY_MODEL] for name in ("L4", "A100"))
    assert (l4.capacity_pages, a100.capacity_pages) == (20, 50)
    assert (l4.growth_pages_per_s, a100.growth_pages_per_s) == (2.0, 4.0)
    assert (l4.capacity(1), a100.capacity(1)) == (20, 50)
    slow = with_devices(settings, [replace(L4, speed=0.5), A100])
    assert slow.kinds()[KindId("L4")].models[ONLY_MODEL].capacity(1) == 10
    assert settings.limit(ONLY_MODEL) == 50
    assert settings.models()[ONLY_MODEL] == a100


def test_a_kind_that_is_too_slow_is_refused_by_name() -> None:
    settings = Settings(
        capacity_tokens=320, step_time=StepTime(fixed_s=0.03), tpot_slo_s=0.04
    )
    with pytest.raises(ValueError, match=r"devices of kind L4: a step of one row"):
        with_devices(settings, [replace(L4, speed=0.5)]).kinds()


def test_a_kind_without_room_for_a_page_does_not_run_a_model() -> None:
    tiny = Devices(kind=KindId("tiny"), count=1, capacity_tokens=15)
    settings = with_devices(BASE, [tiny, L4])
    assert settings.kinds()[KindId("tiny")].models == {}


def test_settings_agree_with_their_devices() -> None:
    with pytest.raises(ValueError, match=r"2 devices of at most 320 tokens are not .*"):
        replace(BASE, devices=(L4,))
    with pytest.raises(ValueError, match="kind L4 is there 2 times"):
        with_devices(BASE, [L4, L4])
    with pytest.raises(ValueError, match="at least one kind, got none"):
        with_devices(BASE, [])
    with pytest.raises(ValueError, match="warm_devices must be 0 where devices are"):
        with_devices(replace(BASE, warm_devices=1), [L4])
    for name in ("losses_per_hour", "loss_seed", "repair_s"):
        with pytest.raises(ValueError, match=f"{name} must be >= 0 and finite"):
            replace(BASE, **{name: -1.0})
        with pytest.raises(ValueError, match=f"{name} must be >= 0 and finite"):
            replace(BASE, **{name: math.inf})


def test_policies_of_one_size_are_refused_beside_several() -> None:
    several = with_devices(BASE, [L4, A100])
    with pytest.raises(ValueError, match=r"mell, repack reckons .*\[320, 800\] tokens"):
        check_kinds(["consolidate", "mell", "repack"], settings=several)
    check_kinds(["consolidate", "best_fit"], settings=several)
    spot = replace(L4, kind=KindId("spot"), price_per_hour=0.3)
    one_size = with_devices(BASE, [L4, spot])
    check_kinds(["mell", "repack"], settings=one_size)
