"""What keeps a host's models from being those of its fleet."""

from dataclasses import replace

import pytest

from mell_jax.hosts.agreement import disagreement
from mell_jax.hosts.wire import Served
from mell_jax.scheduler.placement.model import ModelSpec
from tests.toy import toy_info

TOY = Served(info=toy_info(), spec=ModelSpec(capacity_pages=3), fingerprint="abc")
OTHER = replace(TOY, info=replace(TOY.info, model_name="other"))


def test_what_is_measured_may_differ() -> None:
    slow = replace(TOY, spec=replace(TOY.spec, growth_pages_per_s=9.0, load_s=5.0))
    assert disagreement((slow,), fleet=(TOY,)) == ""


@pytest.mark.parametrize(
    ("models", "what"),
    [
        ((TOY, OTHER), "it serves toy, other, and the fleet toy"),
        ((OTHER,), "it serves other, and the fleet toy"),
        ((replace(TOY, fingerprint="def"),), "fingerprint is def, the fleet's abc"),
        (
            (replace(TOY, spec=ModelSpec(capacity_pages=4)),),
            "capacity_pages of toy is 4, the fleet's 3",
        ),
        (
            (replace(TOY, info=replace(TOY.info, max_model_len=7)),),
            "max_model_len of toy is 7, the fleet's",
        ),
    ],
)
def test_it_is_told_by_name(models: tuple[Served, ...], what: str) -> None:
    assert what in disagreement(models, fleet=(TOY,))


def test_not_everything_is_listed() -> None:
    info = replace(TOY.info, max_model_len=7, max_rows=3, num_pages=1, page_tokens=2)
    told = disagreement((replace(TOY, info=info),), fleet=(TOY,))
    assert told.count(";") == 2 and told.endswith(" and 1 more")
