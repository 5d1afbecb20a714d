"""The processes alone: `hone serve`, `hone learn`, `hone ui`."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, get_args
from urllib.parse import urlsplit

import typer

from service.commands.options import (
    EngineUrls,
    Home,
    Host,
    Json,
    MoreEngineUrls,
    Port,
    engine_urls,
    open_store,
    say,
    settings_from,
    show,
)
from service.errors import BadInput, SettingsError
from service.settings import Method, ServerSettings, Settings, check_rank, check_rollouts, with_rollout_engines

if TYPE_CHECKING:
    from service.commands.server import WhenReady
    from service.engine_checks import EngineReport

GRACE_SECONDS = 10  # that replies under way have to end after SIGTERM
METHODS: tuple[str, ...] = get_args(Method)
Parent = Annotated[
    str | None,
    typer.Option(
        "--parent", help="What the one run starts from: an adapter (v2), or base; else what is live.", metavar="NAME"
    ),
]


def serve(
    home: Home = None,
    host: Host = None,
    port: Port = None,
    engine_url: EngineUrls = None,
    pages: Annotated[bool | None, typer.Option("--pages/--no-pages", help="Mount the pages (server.pages).")] = None,
    listener: Annotated[int | None, typer.Option(hidden=True)] = None,
    as_json: Json = False,
    more_engines: MoreEngineUrls = None,
) -> None:
    """The service alone: HTTP API and pages, over one engine or several that run elsewhere."""
    urls = engine_urls(engine_url, more_engines)
    settings = settings_from(home, server__host=host, server__port=port, server__pages=pages, engine__urls=urls)
    if not settings.engine.urls:
        raise SettingsError("The service needs an engine.", "Name one with --engine-url, or run `hone up`.")
    from service import engine_checks, listening, logs, stack

    stack.prepare_home(settings)
    logs.configure("service", settings.home)
    if listener is not None:
        return _run_service(settings, stack.socket_of(listener), lambda _: None)
    with listening.listen(settings.server.host, settings.server.port) as bound:
        server = settings.server.model_copy(update={"port": listening.port_of(bound)})
        settings = settings.model_copy(update={"server": server})
        reports = engine_checks.examine_engines(settings)
        return _run_service(settings, bound, partial(_say_ready, settings, reports, as_json))


def learn(
    home: Home = None,
    once: Annotated[bool, typer.Option("--once", help="One run, now; then end.")] = False,
    method: Annotated[str | None, typer.Option(help=f"{', '.join(METHODS)}; only with --once.")] = None,
    promote: Annotated[bool | None, typer.Option(help="Whether to promote what passes; only with --once.")] = None,
    parent: Parent = None,
    as_json: Json = False,
) -> None:
    """The learner: starts runs by time, by count of new feedback and by command. Needs no running service."""
    from service import logs, stack
    from service.installed import require_learner_packages

    of_one_run = {"--method": method, "--promote": promote, "--parent": parent}
    given = [flag for flag, value in of_one_run.items() if value is not None]
    if given and not once:
        raise BadInput(f"{given[0]} belongs to one run.", "Add --once; other runs choose by the settings ([learner]).")
    if method not in (None, *METHODS):
        instead = (
            "A reward model is fitted as the first part of ppo, reinforce, rloo, grpo and raft; by itself from Python, "
            "with `learn_reward` (docs/learning.md). " if method == "reward" else ""
        )  # fmt: skip
        raise BadInput(f"There is no method {method!r}.", f"{instead}Choose one of {', '.join(METHODS)}.")
    require_learner_packages("The learner")
    from learner.trackers import require_trackers

    settings = settings_from(home)
    check_rank(settings)
    require_trackers(settings.learner.trackers)
    check_rollouts(settings)
    settings = with_rollout_engines(settings, stack.engines_at(settings.home))
    stack.prepare_home(settings)
    logs.configure("learner", settings.home)
    if once:
        from learner.once import learn_once
        from service.operator_client import service_over

        raise typer.Exit(learn_once(settings, method, promote, as_json, parent, service_over))
    from learner.daemon import occasions, run_forever

    begins = occasions(settings.learner)
    watching = {"home": str(settings.home), "a_run_begins": begins}
    words = f"The learner watches {settings.home}. A run begins {' or '.join(begins)}."
    raise typer.Exit(run_forever(settings, lambda: show(watching, as_json, lambda: say(words))))


def ui(
    api: Annotated[str, typer.Option("--api", help="URL of the service.")] = "http://127.0.0.1:8000",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 7860,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """The pages alone, for a service that runs elsewhere."""
    from service.auth import is_loopback
    from service.listening import listen, port_of

    if urlsplit(api).scheme not in ("http", "https") or not urlsplit(api).hostname:
        raise BadInput(f"{api!r} is no URL of a service.", "Name one such as http://127.0.0.1:8000.")
    if not is_loopback(host) and is_loopback(urlsplit(api).hostname or ""):
        raise SettingsError(
            f"On {host} these pages would let everybody in through {api}, which trusts this machine.",
            "Listen on 127.0.0.1, or name the address under which other machines reach the service.",
        )
    with listen(host, port) as bound:
        from ui.app import serve as serve_pages

        url = ServerSettings(host=host, port=port_of(bound)).local_url
        show({"url": url}, as_json, lambda: say(f"The pages are at {url}"))
        serve_pages(api, bound)


def _run_service(settings: Settings, listener: socket.socket, when_ready: WhenReady) -> None:
    from service.commands.server import run
    from service.store.session import Store

    store = Store.open(settings.store_url)
    try:
        run(settings, store, listener, when_ready, GRACE_SECONDS)
    finally:
        store.close()


def _say_ready(settings: Settings, reports: Sequence[EngineReport], as_json: bool, pages_problem: str | None) -> None:
    link, url, unusable = first_link(settings), settings.server.local_url, constitution_problem(settings)

    def plain() -> None:
        say_engines(reports)
        greet(url, link, pages_problem, unusable)

    ready = {"url": url, "operator_link": link, "pages_problem": pages_problem, "constitution_problem": unusable}
    show(ready | {"engines": [asdict(report) for report in reports]}, as_json, plain)


def check_address(settings: Settings) -> None:
    """Raises SettingsError when it is not this machine's alone and there is no key; StoreError for a bad database."""
    from service.auth import refuse_strangers

    store = open_store(settings)
    try:
        refuse_strangers(settings.server.host, store)
    finally:
        store.close()


def first_link(settings: Settings) -> str | None:
    """The operator link, if none was shown before; show it."""
    from service.stack import operator_link

    store = open_store(settings)
    try:
        return operator_link(settings, store)
    finally:
        store.close()


def constitution_problem(settings: Settings) -> str | None:
    """Which chats the constitution in effect keeps from being answered, and what to do about it."""
    from service.chat.principles import problem_of
    from service.store.queries import constitutions

    with closing(open_store(settings)) as store, store.read() as tx:
        return problem_of(constitutions.in_effect(tx), settings.constitution)


def say_engines(reports: Sequence[EngineReport]) -> None:
    """What the engines tell of themselves, what is wrong and how to mend it."""
    for report in reports:
        for line in report.lines:
            say(line)


def greet(url: str, link: str | None, pages_problem: str | None = None, unusable: str | None = None) -> None:
    """What people read when Hone is ready, or answers without the pages that it should have, or not every chat
    (`unusable`: as `constitution_problem` says)."""
    say(f"Hone is ready: {url}" if pages_problem is None else f"Hone answers at {url}/v1. {pages_problem}")
    if unusable:
        say(unusable)
    if link:
        say(f"Operator page (this link is shown once, keep it): {link}")
