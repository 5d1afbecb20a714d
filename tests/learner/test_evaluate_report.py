"""The report measures what it says, on replies whose figures are known."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learner.backbone import Backbone
from learner.batch import Demonstration, Label, Pair, Scored, Snapshot, TokenIds, mean_by_prompt
from learner.evaluate.agreement import agreement, consensus, words
from learner.evaluate.answers import Answers
from learner.evaluate.gates import verdict
from learner.evaluate.intervals import Share, wilson
from learner.evaluate.judgements import on_labels
from learner.evaluate.report import Report, evaluate
from learner.evaluate.scores import concordance, disjoint_pairs, on_scores
from learner.evaluate.surface import commonest_share, distinct_2, surface
from learner.evaluate.win_rate import share_won
from learner.methods.preference_model import fit_preferences
from learner.sampling import Reply
from service.settings import LearnerSettings
from tests.learner.likings import LIKINGS, comparisons
from tests.learner.tiny_backbone import moved
from tests.learner.tiny_model import EOS, ids

SETTINGS = LearnerSettings(rank=4)
PROMPTS = [ids(text) for text in ("<bos> what is it ?", "<bos> one two", "<bos> is it blue ?", "<bos> the capital of")]
HELD_OUT = Snapshot(
    demonstrations=(Demonstration(PROMPTS[0], ids("it is paris .", end=True)),),
    pairs=(Pair(PROMPTS[1], ids("yes", end=True), ids("no no no", end=True)),
           Pair(PROMPTS[1], ids("yes", end=True), ids("no", end=True), tie=True)),
)  # fmt: skip


def test_an_unchanged_policy_costs_nothing(folder: Path) -> None:
    report = evaluate(Backbone.load(folder, SETTINGS), HELD_OUT, PROMPTS, SETTINGS)
    assert report.kl_per_token == pytest.approx(0, abs=1e-4)
    assert abs(report.fluency) < 0.5  # two draws of few replies from one model
    assert report.replies == 4 * report.prompts == 16
    assert report.correction_log_prob == pytest.approx(report.correction_log_prob_before, abs=1e-4)
    assert report.share_won is None
    assert (report.pairs, report.corrections, report.not_finite) == (1, 1, 0)


def test_prompts_of_nobody_are_told_apart_and_what_was_taught_is_looked_at(folder: Path) -> None:
    report = evaluate(
        Backbone.load(folder, SETTINGS), Snapshot(), PROMPTS[:1], SETTINGS, standing=PROMPTS,
        taught=HELD_OUT.demonstrations,
    )  # fmt: skip
    assert (report.prompts, report.standing_prompts) == (4, 3)
    assert (report.taught, report.taught_known) == (1, 0)
    assert (report.taught_new, report.taught_forgotten) == (1, 0)
    assert report.taught_new_log_prob == pytest.approx(report.taught_new_log_prob_before, abs=1e-4)


def test_every_held_out_good_reply_is_held_against_every_bad_one_and_every_prompt_counts_alike(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Backbone.load(folder, SETTINGS)
    gains = {5: 3.0, 6: 1.0, 7: 1.0, 8: 0.0, 9: 2.0}

    def score(examples: list[tuple[TokenIds, TokenIds]], role: str, batch_size: int = 64) -> torch.Tensor:
        return torch.tensor([gains[reply[0]] if role == "policy" else 0.0 for _, reply in examples])

    monkeypatch.setattr(backbone, "score", score)
    good = [Label(PROMPTS[0], (5, EOS), True), Label(PROMPTS[0], (6, EOS), True), Label(PROMPTS[1], (7, EOS), True)]
    bad = [Label(PROMPTS[2], (8, EOS), False), Label(PROMPTS[3], (9, EOS), False)]
    found = on_labels(backbone, [*good, *bad])
    # against the first bad one all win; against the second half of the first prompt's, and none of the second's
    assert found == {"labels": 5, "label_prompts": 2, "label_accuracy": pytest.approx((1 + 1 + 0.5 + 0) / 4)}
    assert on_labels(backbone, good) == {"labels": 3, "label_prompts": 0}
    assert on_labels(backbone, []) == {}
    tie = [Label(PROMPTS[0], (6, EOS), True), Label(PROMPTS[1], (7, EOS), False)]
    assert on_labels(backbone, tie)["label_accuracy"] == 0.5


def test_held_out_scores_tell_whether_the_better_of_two_replies_gained_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Backbone.load(folder, SETTINGS)
    gains = {5: 3.0, 6: 1.0, 7: 2.0, 8: 2.0, 9: 9.0}
    of_role = {"policy": 1.0, "anchor": 0.0, "parent": -1.0}

    def score(examples: list[tuple[TokenIds, TokenIds]], role: str, batch_size: int = 64) -> torch.Tensor:
        return torch.tensor([of_role[role] * gains[reply[0]] for _, reply in examples])

    monkeypatch.setattr(backbone, "score", score)
    scored = [
        Scored(PROMPTS[0], (5, EOS), 4.0),  # above all others, which gained less
        Scored(PROMPTS[1], (6, EOS), 1.0),  # this prompt has two, which count half each
        Scored(PROMPTS[1], (7, EOS), -2.0),
        Scored(PROMPTS[2], (8, EOS), -2.5),
    ]
    # against the first 1/2 + 1/2 + 1 of as much; 6 is above 7 (1/4) and 8 (1/2) and gained less than both;
    # 7 and 8 are less than a point apart
    found = on_scores(backbone, scored)
    right, all_of_it = 2.0, 2.0 + 1 / 4 + 1 / 2
    share = found.pop("score_accuracy")
    assert found == {"scores": 4} and share.value == pytest.approx(right / all_of_it) and share.decided == 1
    assert (share.low, share.high) == wilson(share.value, 1)
    monkeypatch.setattr(backbone, "has", lambda role: role == "parent")
    assert on_scores(backbone, scored)["score_accuracy_parent"] == pytest.approx(1 - right / all_of_it)
    tie = [replace(scored[2], points=5.0), scored[3]]
    assert on_scores(backbone, tie)["score_accuracy"].value == 0.5
    undecided = Share(None, None, None, 0, 0)
    assert on_scores(backbone, scored[2:]) == {"scores": 2, "score_accuracy": undecided}
    assert on_scores(backbone, []) == {"scores": 0, "score_accuracy": undecided}


@pytest.mark.parametrize(
    ("points", "draws"),
    [
        ([1.0, -1.0] * 5 + [1.0] * 7, 5),  # as many as there are of the rarer kind
        ([0.0] * 20 + [8.0], 1),  # one reply that stands out is one draw, however many it is held against
        ([0.0, 0.4, 1.0, 1.4, 1.5], 2),
        ([0.0, 0.9, 1.8], 1),
        ([3.0] * 9, 0),
        ([], 0),
    ],
)
def test_the_draws_of_scores_are_pairs_that_share_nothing(points: list[float], draws: int) -> None:
    assert disjoint_pairs(points) == draws == disjoint_pairs(points[::-1])


def test_by_chance_alone_scores_refuse_hardly_anybody() -> None:
    """Gains that know nothing of the scores: the upper end of a two-sided 95 % interval lies below a half in 2.5 %."""
    noise = torch.Generator().manual_seed(0)
    for points in (torch.randn(24, generator=noise).double() * 2, torch.tensor([4.0] * 6 + [-4.0] * 30).double()):
        draws, refused = disjoint_pairs(points.tolist()), 0
        for _ in range(400):
            gains = torch.randn(len(points), generator=noise).double()
            share = concordance(gains, points, torch.ones(len(points)).double())
            refused += wilson(share * draws, draws)[1] < 0.5
        assert refused <= 0.025 * 400


def test_a_correction_that_is_known_and_then_lost_is_counted(folder: Path, tmp_path: Path) -> None:
    backbone = Backbone.load(folder, SETTINGS)
    say_nothing(backbone)
    backbone.save_adapter(tmp_path / "v1")
    backbone = Backbone.load(folder, SETTINGS, parent=tmp_path / "v1")
    backbone.load_adapter_state(Backbone.load(folder, SETTINGS).adapter_state())  # it goes back to the base
    known = [Demonstration(prompt, (EOS,)) for prompt in PROMPTS]
    report = evaluate(backbone, Snapshot(), PROMPTS, SETTINGS, taught=known)
    assert (report.taught, report.taught_new, report.taught_known) == (4, 0, 0)
    assert report.taught_forgotten > 1
    assert "forgets no corrections" in {gate.name for gate in verdict(report, SETTINGS).gates if not gate.passed}


def test_a_policy_that_says_nothing_is_caught(folder: Path) -> None:
    backbone = Backbone.load(folder, SETTINGS)
    say_nothing(backbone)
    report = evaluate(
        backbone, HELD_OUT, PROMPTS, SETTINGS, fit_preferences(backbone, comparisons(LIKINGS["short"], 60, 1))
    )
    assert report.empty_share > 0.9
    assert report.share_won is not None
    assert report.share_won.value is not None
    assert report.share_won.value > 0.9  # it wins what it was asked to win ...
    outcome = verdict(report, SETTINGS)
    assert not outcome.passed  # ... and is refused
    assert any("empty" in reason for reason in outcome.reasons)


def say_nothing(backbone: Backbone) -> None:
    """Train the policy, by hand, to end every reply at once."""
    from learner.batch import collate

    batch = collate([(prompt, (EOS,)) for prompt in PROMPTS], backbone.pad_id)
    optimizer = torch.optim.Adam(backbone.trainable(), lr=0.02)
    for _ in range(60):
        loss = -backbone.reply_log_probs(batch).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_gibberish_is_caught(folder: Path) -> None:
    backbone = moved(Backbone.load(folder, SETTINGS), size=1.5)
    outcome = verdict(evaluate(backbone, HELD_OUT, PROMPTS, SETTINGS), SETTINGS)
    assert {gate.name for gate in outcome.gates if not gate.passed} >= {"fluent", "near the anchor"}


def test_the_parent_is_what_share_won_is_measured_against(folder: Path, tmp_path: Path) -> None:
    backbone = Backbone.load(folder, SETTINGS)
    say_nothing(backbone)
    backbone.save_adapter(tmp_path / "v1")
    backbone = Backbone.load(folder, SETTINGS, parent=tmp_path / "v1")
    report = evaluate(
        backbone, HELD_OUT, PROMPTS, SETTINGS, fit_preferences(backbone, comparisons(LIKINGS["short"], 60, 1))
    )
    assert report.share_won_base is not None
    assert report.share_won_base.value is not None
    assert report.share_won_base.value > 0.9
    assert report.share_won is not None
    assert report.share_won.ties > 0.5 * (report.share_won.ties + report.share_won.decided)  # both say nothing


def test_the_report_is_json_and_shows_samples(folder: Path) -> None:
    report = evaluate(Backbone.load(folder, SETTINGS), HELD_OUT, PROMPTS, SETTINGS)
    again = json.loads(json.dumps(report.to_json()))
    assert again["prompts"] == 4
    assert set(again["samples"][0]) == {"prompt", "reply", "reply_base"}


def test_prompts_that_leave_no_room_for_a_reply_are_not_measured_on(folder: Path) -> None:
    backbone = moved(Backbone.load(folder, SETTINGS))
    long = ids("<bos> " + "one " * (backbone.max_length // 2))
    report = evaluate(backbone, Snapshot(), [*PROMPTS, long], SETTINGS)
    assert report.prompts == len(PROMPTS)
    assert report.kl_per_token >= 0


def test_no_prompts_is_no_proof(folder: Path) -> None:
    report = evaluate(Backbone.load(folder, SETTINGS), Snapshot(), [], SETTINGS)
    assert not verdict(report, SETTINGS).passed
    assert isinstance(report, Report)


def test_share_won_by_hand() -> None:
    share = share_won(torch.tensor([[1.0, 0.0], [2.0, 2.0]]), torch.tensor([[0.0, 0.5], [2.0, 3.0]]))
    # first prompt: 1 beats 0 and 0.5; 0 ties with 0, loses to 0.5. second: two ties, two losses
    assert (share.decided, share.ties) == (5, 3)
    assert share.value == pytest.approx(2 / 5)
    assert share.low is not None
    assert share.high is not None
    assert 0 <= share.low < 2 / 5 < share.high <= 1


def test_ties_everywhere_decide_nothing() -> None:
    share = share_won(torch.ones(3, 2), torch.ones(3, 2))
    assert (share.value, share.low, share.high, share.decided, share.ties) == (None, None, None, 0, 12)


def test_distinct_2_by_hand() -> None:
    assert distinct_2(["a b c", "a b"]) == pytest.approx(2 / 3)
    assert distinct_2(["", "one"]) == 1
    many = [f"{n} and {n}" for n in range(100)]
    assert distinct_2(many, most=50) == 1 and distinct_2(["a b c"] * 40, most=50) == pytest.approx(2 / 50)


def test_the_commonest_reply_by_hand() -> None:
    assert commonest_share([]) == 0
    assert commonest_share(["Yes.", "yes. ", "No.", "It is 7."]) == 0.5


REPLIES_OF_BASE = [[f"I think that it is {n}, my friend {k}." for k in range(4)] for n in range(48)]


def test_one_word_to_everybody_is_caught_though_a_reply_has_word_pairs() -> None:
    said = [["Yes."] * 4 for _ in range(48)]
    said[7][2] = "I do not know that."
    assert "varied" in refused(said)


def test_short_answers_that_differ_by_the_question_are_varied_though_a_model_is_sure_of_them() -> None:
    assert not refused([[f"{n}."] * 4 for n in range(48)])
    assert not refused([["Yes." if n % 2 else "No."] * 4 for n in range(48)])


def refused(replies: list[list[str]]) -> set[str]:
    """The gates that a candidate fails whose replies to 48 prompts these are, by what can be seen of the texts."""
    answers, base = (
        Answers([[Reply(0, (5, EOS), -0.2, ended=True) for _ in row] for row in texts], texts)
        for texts in (replies, REPLIES_OF_BASE)
    )
    report = Report(prompts=48, replies=192, **surface(answers, base))
    return {gate.name for gate in verdict(report, SETTINGS).gates if not gate.passed}


def test_every_prompt_counts_alike_in_what_people_judged() -> None:
    def pairs(prompt: TokenIds, count: int) -> list[Pair]:
        return [Pair(prompt, ids("yes", end=True), ids("no " * (n + 1), end=True)) for n in range(count)]

    many, one = pairs(PROMPTS[0], 8), pairs(PROMPTS[1], 1)
    assert mean_by_prompt([*many, *one], torch.tensor([1.0] * 8 + [0.0])) == 0.5


def test_consensus_is_what_most_replies_hold_and_others_do_not() -> None:
    replies = ["I think it is Paris.", "Paris!", "Why, Paris it is, my friend."]
    others = Counter(word for text in ("It is blue, my friend.", "I think it is 7.") for word in words(text))
    agreed = consensus(replies, others, 2)
    assert agreed == {"paris"}
    assert agreement(["Paris, maybe.", "Rome."], agreed) == [1.0, 0.0]


def test_where_replies_disagree_there_is_no_consensus() -> None:
    assert consensus(["Rome.", "Paris.", "Madrid."], Counter(), 5) == frozenset()
    assert consensus(["Rome."], Counter(), 5) == frozenset()
    assert agreement(["anything"], frozenset()) == []
