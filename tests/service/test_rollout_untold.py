"""An adapter that its probes can't tell from what was there before doesn't go live without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.adapters.manifest import Probe
from tests.fixtures.adapters import PROMPT, base_logprobs, write_source
from tests.service.house import House

GAIN = 0.5


def publish_another(house: House, tmp_path: Path, gain: float = GAIN) -> str:
    """One of other weights."""
    house.source = write_source(tmp_path / "another", seed=1)
    return house.publish(gain)


def test_what_its_probes_can_not_tell_from_what_is_live_is_put_aside_with_what_to_do(
    house: House, tmp_path: Path
) -> None:
    live = house.go_live(GAIN)
    name = publish_another(house, tmp_path)
    house.promote(name)
    house.reconcile()
    assert (house.serving().live, house.row(name).state, house.serving().requested) == (live, "candidate", None)
    reason = house.row(name).reason
    assert f"on its probes it can't be told from {live}" in reason
    assert "Learn from more feedback" in reason and "rollout.allow_untold" in reason
    assert house.engine.held.keys() == {live}


def test_what_changes_nothing_can_not_be_told_from_the_base(house: House) -> None:
    name = house.publish(gain=0.0)
    house.promote(name)
    house.reconcile()
    assert (house.serving().live, house.row(name).state) == ("base", "candidate")
    assert "can't be told from base" in house.row(name).reason


def test_a_canary_has_to_be_told_apart_too(house: House, tmp_path: Path) -> None:
    live = house.go_live(GAIN)
    house.canary(name := publish_another(house, tmp_path))
    house.reconcile()
    assert (house.serving().canary, house.row(name).state) == (None, "candidate")
    assert f"can't be told from {live}" in house.row(name).reason


def test_a_twin_by_its_manifest_goes_live(house: House) -> None:
    first = house.go_live(GAIN)
    assert house.go_live(GAIN) != first  # of the same files


def test_an_operator_may_let_it_go_live_and_it_stays_so(house: House, tmp_path: Path) -> None:
    house.go_live(GAIN)
    name = publish_another(house, tmp_path)
    house.start_service(allow_untold=True)
    house.promote(name)
    house.reconcile()
    assert house.serving().live == name
    house.engine.restart()
    house.start_service()  # without that setting: it has been live
    house.reconcile()
    assert house.serving().live == name and house.rollout.loaded == {name}


def test_what_has_been_live_is_gone_back_to_whatever_is_live_now(house: House, tmp_path: Path) -> None:
    """Its probes were chosen before there was the one that it is to be told from."""
    first = house.go_live(GAIN)
    house.source = write_source(tmp_path / "another", seed=1)
    base = base_logprobs(reply := (8, 9))
    own = (base[0] + GAIN, base[1] + GAIN + 0.2)  # elsewhere it is what the first is
    probe = Probe(prompt_token_ids=PROMPT, token_ids=reply, logprobs=own, base_logprobs=base)
    second = house.publish(probes=(probe,))
    house.promote(second)
    house.reconcile()
    assert house.serving().live == second
    house.engine.restart()
    house.roll_back()
    house.reconcile()
    assert house.serving().live == first
    assert f"can't be told from {second}" in house.row(first).reason


@pytest.mark.parametrize("gain", [0.002, 0.01])
def test_a_very_small_update_that_the_engine_can_show_goes_live(house: House, tmp_path: Path, gain: float) -> None:
    house.go_live(GAIN)
    name = publish_another(house, tmp_path, GAIN + gain)
    house.promote(name)
    house.reconcile()
    assert house.serving().live == name
