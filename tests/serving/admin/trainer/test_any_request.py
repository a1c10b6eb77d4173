"""Whatever a trainer sends is answered, or refused by name; no path leads outside."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mell_jax.engine.admin import AskServing
from mell_jax.engine.params import InvalidRequestError
from mell_jax.serving.admin.controls import Controls
from mell_jax.serving.admin.trainer.door import TrainerDoor
from mell_jax.serving.admin.weights_path import find_weights
from tests.serving.admin.fake_administration import FakeAdministration
from tests.serving.admin.trainer.conftest import Stage

FIELDS = (
    *("mode", "level", "keeps", "tags", "path", "model_path", "update_info", "version"),
    *("weight_version", "new_version", "open_requests", "abort_all_requests", "model"),
    *("request_ids", "rid", "abort_all", "streamed", "load_format", "include_dp", "x"),
)
ROUTES = [
    (route.methods[0], route.path)
    for route in TrainerDoor(Controls(FakeAdministration().ask)).routes()
]
words = st.sampled_from(
    ["keep", "wait", "abort", "ROOT/step-1", "weights", "", "é", "7"]
)
scalars = st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | words
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=3)
    ),
    max_leaves=5,
)
bodies = st.dictionaries(st.sampled_from(FIELDS), values, max_size=4) | values
quick = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@quick
@given(route=st.sampled_from(ROUTES), body=bodies)
def test_any_body_is_understood_or_refused(
    stage: Stage, route: tuple[str, str], body: Any
) -> None:
    method, path = route
    stage.fake.forget()
    sent = json.dumps(body).replace("ROOT", str(stage.root))
    answer = stage.client.request(method, path, content=sent.encode())
    assert answer.status_code in (200, 400, 404, 409, 501), answer.text
    told = answer.json()
    if answer.status_code == 200:
        assert isinstance(told, dict)
        return
    assert told["success"] is False
    assert told["message"] == told["error"]["message"]
    if answer.status_code == 400:
        assert stage.fake.loads == []
        assert all(one == AskServing() for one in stage.fake.asked)


@quick
@given(
    route=st.sampled_from(ROUTES),
    query=st.lists(st.tuples(st.sampled_from(FIELDS), words), max_size=4),
)
def test_any_query_is_understood_or_refused(
    stage: Stage, route: tuple[str, str], query: list[tuple[str, str]]
) -> None:
    method, path = route
    stage.fake.forget()
    answer = stage.client.request(method, path, params=query)
    assert answer.status_code in (200, 400, 404, 409, 501), answer.text


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a, a/b, c; links: a/out -> c, a/in -> a/b, a/up -> .., c/back -> a."""
    base = tmp_path_factory.mktemp("tree")
    (base / "a" / "b").mkdir(parents=True)
    (base / "c").mkdir()
    (base / "a" / "out").symlink_to(base / "c")
    (base / "a" / "in").symlink_to(base / "a" / "b")
    (base / "a" / "up").symlink_to("..")
    (base / "c" / "back").symlink_to(base / "a")
    return base


@given(
    st.lists(
        st.sampled_from(["a", "b", "c", "out", "in", "up", "back", "..", ".", ""]),
        max_size=8,
    )
)
def test_no_path_leads_out_of_the_folders(tree: Path, parts: list[str]) -> None:
    path = "/".join([str(tree), *parts])
    real = os.path.realpath(path)
    root = os.path.realpath(tree / "a")
    is_inside = real == root or real.startswith(f"{root}/")
    if is_inside and os.path.exists(real):
        assert str(find_weights(path, roots=[str(tree / "a")])) == real
        return
    with pytest.raises(InvalidRequestError) as caught:
        find_weights(path, roots=[str(tree / "a")])
    told = str(caught.value)
    assert ("does not exist" in told) == is_inside, "outside nothing is told"
