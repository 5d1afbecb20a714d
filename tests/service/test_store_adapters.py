"""States of adapters, the desired state of serving, and the history that says why."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import inspect
from sqlalchemy.exc import InvalidRequestError

from service.adapters.pointer import Pointer
from service.errors import AdapterBroken, BadInput, Conflict, NotFound
from service.store.queries import adapters, serving
from service.store.session import Store
from tests.service.registered import states


def _candidate(store: Store, parent: str | None = None, run_id: str | None = "run-1") -> str:
    with store.begin() as tx:
        name = adapters.reserve_adapter(tx, parent, run_id).name
        adapters.register_candidate(tx, name, "ab" * 32, {"share_won": 0.7}, "Passed every gate.")
    return name


def _live(store: Store) -> str:
    name = _candidate(store)
    with store.begin() as tx:
        serving.request_live(tx, name, "name:op", "Good.")
        assert serving.fulfil_request(tx, name, "Proved.")
    return name


def test_a_candidate_goes_live_and_the_one_before_is_retired(store: Store) -> None:
    first, second = _live(store), _live(store)
    with store.read() as tx:
        desired = serving.desired_state(tx)
        history = [(event.action, event.actor) for event in adapters.events(tx, second)]
        row = adapters.get_adapter(tx, second)
    assert (desired.live, desired.previous, desired.requested) == (second, first, None)
    assert states(store) == {first: "retired", second: "live"}
    assert history == [("live", "name:op"), ("requested", "name:op"), ("published", "run run-1")]
    assert row is not None and row.reason == "Good. Proved."


def test_rolling_back_goes_to_what_was_live_before_or_where_one_says(store: Store) -> None:
    with store.begin() as tx, pytest.raises(Conflict, match="nothing to roll back to"):
        serving.request_rollback(tx, None, "name:op", "")
    first, _ = _live(store), _live(store)
    with store.begin() as tx:
        assert serving.request_rollback(tx, None, "name:op", "").requested == first
        assert serving.request_rollback(tx, "base", "name:op", "").requested == "base"
        assert serving.fulfil_request(tx, "base", "")
        desired = serving.desired_state(tx)
        assert (desired.live, desired.previous) == ("base", "base")
    with store.begin() as tx, pytest.raises(Conflict, match="nothing to roll back to: base is live"):
        serving.request_rollback(tx, None, "name:op", "")


def test_rolling_back_again_goes_further_back_and_never_to_what_was_left(store: Store) -> None:
    first, second, third = _live(store), _live(store), _live(store)
    for expected, before in ((second, first), (first, "base"), ("base", "base")):
        with store.begin() as tx:
            assert serving.request_rollback(tx, None, "name:op", "").requested == expected
            assert serving.fulfil_request(tx, expected, "Proved.")
            assert serving.desired_state(tx).previous == before
            assert serving.newest_left(tx) == third
    newest = _live(store)
    with store.read() as tx:
        flip = serving.last_flip(tx)
        assert (serving.desired_state(tx).previous, serving.newest_left(tx)) == ("base", None)
    assert flip is not None and (flip.adapter, flip.actor) == (newest, "name:op")


def test_rolling_back_says_where_else_to_go_when_what_was_live_before_was_rejected(store: Store) -> None:
    first, second = _live(store), _live(store)
    with store.begin() as tx:
        serving.set_state(tx, first, "rejected", "name:op", "Rude.")
        with pytest.raises(Conflict, match=rf"{first}, which was live before, was rejected: Rude\. .*`rollback base`"):
            serving.request_rollback(tx, None, "name:op", "")
        with pytest.raises(Conflict, match="A rejected adapter stays so"):
            serving.request_rollback(tx, first, "name:op", "")
        assert serving.desired_state(tx).requested is None
        assert serving.request_rollback(tx, "base", "name:op", "").requested == "base"
    assert states(store) == {first: "rejected", second: "live"}


def test_a_newer_request_replaces_the_one_before(store: Store) -> None:
    first, second = _candidate(store), _candidate(store)
    with store.begin() as tx:
        serving.request_live(tx, first, "name:op", "")
        serving.request_live(tx, second, "name:op", "")
        assert not serving.fulfil_request(tx, first, "Proved.")
        assert serving.fulfil_request(tx, second, "Proved.")
    assert states(store) == {first: "candidate", second: "live"}


def test_asking_for_what_is_live_keeps_it(store: Store) -> None:
    live, other = _live(store), _candidate(store)
    with store.begin() as tx:
        with pytest.raises(Conflict, match="is live already"):
            serving.request_live(tx, live, "name:op", "")
        serving.request_live(tx, other, "name:op", "")
        assert serving.request_live(tx, live, "name:op", "No, stay.").requested is None


def test_a_rejected_adapter_never_comes_back(store: Store) -> None:
    name = _candidate(store)
    with store.begin() as tx:
        serving.request_live(tx, name, "name:op", "")
        serving.set_state(tx, name, "rejected", "rollout", "It answers like base.")
        assert serving.desired_state(tx).requested is None
    with store.begin() as tx:
        for attempt in (
            lambda: serving.request_live(tx, name, "name:op", ""),
            lambda: serving.flip_live(tx, name, "name:op", ""),
            lambda: serving.set_canary(tx, name, 0.1, "name:op", ""),
            lambda: serving.set_state(tx, name, "candidate", "name:op", ""),
        ):
            with pytest.raises(Conflict, match="was rejected: It answers like base"):
                attempt()


def test_what_was_rejected_keeps_its_reason(store: Store) -> None:
    name = _candidate(store)
    with store.begin() as tx:
        serving.set_state(tx, name, "rejected", "gate", "It answers like base.")
    with pytest.raises(Conflict, match="was rejected already: It answers like base"), store.begin() as tx:
        serving.set_state(tx, name, "rejected", "name:op", "Rude.")
    with store.begin() as tx:
        serving.put_aside(tx, name, "Its folder is missing.")
    with store.read() as tx:
        row = adapters.get_adapter(tx, name)
        assert row is not None and row.reason == "It answers like base."
        assert [event.action for event in adapters.events(tx, name)] == ["rejected", "published"]


def test_what_is_put_aside_but_not_for_good_is_a_candidate_again(store: Store) -> None:
    name = _candidate(store)
    with store.begin() as tx:
        serving.request_live(tx, name, "olga", "try it")
        serving.put_aside(tx, name, "rank 64 is above max_lora_rank 32", for_good=False)
        adapter = adapters.get_adapter(tx, name)
        assert adapter is not None and adapter.state == "candidate" and "rank 64" in adapter.reason
        assert serving.desired_state(tx).requested is None
        assert serving.request_live(tx, name, "olga", "the engine was mended").requested == name


def test_what_is_put_aside_is_rejected_only_if_it_never_was_live(store: Store) -> None:
    before, live, new = _live(store), _live(store), _candidate(store)
    with store.begin() as tx:
        serving.request_live(tx, before, "name:op", "")
        for name in (before, live, new):
            serving.put_aside(tx, name, "Its folder is missing.")
        assert serving.desired_state(tx).requested is None
    assert states(store) == {before: "retired", live: "live", new: "rejected"}


def test_what_is_not_published_can_not_be_served(store: Store) -> None:
    with store.begin() as tx:
        name = adapters.reserve_adapter(tx, None, "run-1").name
        with pytest.raises(Conflict, match="isn't published yet"):
            serving.request_live(tx, name, "name:op", "")
        for unknown in ("v99", "v0", "v01", "v", "", "base2", "v-1", "v²", "v99999999999999999999"):
            with pytest.raises(NotFound, match="There is no adapter"):
                serving.request_live(tx, unknown, "name:op", "")
            assert adapters.get_adapter(tx, unknown) is None


def test_the_live_adapter_can_not_be_rejected_under_peoples_feet(store: Store) -> None:
    name = _live(store)
    with store.begin() as tx, pytest.raises(Conflict, match="roll back first"):
        serving.set_state(tx, name, "rejected", "name:op", "")
    assert states(store) == {name: "live"}


def test_numbers_are_never_used_again(store: Store) -> None:
    with store.begin() as tx:
        first = adapters.reserve_adapter(tx, None, "run-1").name
    with pytest.raises(KeyError), store.begin() as tx:
        adapters.reserve_adapter(tx, None, "run-1")
        raise KeyError
    with store.begin() as tx:
        assert adapters.abandon_publishing(tx, "run-1") == [first]
        assert adapters.abandon_publishing(tx, "run-1") == []
        with pytest.raises(Conflict, match="is rejected, not publishing"):
            adapters.register_candidate(tx, first, "ab" * 32, {}, "")
        later = adapters.reserve_adapter(tx, None, "run-1").name
    assert int(later[1:]) > int(first[1:])


def test_abandoning_touches_only_that_runs_unfinished_ones(store: Store) -> None:
    finished = _candidate(store, run_id="run-1")
    with store.begin() as tx:
        other = adapters.reserve_adapter(tx, None, "run-2").name
        own = adapters.reserve_adapter(tx, None, "run-1").name
        assert adapters.abandon_publishing(tx, "run-1") == [own]
    assert states(store) == {finished: "candidate", other: "publishing", own: "rejected"}
    with store.begin() as tx:
        assert adapters.abandon_publishing(tx, None) == [other]


def test_a_canary_gives_way_to_another_and_ends_when_it_goes_live(store: Store) -> None:
    first, second = _candidate(store), _candidate(store)
    with store.begin() as tx:
        serving.set_canary(tx, first, 0.1, "name:op", "")
        serving.set_canary(tx, first, 0.2, "name:op", "")
        assert serving.desired_state(tx).canary_share == 0.2
        serving.set_canary(tx, second, 0.5, "name:op", "")
        assert serving.desired_state(tx).canary == second
    assert states(store) == {first: "candidate", second: "canary"}
    with store.begin() as tx:
        desired = serving.flip_live(tx, second, "name:op", "Better.")
        assert (desired.canary, desired.canary_share) == (None, 0.0)
        with pytest.raises(Conflict, match="is live already"):
            serving.set_canary(tx, second, 0.1, "name:op", "")
        serving.set_canary(tx, first, 0.1, "name:op", "")
        assert serving.clear_canary(tx, "name:op", "Enough.").canary is None
    assert states(store) == {first: "candidate", second: "live"}


def test_a_canary_that_was_live_before_is_retired_again_when_it_ends(store: Store) -> None:
    first, second, third = _live(store), _live(store), _candidate(store)
    with store.begin() as tx:
        serving.set_canary(tx, first, 0.1, "name:op", "")
        serving.set_canary(tx, third, 0.1, "name:op", "")
    assert states(store) == {first: "retired", second: "live", third: "canary"}
    with store.begin() as tx:
        serving.clear_canary(tx, "name:op", "Enough.")
    assert states(store) == {first: "retired", second: "live", third: "candidate"}


@pytest.mark.parametrize("became", ["retired", "canary", "candidate", "rejected"])
def test_what_was_live_before_takes_over_whatever_it_is_by_now_unless_it_was_rejected(
    store: Store, became: str
) -> None:
    first, second = _live(store), _live(store)
    with store.begin() as tx:
        if became == "canary":
            serving.set_canary(tx, first, 0.1, "name:op", "")
        elif became == "candidate":
            serving.set_state(tx, first, "candidate", "name:op", "")
        elif became == "rejected":
            serving.set_state(tx, first, "rejected", "name:op", "")
    Pointer(store).replace_live(second, AdapterBroken("Its folder is missing."), {second})
    with store.read() as tx:
        desired = serving.desired_state(tx)
    assert (desired.live, desired.canary) == ("base" if became == "rejected" else first, None)
    assert states(store) == {first: "rejected" if became == "rejected" else "live", second: "retired"}


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_that_is_none_is_refused(sqlite_store: Store, share: float) -> None:
    name = _candidate(sqlite_store)
    with sqlite_store.begin() as tx, pytest.raises(BadInput, match="between 0 and 1"):
        serving.set_canary(tx, name, share, "name:op", "")


def test_rejecting_a_canary_ends_it(store: Store) -> None:
    name = _candidate(store)
    with store.begin() as tx:
        serving.set_canary(tx, name, 0.1, "name:op", "")
        serving.set_state(tx, name, "rejected", "name:op", "Rude.")
        assert serving.desired_state(tx).canary is None


def test_adapters_are_listed_newest_first_and_their_long_reports_stay_in_the_store(store: Store) -> None:
    made = [_candidate(store) for _ in range(4)]
    with store.read() as tx:
        listed = adapters.list_adapters(tx)
        assert [adapter.name for adapter in listed] == made[::-1]
        with pytest.raises(InvalidRequestError):
            listed[0].report  # noqa: B018  # it is the reading that raises


def test_of_a_report_the_list_has_the_figures_that_were_asked_for_and_are_in_it(store: Store) -> None:
    share = {"value": 0.75, "decided": 40}
    reports: list[dict[str, Any]] = [{"share_won": share, "pairs": 0, "samples": ["Yes."]}, {"share_won": None}, {}]
    with store.begin() as tx:
        for report in reports:
            name = adapters.reserve_adapter(tx, None, "run-1").name
            adapters.register_candidate(tx, name, "ab" * 32, report, "Passed every gate.")
    with store.read() as tx:
        listed = adapters.list_with_figures(tx, ("share_won", "pairs"))
        assert [figures for _, figures in listed[::-1]] == [{"share_won": share, "pairs": 0}, {}, {}]
        assert all("report" in inspect(adapter).unloaded for adapter, _ in listed)
