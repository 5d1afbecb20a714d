"""Which adapters an engine holds, and which go when room is needed, without any engine."""

from __future__ import annotations

import pytest

from service.adapters.slots import Slots
from service.errors import EngineUnavailable


def holding(*names: str, most: int = 4, wanted: tuple[str, ...] = ()) -> Slots:
    """Those it holds are proven, and were used in this order."""
    slots = Slots(most)
    slots.wanted = frozenset(wanted)
    slots.see({name: f"/adapters/{name}" for name in names})
    for name in names:
        slots.prove(name)
        slots.note_use(name)
    return slots


def test_no_more_are_held_than_the_settings_allow_and_the_engine_says() -> None:
    slots = Slots(8)
    assert slots.size == 8
    slots.told = 3
    assert slots.size == 3
    slots.told = 16
    assert slots.size == 8


def test_what_is_gone_or_was_loaded_from_elsewhere_is_proven_no_more() -> None:
    slots = holding("v1", "v2", "v3")
    assert slots.see({"v1": "/adapters/v1", "v2": "/another/home/v2"}) == {"v2", "v3"}
    assert set(slots.proven) == {"v1"}


def test_what_was_used_longest_ago_goes_first_and_what_was_live_before_last() -> None:
    slots = holding("v1", "v2", "v3", wanted=("v4",), most=1)
    slots.previous = "v1"
    gone = []
    while (goes := slots.next_to_go("v4")) is not None:
        gone.append(goes)
        del slots.held[goes]
    assert gone == ["v2", "v3", "v1"]


def test_nothing_goes_that_is_wanted_or_in_use_or_somebody_elses() -> None:
    slots = holding("v1", "v2", "policy", wanted=("v1",), most=3)
    with slots.using("v2"), pytest.raises(EngineUnavailable, match="in use"):
        slots.next_to_go("v5")
    assert slots.next_to_go("v5") == "v2"
    assert list(slots.too_many(0, first=())) == ["v2"]


def test_those_beyond_what_is_kept_are_the_ones_used_longest_ago_unless_somebody_took_hold_meanwhile() -> None:
    slots = holding("v1", "v2", "v3", "v4")
    assert list(slots.too_many(2, first=())) == ["v2", "v1"]
    assert list(slots.too_many(2, first=("v1",))) == ["v3", "v2"]
    too_many = iter(slots.too_many(1, first=()))
    assert next(too_many) == "v3"
    with slots.using("v2"):  # while v3 was being unloaded
        assert next(too_many) == "v1"


def test_users_leave_operators_a_slot_but_for_what_was_live_before() -> None:
    slots = holding("v1", "v2", "v3", wanted=("v1",), most=3)
    slots.previous = "v3"
    with slots.using("v1"), slots.using("v2"):
        slots.admit("v2")
        slots.admit("v3")
        slots.previous = "base"
        with pytest.raises(EngineUnavailable, match="kept for what operators ask for"):
            slots.admit("v3")
