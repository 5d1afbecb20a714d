"""What `hone doctor` says of the engines: each that is to serve, and what is wrong with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from service.adapters.health import Health
from service.embedded.arguments import COMPILERS
from service.engine_checks import examine_engines
from service.engine_program import find_vllm_python
from service.errors import StoreError
from service.settings import Settings
from service.settings.addresses import engine_at
from service.store.queries import engines
from service.store.session import Store


def examine_engine(
    settings: Settings, running: Sequence[str], replicas: Sequence[Mapping[str, Any]]
) -> Iterator[Health]:
    """`running`: the engines of the `hone up` that runs; `replicas`: how a running service finds its engines. Looked at
    are the first, else the second, else those of the settings, or else what the next `hone up` would start; with what
    `hone engines` added and took out."""
    named = tuple(running) or tuple(one["url"] for one in replicas) or settings.engine.urls
    problems = {engine_at(one["url"]): str(one["problem"]) for one in replicas if not one["healthy"]}
    is_vllm = settings.engine.kind == "vllm"
    urls = _wanted(settings, named)
    if not named:
        what = f"vLLM by {find_vllm_python(settings.engine)}" if is_vllm else "embedded"
        yield "engine", is_vllm or None, f"{what}; `hone up` starts it", ""
    if not settings.engine.urls and not is_vllm and not any(map(shutil.which, COMPILERS)):
        yield "compiler", None, "none: install a C compiler, and a small model answers several times faster", ""
    asked = settings.model_copy(update={"engine": settings.engine.model_copy(update={"urls": urls})})
    for report in examine_engines(asked):
        problem = problems.get(engine_at(report.url), "")
        if report.facts is not None:
            is_sound = not (problem or report.shortcomings)
            yield "engine", is_sound or None, f"{report.url} {report.facts.words}", ""
            is_ours = report.url in running and report.url not in settings.engine.urls  # `hone up` is told how
            if report.untold is not None and not is_ours:
                yield "engine options", None, f"{report.url} doesn't tell them all", report.untold
        if problem:
            told = problem if report.url in problem else f"{report.url} gets no requests: {problem}"
            yield "engine", False, told, ""
        for one in report.shortcomings:
            if one.words not in problem:
                yield "engine", False, f"{report.url}: {one.what}", one.mend or "Look at its log."


def _wanted(settings: Settings, named: tuple[str, ...]) -> tuple[str, ...]:
    if not settings.store_is_made:
        return named
    try:
        with closing(Store.open(settings.store_url, checkpoints=False)) as store, store.read() as tx:
            return engines.wanted(tx, named)
    except StoreError:  # which has a finding of its own
        return named
