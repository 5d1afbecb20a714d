"""What `hone doctor` says of the engines: each that is to serve, and what is wrong with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing

from service.adapters.health import Health
from service.embedded.arguments import COMPILERS
from service.engine_checks import examine_engines
from service.engine_program import find_vllm_python
from service.errors import StoreError
from service.settings import Settings
from service.store.queries import engines
from service.store.session import Store


def examine_engine(settings: Settings, running: Sequence[str]) -> Iterator[Health]:
    """`running`: the engines of the `hone up` that runs. Looked at are those, else those of the settings, or else what
    the next `hone up` would start; with what `hone engines` added and took out."""
    named, is_vllm = tuple(running) or settings.engine.urls, settings.engine.kind == "vllm"
    urls = _wanted(settings, named)
    if not named:
        what = f"vLLM by {find_vllm_python(settings.engine)}" if is_vllm else "embedded"
        yield "engine", is_vllm or None, f"{what}; `hone up` starts it", ""
    if not settings.engine.urls and not is_vllm and not any(map(shutil.which, COMPILERS)):
        yield "compiler", None, "none: install a C compiler, and a small model answers several times faster", ""
    asked = settings.model_copy(update={"engine": settings.engine.model_copy(update={"urls": urls})})
    for report in examine_engines(asked):
        if report.facts is not None:
            yield "engine", True, f"{report.url} {report.facts.words}", ""
            is_ours = report.url in running and report.url not in settings.engine.urls  # `hone up` is told how
            if report.untold is not None and not is_ours:
                yield "engine options", None, f"{report.url} doesn't tell them all", report.untold
        for one in report.shortcomings:
            yield "engine", False, f"{report.url}: {one.what}", one.mend or "Look at its log."


def _wanted(settings: Settings, named: tuple[str, ...]) -> tuple[str, ...]:
    if not settings.store_is_made:
        return named
    try:
        with closing(Store.open(settings.store_url, checkpoints=False)) as store, store.read() as tx:
            return engines.wanted(tx, named)
    except StoreError:  # which has a finding of its own
        return named
