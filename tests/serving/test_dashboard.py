"""The dashboard for Grafana asks for what a server shows, and is whole."""

import json
import re
import tomllib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mell_jax.hosts.loads import NO_LOAD
from mell_jax.serving.metrics.scrape import Scrape
from tests.hosts.test_viewer import told
from tests.serving.test_metrics import fleet_text

DASHBOARD = json.loads((files("mell_jax.serving.metrics") / "grafana.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [
    (panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]
]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
BY_PROMETHEUS = {"job", "instance", "le"}


def exported() -> dict[str, tuple[str, set[str]]]:
    """Type and labels by the name of each sample."""
    found: dict[str, tuple[str, set[str]]] = {}
    for text in (fleet_text(), hosts_text()):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                known = found.setdefault(sample.name, (family.type, set()))
                known[1].update(sample.labels)
    return found


def hosts_text() -> str:
    """The metrics of a fleet of hosts."""
    load = replace(NO_LOAD, fleet=told().view())
    scrape = Scrape(load=load, measured={}, refused={}, is_serving=True)
    return scrape.text().decode()


def names_in(expression: str) -> list[str]:
    return re.findall(r"\b\w+:\w+", expression)


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS)
def test_a_server_shows_what_a_panel_asks_for(title: str, expression: str) -> None:
    known = exported()
    names = names_in(expression)
    assert names, f"{title} asks for nothing"
    assert not [name for name in names if name not in known]
    for name, matchers in re.findall(r"(\w+:\w+)\{(.*?)\}", expression):
        asked = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", matchers))
        assert asked - BY_PROMETHEUS <= known[name][1]
    labels = set().union(*(known[name][1] for name in names))
    for grouping in re.findall(r"\bby \((.*?)\)", expression):
        assert set(re.split(r",\s*", grouping)) - BY_PROMETHEUS <= labels


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS)
def test_rates_are_of_what_only_grows(title: str, expression: str) -> None:
    known = exported()
    rated = re.findall(r"\b(?:rate|increase)\((\w+:\w+)", expression)
    assert {known[name][0] for name in rated} <= {"counter", "histogram"}
    assert all(name.endswith(("_total", "_bucket")) for name in rated)
    plain = set(names_in(expression)) - set(rated)
    assert {known[name][0] for name in plain} <= {"gauge"} or title == "Compilations"
    assert expression.count("(") == expression.count(")")


def test_legends_name_labels_that_are_left() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            groupings = re.findall(r"\bby \((.*?)\)", target["expr"])
            left = set(re.split(r",\s*", groupings[0])) if groupings else set()
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= left


def test_it_has_what_grafana_needs() -> None:
    assert DASHBOARD["uid"] == "mell-jax"
    assert DASHBOARD["title"] and DASHBOARD["schemaVersion"] >= 39
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "model"]
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    for name in ("job", "model"):
        asked = variables[name]["query"]["query"]
        metric, label = re.findall(r"label_values\((\S+), (\w+)\)", asked)[0]
        assert label in exported()[metric][1] | BY_PROMETHEUS
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    titles = [panel["title"] for panel in PANELS]
    assert len(titles) == len(set(titles))
    for panel in PANELS:
        assert panel["datasource"] == SOURCE
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references)) > 0
        assert all(target["datasource"] == SOURCE for target in panel["targets"])


def test_no_two_panels_lie_on_one_place() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        at: Any = panel["gridPos"]
        assert at["x"] >= 0 and at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in taken, f"{panel['title']} on {taken[x, y]}"
                taken[x, y] = panel["title"]


def test_it_shows_what_was_asked_of_it() -> None:
    asked = {name for _, expression in EXPRESSIONS for name in names_in(expression)}
    assert asked >= {
        "mell:devices_in_use",
        "mell:devices_lower_bound",
        "mell:instance_pages",
        "mell:migrations_total",
        "mell:migration_stall_seconds_bucket",
        "mell:time_to_first_token_seconds_bucket",
        "mell:inter_token_latency_seconds_bucket",
        "mell:e2e_request_latency_seconds_bucket",
        "mell:request_queue_time_seconds_bucket",
        "mell:generation_tokens_total",
        "mell:admission_rejected_total",
        "mell:activations_total",
        "mell:requests_recovered_total",
    }


def test_it_is_packaged() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    data = project["tool"]["setuptools"]["package-data"]["mell_jax"]
    assert "serving/metrics/*.json" in data
