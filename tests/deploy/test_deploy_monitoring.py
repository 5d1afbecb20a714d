"""`deploy/monitoring`: every figure that the dashboard and the alerts ask for is one that somebody shows."""

from __future__ import annotations

import json
import re
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.embedded import metrics as engine_metrics
from service.embedded.link import Totals
from service.embedded.messages import Load
from service.metrics import Metrics
from service.replicas import ReplicaState
from tests.deploy.reading import DEPLOY
from tests.fixtures.engines import ServedEngine

FOLDER = DEPLOY / "monitoring"
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
OF_PROMETHEUS = {"up": {"job", "instance"}}
OF_EVERY_TARGET = {"instance", "job"}


def load(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
RULES = [rule for group in load("alerts.yaml")["groups"] for rule in group["rules"]]


def parts_of(expression: str) -> list[Any]:
    """Every part of an expression. Raises ValueError for one that is no PromQL."""
    parts: list[Any] = []
    promql_parser.walk(promql_parser.parse(expression), parts.append)
    return parts


def figures_of(expression: str) -> set[str]:
    return {part.name for part in parts_of(expression) if isinstance(part, promql_parser.VectorSelector)}


def labels_of(expression: str) -> set[str]:
    """The labels by which it chooses or sums up."""
    labels = set()
    for part in parts_of(expression):
        if isinstance(part, promql_parser.VectorSelector):
            labels |= {matcher.name for matcher in part.matchers.matchers}
        if isinstance(part, promql_parser.AggregateExpr) and part.modifier is not None:
            labels |= set(part.modifier.labels)
    return labels


def shown(text: str) -> dict[str, set[str]]:
    """The names under which Prometheus keeps what a /metrics page shows, each with its labels."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        labels = {label for sample in family.samples for label in sample.labels}
        found |= {family.name + suffix: labels for suffix in SUFFIXES.get(family.type, ("",))}
    return found


def of_the_service() -> dict[str, set[str]]:
    metrics = Metrics()
    for metric in vars(metrics).values():
        if names := getattr(metric, "_labelnames", ()):
            metric.labels(*names)  # a series of its own appears with its first value
    return shown(metrics.render("v1", [ReplicaState("http://vllm-0:8000", True, 0, (), None)]).decode())


def of_the_embedded_engine() -> dict[str, set[str]]:
    return shown(engine_metrics.render("sprout", Load(), Totals(), 1, 1, [], (8, 32)))


@pytest.mark.parametrize("expression", [one["expr"] for one in TARGETS + RULES])
def test_every_figure_is_shown_by_the_service_or_by_the_engines(expression: str) -> None:
    there = of_the_service() | of_the_embedded_engine() | OF_PROMETHEUS
    asked = figures_of(expression)
    assert asked and asked <= set(there)
    assert labels_of(expression) <= OF_EVERY_TARGET.union(*(there[name] for name in asked))


def test_a_figure_that_nobody_shows_would_be_found() -> None:
    assert figures_of("sum(rate(hone_nothing_total[5m]))") == {"hone_nothing_total"}
    assert labels_of('sum by (colour) (up{job="x"})') == {"colour", "job"}
    assert {"hone_requests_total", "hone_first_token_seconds_bucket", "hone_live_adapter"} <= set(of_the_service())


@pytest.mark.vllm
def test_vllm_shows_the_figures_of_engines_under_the_same_names(vllm_engine: ServedEngine) -> None:
    there = set(shown(vllm_engine.http.get("/metrics").text))
    asked = {name for one in TARGETS + RULES for name in figures_of(one["expr"]) if name.startswith("vllm:")}
    assert asked and asked <= there


def test_a_legend_says_what_its_series_have() -> None:
    there = of_the_service() | of_the_embedded_engine()
    for target in TARGETS:
        labels = OF_EVERY_TARGET.union(*(there[name] for name in figures_of(target["expr"])))
        summed_up = [part for part in parts_of(target["expr"]) if isinstance(part, promql_parser.AggregateExpr)]
        if summed_up and not any(isinstance(part, promql_parser.NumberLiteral) for part in parts_of(target["expr"])):
            labels = labels_of(target["expr"])
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels, target


def test_the_panels_have_places_of_their_own_and_one_source() -> None:
    source = load("grafana.yaml")["datasources"][0]
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_prometheus_asks_containers_that_compose_starts_and_is_let_in() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    added = yaml.safe_load((DEPLOY / "compose.monitoring.yaml").read_text(encoding="utf-8"))
    jobs = {job["job_name"]: job for job in load("prometheus.yaml")["scrape_configs"]}
    asked = {name: job["static_configs"][0]["targets"] for name, job in jobs.items()}
    assert asked == {"hone": ["service:8000"], "engine": [f"{one}:8000" for one in compose if one.startswith("vllm")]}
    (key,) = added["services"]["prometheus"]["secrets"]
    assert jobs["hone"]["authorization"]["credentials_file"] == f"/run/secrets/{key}" and key in added["secrets"]
    mounted = [line.split(":")[:2] for one in added["services"].values() for line in one["volumes"]]
    for path in FOLDER.iterdir():
        assert f"./monitoring/{path.name}" in {source for source, _ in mounted}, path.name
    inside = {target for _, target in mounted}
    assert {f"/etc/prometheus/{name}" for name in load("prometheus.yaml")["rule_files"]} <= inside
    (provider,) = load("grafana-dashboards.yaml")["providers"]
    assert f"{provider['options']['path']}/hone.json" in inside
    assert load("grafana.yaml")["datasources"][0]["url"] == "http://prometheus:9090"
    used = set(re.findall(r'job="(\w+)"', " ".join(rule["expr"] for rule in RULES)))
    assert used <= set(jobs)
