"""The report by the constitution: shares of what critic and judge say, whoever they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.base_tokenizer import reply_tokenizer
from learner.batch import Flagged, Pair, Snapshot, TokenIds
from learner.constitution import revising
from learner.constitution.asking import Request, question
from learner.evaluate import constitution as evaluation
from learner.evaluate.answers import Answers
from learner.evaluate.constitution import ConstitutionEvaluation
from learner.evaluate.intervals import wilson
from learner.sampling import Reply
from service.constitution.versions import built_in_version
from service.settings import SPROUT
from tests.learner.constitution.toy import Model, Scale, line
from tests.learner.progress import Heard


def held_out(backbone: Backbone) -> Snapshot:
    """A flagged prompt, and two comparisons of which a judge that likes long replies agrees with one."""
    prompt = question(backbone.tokenizer, "Sing me a song.")
    tokenize = reply_tokenizer(str(SPROUT))
    long, short = tokenize("La la la, la la la."), tokenize("No.")
    pairs = Pair(prompt, long, short), Pair(prompt, short, long)
    return Snapshot(pairs=pairs, flagged=(Flagged(prompt),), conversations={prompt: (("user", "Sing me a song."),)})


def evaluated_by(
    judge: Scale, backbone: Backbone, prompts: int, heard: Heard | None = None, tags: tuple[str, ...] = ()
) -> ConstitutionEvaluation:
    return ConstitutionEvaluation(
        backbone, built_in_version(), tags, judge, prompts, 0, heard or Heard(), critique_tokens=160
    )


def test_the_report_says_what_critic_and_judge_say(sprout: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Request] = []

    def critic(request: Request) -> str:
        asked.append(request)
        return "at fault" if line(request, "Question") == "Sing me a song." else "nothing is wrong"

    monkeypatch.setattr(revising, "ask", Model(critic))
    monkeypatch.setattr(evaluation, "ask", Model(lambda one: "better so" if line(one, "Critique") else "so"))
    judge = Scale(lambda reply: len(reply) / 1_000, lean=0.02)
    measuring = evaluated_by(judge, sprout, 6, tags=("harmless",))
    found = measuring.report(held_out(sprout))
    assert found["constitution"] == "c0" and found["red_team_prompts"] == 6
    assert found["replies"] == found["replies_base"] == 12
    assert found["harmful"] == found["harmful_base"] == pytest.approx(2 / 12)  # the flagged prompt's two replies
    for name in ("harmful", "over_refused_base", "refused_and_explained", "refused_without_a_word", "placeholder_base"):
        assert (found[f"{name}_low"], found[f"{name}_high"]) == pytest.approx(wilson(6 * found[name], 6)), name
    for name in ("harmful_by_principle_base", "helpful_won_by_principle"):
        for principle, share in found[name].items():
            assert found[f"{name}_low"][principle] <= share <= found[f"{name}_high"][principle]
    assert (found["helpful_won_base_low"], found["helpful_won_base_high"]) == pytest.approx(
        wilson(6 * found["helpful_won_base"], 6)  # prompts are the draws
    )
    assert set(found["harmful_by_principle"]) == {"no-harm", "refuse-harm", "harmless-reply"}
    assert found["helpful_won"] == found["helpful_won_base"] and found["helpful_odds"] == found["helpful_odds_base"]
    assert 2 * 6 * found["helpful_won"] == pytest.approx(round(2 * 6 * found["helpful_won"], 1))  # of twelve pairs
    assert set(found["helpful_won_by_principle"]) <= {"answers", "friendly", "concise"}
    assert found["judged_as_people"] == 0.5 and found["peoples_pairs"] == 2
    assert found["position_bias"] == pytest.approx(0.02, abs=1e-3)
    assert [len(one.pairs) for one in measuring.asked if one.of_people] == [2]
    assert 2 * sum(len(one.pairs) for one in measuring.asked) == len(judge.asked)
    assert (found["judged_as_people_low"], found["judged_as_people_high"]) == pytest.approx(
        wilson(0.5, 1)
    )  # one prompt
    assert (found["critique_useful_low"], found["critique_useful_high"]) == pytest.approx(
        wilson(found["critique_useful"], 1)
    )
    assert found["critique_useful"] > 0.5 and found["critiqued"] == 4
    assert 0 <= found["over_refused"] <= 1 and found["look_alikes"] == 6
    assert "harmful_parent" not in found  # it began at the base


def test_helpfulness_is_the_share_won_ties_half_and_beside_it_how_sure_the_judge_is(
    sprout: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of eight pairs the candidate hardly wins five, clearly loses one, and says twice what the base says."""
    said = {"policy": [["good", "good"], ["good", "good"], ["good", "worst"], ["same", "same"]],
            "base": [["bad", "bad"], ["bad", "bad"], ["bad", "best"], ["same", " same"]]}  # fmt: skip

    def answers(backbone: Backbone, prompts: Sequence[TokenIds], role: Role, *rest: Any, **how: Any) -> Answers:
        return Answers([[Reply(0, (), 0.0, True)] * 2 for _ in prompts], said[role][: len(prompts)])

    monkeypatch.setattr(evaluation, "answer", answers)
    monkeypatch.setattr(revising, "ask", Model(lambda request: "nothing is wrong"))
    worth = {"good": 0.51, "bad": 0.5, "worst": 0.0, "best": 0.8, "same": 0.3}
    judge = Scale(worth.__getitem__, lean=0.1)
    found = evaluated_by(judge, sprout, 4).report(Snapshot())
    assert found["helpful_won"] == found["helpful_won_base"] == pytest.approx((5 + 0 + 2 / 2) / 8)
    assert found["helpful_odds"] == found["helpful_odds_base"] == pytest.approx((5 * 0.505 + 0.1 + 2 * 0.5) / 8)
    assert (found["helpful_won_low"], found["helpful_won_high"]) == pytest.approx(wilson(4 * 6 / 8, 4))
    shares = found["helpful_won_by_principle"].values()
    assert all(0 <= share <= 1 for share in shares) and found["position_bias"] == pytest.approx(0.1)


def test_an_evaluation_without_peoples_judgements_says_so(sprout: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revising, "ask", Model(lambda request: "nothing is wrong"))
    judge = Scale(lambda reply: None)
    found = evaluated_by(judge, sprout, 3).report(Snapshot())
    assert found["harmful"] == 0 and found["critique_useful"] is None
    assert found["judged_as_people"] is None and found["helpful_won"] is None and found["position_bias"] is None


def test_replies_that_could_not_be_critiqued_are_not_counted(sprout: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revising, "ask", lambda backbone, requests, **rest: [None] * len(requests))
    judge = Scale(lambda reply: None)
    found = evaluated_by(judge, sprout, 3).report(Snapshot())
    assert found["harmful"] is None and found["harmful_base"] is None and found["replies"] == 0


def test_an_evaluation_tells_what_it_does(sprout: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revising, "ask", Model(lambda request: "at fault"))
    monkeypatch.setattr(evaluation, "ask", Model(lambda request: "so"))
    judge, heard = Scale(lambda reply: len(reply) / 1_000), Heard()
    evaluated_by(judge, sprout, 3, heard, tags=("harmless",)).report(held_out(sprout))
    counted = heard.counted()
    assert counted == {
        "replies of the candidate to requests for harm": 6,
        "replies of the base to requests for harm": 6,
        "critiques of the candidate's replies": 6,
        "critiques of the base's replies": 6,
        "revisions after a critique": 12,
        "revisions without a critique": 12,
        "judgements of revisions": 12,
        "replies of the candidate to look-alikes": 6,
        "replies of the base to look-alikes": 6,
        "replies of the candidate to everyday questions": 6,
        "replies of the base to everyday questions": 6,
        "judgements, candidate against base": 6,
        "judgements of what people compared": 2,
    }
