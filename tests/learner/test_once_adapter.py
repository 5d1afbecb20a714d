"""What `hone learn --once` says of the adapter that passed: whether it is live, or what makes it so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from learner.daemon import Learner
from learner.once import learn_once
from service.auth import Sessions, load_secret
from service.operator_client import service_over
from service.settings import ServerSettings
from service.stack import only_one
from service.store.queries import adapters, runs, serving
from tests.fixtures.serving import serve
from tests.learner.store_fixtures import Home
from tests.learner.store_fixtures import home as home


@pytest.fixture
def passes(home: Home, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has another learner's run pass with v1; what follows from that in what is `desired` follows at once."""

    def prepare(rejected: str = "", **desired: str) -> None:
        def another_learner_does_it(self: Learner) -> None:
            with home.store.begin() as tx:
                if lease := runs.lease_run(tx, "another", 60.0, 3):
                    adapters.reserve_adapter(tx, None, lease.run_id)
                    adapters.register_candidate(tx, "v1", "0" * 64, {}, "It passed.")
                    if rejected:
                        serving.set_state(tx, "v1", "rejected", "rollout", rejected)
                    for name, value in desired.items():
                        setattr(serving.desired_state(tx), name, value)
                    runs.finish_run(tx, lease.run_id, lease.fence, "succeeded", "v1 passed every gate.", adapter="v1")

        monkeypatch.setattr(Learner, "work", another_learner_does_it)
        monkeypatch.setenv("COLUMNS", "300")

    return prepare


@pytest.mark.parametrize("asked_to_go_live", [True, False])
def test_it_is_said_what_the_next_run_starts_from(
    asked_to_go_live: bool, home: Home, passes: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    passes(**({"requested": "v1"} if asked_to_go_live else {}))
    assert learn_once(home.settings) == 0
    when = "No service over this home answers here: v1 goes" if asked_to_go_live else "`hone adapters promote v1` asks"
    said = capsys.readouterr().out
    assert when in said and "a run starts from the base; with `--parent v1` it starts from v1." in said


@pytest.mark.parametrize("of_this_home", [True, False])
@pytest.mark.parametrize("told_by", ["the lock", "the settings"])
def test_beside_a_service_over_this_home_it_is_said_that_it_takes_the_adapter_in(
    of_this_home: bool, told_by: str, home: Home, passes: Callable[..., None], tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """One over another home doesn't know what this home's secret signed."""
    secret = load_secret(home.settings.home if of_this_home else tmp_path_factory.mktemp("another"))
    service = FastAPI()

    @service.get("/v1/whoami")
    async def who(request: Request) -> JSONResponse:
        session = Sessions(secret).check(request.headers["authorization"].removeprefix("Bearer "))
        return JSONResponse({"caller": session.caller} if session else {}, 200 if session else 401)

    passes(requested="v1")
    with serve(service) as url, only_one(home.settings.home) as tell:
        if told_by == "the lock":
            tell(url, ())
        else:
            server = ServerSettings(port=int(url.rpartition(":")[2]))
            home.settings = home.settings.model_copy(update={"server": server})
        assert learn_once(home.settings, service=service_over) == 0
    said = capsys.readouterr().out
    assert (f"v1 goes live by itself once the service at {url} has loaded and proven it" in said) == of_this_home
    assert ("No service over this home answers here" in said) == (not of_this_home)


@pytest.mark.parametrize(
    ("happened", "said", "advice"),
    [
        ({"live": "v1"}, "v1 is live.", "--parent"),
        ({"rejected": "The engine says something else."}, "v1 did not go live: The engine says something", "promote"),
    ],
)
def test_of_an_adapter_that_is_live_or_rejected_already_that_is_said(
    happened: dict[str, str], said: str, advice: str, home: Home, passes: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    passes(**happened)
    assert learn_once(home.settings) == 0
    told = capsys.readouterr().out
    assert said in told and advice not in told
