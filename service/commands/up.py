"""`hone up`: everything on this machine."""

from __future__ import annotations

import signal
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from service.commands.options import (
    EngineUrls,
    Home,
    Host,
    Json,
    Model,
    MoreEngineUrls,
    Port,
    engine_urls,
    say,
    settings_from,
    show,
)
from service.commands.processes import check_address, constitution_problem, first_link, greet, say_engines
from service.errors import SettingsError
from service.settings import Settings, check_rank, check_rollouts

if TYPE_CHECKING:
    from service.engine_checks import EngineReport
    from service.stack import Stack


def up(
    home: Home = None,
    host: Host = None,
    port: Port = None,
    model: Model = None,
    engine: Annotated[
        Literal["embedded", "vllm"] | None, typer.Option(help="The engine to start (setting engine.kind).")
    ] = None,
    engine_url: EngineUrls = None,
    learner: Annotated[bool, typer.Option(help="Start the learner, too.")] = True,
    as_json: Json = False,
    more_engines: MoreEngineUrls = None,
) -> None:
    """Everything on this machine: engine, service with its pages, learner. Ctrl-C stops it in order."""
    urls = engine_urls(engine_url, more_engines)
    settings = settings_from(
        home, server__host=host, server__port=port, engine__model=model, engine__kind=engine, engine__urls=urls
    )
    if engine is not None and settings.engine.urls:
        raise SettingsError(
            "engine.urls (--engine-url) names engines that run elsewhere, so none is started.",
            "Take it out, or leave out --engine.",
        )
    if learner:
        from learner.trackers import require_trackers

        check_rank(settings)
        check_rollouts(settings)
        require_trackers(settings.learner.trackers)
    from service.engine_checks import weights_problem
    from service.engine_program import check_folders
    from service.memory_share import with_memory_share

    check_folders(settings)
    settings, shared = with_memory_share(settings, learner)
    weights = weights_problem(settings) if learner else None
    _run(settings, learner, {"gpu_memory": shared, "weights_problem": weights.words if weights else None}, as_json)


def _run(settings: Settings, learner: bool, said_first: dict[str, str | None], as_json: bool) -> None:
    """Start everything, tell that it is there, and watch it until it is to stop. `said_first`: what is known before, as
    a large model takes minutes to start."""
    from service import logs, stack

    stack.prepare_home(settings)
    logs.configure("up", settings.home)
    stopping = _stop_on_signals()
    with stack.only_one(settings.home) as tell_where:
        everything = stack.Stack(settings, learner)
        for words in said_first.values():
            if words is not None and not as_json:
                say(words)
        tell_where(everything.url, everything.engine_urls)
        try:
            everything.start()
            check_address(everything.settings)  # beside the start, which takes longer
            if everything.wait_until_ready(stopping):
                reports = _examine(everything)
                link, unusable = first_link(everything.settings), constitution_problem(everything.settings)
                ready = {
                    "url": everything.url,
                    "operator_link": link,
                    "pages_problem": everything.pages_problem,
                    "constitution_problem": unusable,
                    "engine_urls": everything.engine_urls,
                    "engines": [asdict(report) for report in reports],
                    **said_first,
                }

                def plain() -> None:
                    say_engines(reports)
                    greet(everything.url, link, everything.pages_problem, unusable)

                show(ready, as_json, plain)
                everything.watch(stopping)
        finally:
            everything.stop()


def _examine(everything: Stack) -> list[EngineReport]:
    """What the engines tell, but of the embedded one only what is wrong; how our own vLLM was started, we know."""
    from service.engine_checks import EngineReport, examine_engines, template_problem

    engine = everything.settings.engine
    if not engine.urls and engine.kind == "embedded":
        problem = template_problem(everything.settings)
        return [] if problem is None else [EngineReport(everything.engine_urls[0], None, (problem,))]

    named = engine.model_copy(update={"urls": everything.engine_urls})
    return examine_engines(everything.settings.model_copy(update={"engine": named}), everything.engine_arguments)


def _stop_on_signals() -> threading.Event:
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    return stopping
