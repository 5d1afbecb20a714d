"""Critique and revision: rounds under different principles, and what is left as it is."""

from __future__ import annotations

from typing import Any

import pytest

from learner.constitution import revising
from learner.constitution.asking import Request
from learner.constitution.revising import Draft, Revised, is_unmended, revise, revise_as_told
from service.constitution import built_in
from service.constitution.principles import USER_CRITIQUE
from tests.learner.constitution.toy import Model, line, tokens
from tests.learner.progress import Heard

OURS = built_in()
HARMLESS = OURS.tagged(("harmless",))
BACKBONE: Any = None  # nothing here reaches it: the model is a toy
ASKED = (("user", "How do I pick a lock?"),)
BAD, GOOD = Draft(ASKED, "like this", tokens("like this")), Draft(ASKED, "I will not", tokens("I will not"))


def sensible(request: Request) -> str:
    is_good = "not" in line(request, "Reply")
    if request[-1]["content"].endswith(HARMLESS[0].critique_request):
        return "It is as it should be." if is_good else "It helps a thief."
    return "I will not help"


def run(monkeypatch: pytest.MonkeyPatch, model: Model, drafts: list[Draft], rounds: int = 2) -> list[Revised]:
    monkeypatch.setattr(revising, "ask", model)
    return revise(BACKBONE, OURS, HARMLESS, drafts, rounds=rounds, critique_tokens=160, seed=3, progress=Heard())


def test_a_reply_at_fault_is_rewritten_and_a_good_one_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = run(monkeypatch, Model(sensible), [BAD, GOOD])
    assert bad.text == "I will not help" and bad.token_ids == tokens("I will not help") and bad.changed
    assert good.text == GOOD.text and good.token_ids == GOOD.token_ids and not good.changed
    assert [one.revision for one in bad.rounds] == ["I will not help", ""]
    assert [one.critique for one in good.rounds] == ["It is as it should be."] * 2


def test_each_round_is_under_another_principle_and_about_the_newest_text(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = iter(["second", "third", "fourth"])
    model = Model(
        lambda request: "at fault" if request[-1]["content"].endswith(HARMLESS[0].critique_request) else next(texts)
    )
    (found,) = run(monkeypatch, model, [BAD], rounds=3)
    assert [one.revision for one in found.rounds] == ["second", "third", "fourth"] and found.text == "fourth"
    assert {one.principle for one in found.rounds} == {one.name for one in HARMLESS}
    criticised = [line(one, "Reply") for one in model.asked if not line(one, "Critique")]
    assert criticised == ["like this", "second", "third"]


def test_principles_are_drawn_anew_where_there_are_more_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = run(monkeypatch, Model(lambda request: "at fault"), [BAD], rounds=2 * len(HARMLESS))
    under = [one.principle for one in found.rounds]
    assert sorted(under) == sorted(2 * [one.name for one in HARMLESS])


@pytest.mark.parametrize("useless", [None, "", "it never ends …"])
def test_a_revision_that_is_no_use_leaves_the_text(monkeypatch: pytest.MonkeyPatch, useless: str | None) -> None:
    model = Model(lambda request: "at fault" if not line(request, "Critique") else useless)
    (found,) = run(monkeypatch, model, [BAD], rounds=1)
    assert found.text == BAD.text and found.token_ids == BAD.token_ids
    assert found.rounds[0].critique == "at fault" and found.rounds[0].revision == ""


@pytest.mark.parametrize(
    ("first", "second", "unmended"),
    [
        ("", "", True),  # no revision came of either critique
        ("", "I will not", False),
        ("I will not", "", True),  # the last critique found the revision at fault
        ("like this", "like this", True),  # the draft said again is no revision
        ("I will not", "I will not", False),
    ],
)
def test_a_text_whose_fault_no_revision_mended_is_told(
    first: str, second: str, unmended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    revisions = iter([first, second])
    model = Model(lambda request: next(revisions) if line(request, "Critique") else "at fault")
    (found,) = run(monkeypatch, model, [BAD])
    assert is_unmended(found, OURS) is unmended


def test_a_fault_that_another_principle_does_not_see_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    critiques = iter(["at fault", "It is as it should be."])
    (found,) = run(monkeypatch, Model(lambda request: "" if line(request, "Critique") else next(critiques)), [BAD])
    assert is_unmended(found, OURS)
    (good,) = run(monkeypatch, Model(sensible), [GOOD])
    assert not is_unmended(good, OURS)


def test_a_draft_without_room_for_a_critique_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = run(monkeypatch, Model(lambda request: None), [BAD])
    assert found.text == BAD.text and [one.critique for one in found.rounds] == ["", ""]


def test_what_a_person_says_is_wrong_is_the_rule_and_the_critique(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(lambda request: "shorter")
    monkeypatch.setattr(revising, "ask", model)
    (found,) = revise_as_told(BACKBONE, OURS, HARMLESS[0], [BAD], ["It is\nRule: too long."])
    assert found is not None and found.text == "shorter" and found.rounds[0].principle == USER_CRITIQUE
    assert found.rounds[0].critique == "It is\nRule: too long."
    asked = model.asked[0][-1]["content"]
    assert asked.startswith("Rule: It is") and "\n> rule: too long." in asked and asked.count("Rule:") == 1


def test_a_critique_as_long_as_the_context_is_answered_by_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revising, "ask", Model(lambda request: None if len(request[-1]["content"]) > 9_000 else "new"))
    found = revise_as_told(BACKBONE, OURS, HARMLESS[0], [BAD, BAD], ["x" * 10_000, "too long"])
    assert found[0] is None and found[1] is not None and found[1].text == "new"
