"""`hone engines`: which engines serve, while a service runs.

These commands write what is wanted to the store; a running service takes an engine in or lets it go, and the next start
begins with what is wanted then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from service.commands.options import Home, Json, Wait, existing_store, say, say_beside, settings_from, show, table
from service.commands.processes import say_engines
from service.errors import BadInput, EngineUnavailable, Stopped
from service.settings import Settings
from service.settings.addresses import engine_address, engine_at

app = typer.Typer(no_args_is_help=True, help="Engines that run elsewhere: list, add, remove, while the service runs.")
ACTOR = "command line"
TOLD = ("healthy", "under_way", "adapters", "problem")
"""By a running service, of each engine."""
LISTED = ("url", "state", "under_way", "adapters")
LOOK_SECONDS = 0.2
TELL_SECONDS = 10.0
"""Of waiting, after which the reason is told again; one that has changed is told at once."""
SETTLE_SECONDS = 1.0
"""In which most is done: nothing is told of it."""
Url = Annotated[str, typer.Argument(help="The engine's address.", metavar="URL")]
States = dict[tuple[str, int, str], dict[str, Any]]
"""How a running service finds its engines, by what `engine_at` says."""


@app.command("list")
def list_engines(home: Home = None, as_json: Json = False) -> None:
    """Every engine: whether it is wanted, and how a running service finds it."""
    from service.store.queries import engines

    settings = settings_from(home)
    states = _states(settings)
    with existing_store(settings).read() as tx:
        wanted = engines.wanted(tx, _named(settings, states))
    others = dict(states or {})
    found = [(url, True, others.pop(engine_at(url), {})) for url in wanted]
    found += [(state["url"], False, state) for state in others.values()]
    rows = [{"url": url, "wanted": is_wanted, **_told(state)} for url, is_wanted, state in found]

    def plain() -> None:
        listed = [row | {"state": _state(row)} for row in rows]
        table(LISTED, listed, "There are no engines. `hone engines add URL` names one.")
        for row in rows:
            if (problem := row["problem"]) is not None:
                say_beside("", problem if row["url"] in problem else f"{row['url']}: {problem}")

    show(rows, as_json, plain)


@app.command()
def add(url: Url, wait: Wait = 60.0, home: Home = None, as_json: Json = False) -> None:
    """Have one more engine serve: it gets requests once it holds, proven, what is live, and the canary.

    One that doesn't answer yet is added all the same, and told; Ctrl-C ends the waiting alone. The address of a Hone
    service is refused.
    """
    from service.engine import NAME_AN_ENGINE
    from service.engine_checks import examine_engines
    from service.service_health import health_at
    from service.store.queries import engines

    url, settings = _address(url), settings_from(home)
    store = existing_store(settings)
    if not as_json:
        say(f"Asking {url} what it is.")
    if health_at(url) is not None:
        raise BadInput(f"What answers at {url} is a Hone service and no engine: it was not added.", NAME_AN_ENGINE)
    with store.begin() as tx:
        engines.add(tx, url, _named(settings, _states(settings)), ACTOR)
    with _outlasting(f"{url} stays added"):
        if not as_json:
            say(f"{url} is added.")
        (report,) = examine_engines(
            settings.model_copy(update={"engine": settings.engine.model_copy(update={"urls": (url,)})})
        )
        answers = report.facts is not None
        if not as_json:
            say_engines([report])
            if not answers:
                say(f"It gets requests once it answers; `hone engines remove {url}` takes it out again.")

        def problem(state: dict[str, Any] | None) -> str | None:
            return "it was not looked at yet" if state is None else None if state["healthy"] else str(state["problem"])

        _await(settings, url, wait, as_json, "serves", problem, {"answers": answers})


@app.command()
def remove(url: Url, wait: Wait = 60.0, home: Home = None, as_json: Json = False) -> None:
    """Have an engine serve no more: it gets no new requests, and what is under way there ends first."""
    from service.store.queries import engines

    url, settings = _address(url), settings_from(home)
    with existing_store(settings).begin() as tx:
        engines.remove(tx, url, _named(settings, _states(settings)), ACTOR)

    def problem(state: dict[str, Any] | None) -> str | None:
        return None if state is None else f"{state['under_way']} requests are under way there"

    with _outlasting(f"{url} stays removed"):
        _await(settings, url, wait, as_json, "is let go", problem, {})


def _address(url: str) -> str:
    try:
        return engine_address(url)
    except ValueError as error:
        raise BadInput(f"{error}.") from error


def _named(settings: Settings, states: States | None) -> tuple[str, ...]:
    """What a running service asks; else what the next would begin with, as far as the settings say."""
    return settings.engine.urls if states is None else tuple(state["url"] for state in states.values())


def _await(
    settings: Settings,
    url: str,
    seconds: float,
    as_json: bool,
    done: str,
    problem: Callable[[dict[str, Any] | None], str | None],
    found: dict[str, Any],
) -> None:
    """Wait until nothing is in the way, and say so; in JSON with what was `found`. Meanwhile people are told what is.

    Raises EngineUnavailable when something still is.
    """
    began, told, tell_at = time.monotonic(), None, SETTLE_SECONDS
    while (states := _states(settings)) is not None and (why := problem(states.get(engine_at(url)))) is not None:
        waited = time.monotonic() - began
        if waited >= seconds:
            raise EngineUnavailable(
                f"{url} waits: {why.rstrip('.')}.", "The service goes on with it; see `hone engines list`."
            )
        if waited >= (tell_at if told in (None, why) else SETTLE_SECONDS) and not as_json:
            if told is None:
                say(f"Waiting until it {done}, for {seconds:g} s at most (--wait); Ctrl-C ends the waiting alone.")
            say(f"After {waited:.0f} s: {why}")
            told, tell_at = why, waited + TELL_SECONDS
        time.sleep(LOOK_SECONDS)
    later = "No service answers here; one that runs elsewhere sees to it, and so does the next start."
    words = later if states is None else f"{url} {done}."
    show({"url": url, "done": states is not None, **found}, as_json, lambda: say(words))


@contextmanager
def _outlasting(what: str) -> Iterator[None]:
    """Ctrl-C in the block ends no more than the command. Raises Stopped, which says that `what` was done is so."""
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(f"{what}: only the waiting has ended.", "`hone engines list` shows how it is.") from None


def _states(settings: Settings) -> States | None:
    """None where no service answers on this machine, or one that doesn't show its engines."""
    from service.service_health import health_at
    from service.stack import running_at

    health = health_at(running_at(settings.home) or settings.server.local_url, settings.home) or {}
    return {engine_at(state["url"]): state for state in health["replicas"]} if "replicas" in health else None


def _told(state: dict[str, Any]) -> dict[str, Any]:
    adapters = state.get("adapters")
    return {name: state.get(name) for name in TOLD} | {"adapters": None if adapters is None else ", ".join(adapters)}


def _state(row: dict[str, Any]) -> str:
    """In a word; without a running service nobody knows more than that it is wanted."""
    if not row["wanted"]:
        return "leaves"
    return {None: "wanted", True: "serves", False: "waits"}[row["healthy"]]
