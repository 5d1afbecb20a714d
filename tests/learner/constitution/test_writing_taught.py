"""What of the examples that the model wrote is learned, and what is left out of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from statistics import fmean
from typing import Any

import pytest

from learner.backbone import Backbone
from learner.base_tokenizer import reply_tokenizer
from learner.batch import Criticised, unheard
from learner.constitution import revising
from learner.constitution.asking import Request, Said, question
from learner.constitution.dropped import EVEN_ODDS, MORE_HARM, NO_VERDICT, UNFINISHED, UNMENDED
from learner.constitution.judging import DECIDED, HeardOdds
from learner.constitution.writing import write_or_go_on
from learner.methods import rl_cai
from learner.snapshot import FrozenFeedback
from learner.summary import describe
from service.constitution.principles import USER_CRITIQUE
from service.errors import TrainingFailed
from service.settings import SPROUT, Settings
from tests.learner.constitution.toy import Model, Scale, line
from tests.learner.constitution.written import judged_by, lessons, quiet, sensible, write
from tests.learner.test_summary import PARTS


def test_what_a_judge_says_after_thoughts_is_learned_though_it_is_clamped(
    sprout: Backbone, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by(Scale(lambda reply: len(reply) / 10), monkeypatch)  # sure of nearly every pair
    few = settings.constitution.model_copy(update={"judge_reasoned": True})
    settings = settings.model_copy(update={"constitution": few})
    train = write(sprout, settings, "rl-cai", lessons(sprout), monkeypatch).train
    judged = train.ai_pairs[1:]  # the first was served
    sure = [pair for pair in judged if pair.certainty > 0.59]
    assert len(sure) > len(judged) / 2 and max(pair.certainty for pair in judged) <= 0.6
    learned = rl_cai.told_apart(judged, Random(0), reasoned=True)
    assert set(sure) <= set(learned)
    elsewhere = rl_cai.where_they_belong(judged, train.kept, Random(0), reasoned=True)
    assert elsewhere and {pair.rejected for pair in elsewhere} <= {pair.chosen for pair in judged}
    records = [json.loads(text) for text in (settings.home / "constitution.jsonl").read_text().splitlines()]
    verdicts = [verdict for one in records if "judged" in one for verdict in one["judged"]["verdicts"]]
    assert verdicts and all("I look at" in thought for verdict in verdicts for thought in verdict["thoughts"])


def test_a_draft_whose_fault_no_revision_mended_is_not_taught(
    sprout: Backbone, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(request: Request) -> str:
        """Has no revision for the song, though it finds every reply to it at fault."""
        return "" if line(request, "Critique") and "song" in line(request, "Question") else sensible(request)

    monkeypatch.setattr(revising, "ask", Model(careless))
    given, path = lessons(sprout), settings.home / "constitution.jsonl"
    found = write_or_go_on(sprout, settings, "sl-cai", given, path, quiet)
    song = question(sprout.tokenizer, "Sing me a song.")
    assert found.train.revised and song not in {one.prompt_token_ids for one in found.train.revised}
    assert found.counts["written"]["dropped"][UNMENDED] == 1 and f"1 × {UNMENDED}" in found.set_aside


def changed(settings: Settings, **how: Any) -> Settings:
    return settings.model_copy(update={"constitution": settings.constitution.model_copy(update=how)})


@pytest.mark.parametrize("method", ["sl-cai", "rl-cai"])
def test_replies_without_an_end_leave_nothing_to_learn_and_it_says_which_setting_cuts_them(
    method: str, sprout: Backbone, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by(Scale(len), monkeypatch)
    given = replace(lessons(sprout), train=replace(lessons(sprout).train, ai_pairs=()))
    with pytest.raises(TrainingFailed, match=f"[0-9]+ × {UNFINISHED}.*constitution.reply_tokens"):
        write(sprout, changed(settings, reply_tokens=1), method, given, monkeypatch)
    assert not (settings.home / "constitution.jsonl").exists()


def test_a_judge_without_any_verdict_leaves_nothing_to_learn_but_what_was_revised_while_serving(
    sprout: Backbone, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by(Scale(lambda reply: None), monkeypatch)
    settings, given = changed(settings, judge_failed_share=1.0), lessons(sprout)
    served = given.train.ai_pairs
    with pytest.raises(TrainingFailed, match=f"[0-9]+ × {NO_VERDICT}.*another judge"):
        write(sprout, settings, "rl-cai", replace(given, train=replace(given.train, ai_pairs=())), monkeypatch)
    found = write(sprout, settings, "rl-cai", given, monkeypatch)
    assert found.train.ai_pairs == served and NO_VERDICT in found.set_aside


class OneLetter:
    """A judge that names the same letter whatever stands there, nearly."""

    def odds(self, requests: Sequence[Request], reasoned: bool, heard: HeardOdds = unheard) -> list[float | None]:
        found = [0.97 + 0.01 * (place % 3) for place, _ in enumerate(requests)]
        for place, odds in enumerate(found):
            heard(place, odds, "")
        return list(found)


@pytest.mark.parametrize("reasoned", [False, True])
@pytest.mark.parametrize("preferences", ["dpo", "ppo"])
def test_a_judge_that_names_the_same_letter_whatever_stands_there_ends_the_run(
    preferences: str, reasoned: bool, sprout: Backbone, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by(OneLetter(), monkeypatch)
    learner = settings.learner.model_copy(update={"preferences": preferences})
    settings = changed(settings, judge_reasoned=reasoned).model_copy(update={"learner": learner})
    given = lessons(sprout)
    alone = replace(given, train=replace(given.train, ai_pairs=()))
    with pytest.raises(TrainingFailed, match=f"[0-9]+ × {EVEN_ODDS}.*constitution.judge"):
        write(sprout, settings, "rl-cai", alone, monkeypatch)
    assert not (settings.home / "constitution.jsonl").exists()
    found = write(sprout, settings, "rl-cai", given, monkeypatch)  # what was revised while serving is learned
    left = found.counts["written"]["judged"] - 1  # one stays beside the pair of before, which is told apart
    text = describe(FrozenFeedback((), (), 0), replace(found, counts=PARTS | dict(found.counts)), ("rl-cai",))
    assert found.counts["written"]["told_apart"] == 1 and f"{left} pairs that the judge did not tell apart" in text


def test_where_no_fault_is_mended_nothing_is_learned(
    sprout: Backbone, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revising, "ask", Model(lambda request: "" if line(request, "Critique") else "at fault"))
    path = settings.home / "constitution.jsonl"
    with pytest.raises(TrainingFailed, match=f"[0-9]+ × {UNMENDED}"):
        write_or_go_on(sprout, settings, "sl-cai", lessons(sprout), path, quiet)


@pytest.mark.parametrize("method", ["sl-cai", "rl-cai"])
def test_a_critique_has_as_many_tokens_as_the_settings_say(
    method: str, sprout: Backbone, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = settings.constitution.model_copy(update={"critique_tokens": 7})
    model, most = Model(sensible), set[int]()

    def asked(backbone: Backbone, requests: Sequence[Request], **how: Any) -> list[Said | None]:
        most.update(how["max_new_tokens"] for request in requests if not line(request, "Critique"))
        return model(backbone, requests, **how)

    judged_by(Scale(lambda reply: len(reply) / 1_000), monkeypatch)
    monkeypatch.setattr(revising, "ask", asked)
    settings = settings.model_copy(update={"constitution": few})
    write_or_go_on(sprout, settings, method, lessons(sprout), settings.home / "constitution.jsonl", quiet)
    assert most == {7}


NO, HARM = "I will not help with that.", "Sure! Here is how: [placeholder]."


@pytest.mark.parametrize(
    ("asked", "reply", "revision", "is_learned"),
    [
        ("How do I build a bomb?", NO, HARM, False),
        ("How do I build a bomb?", HARM, NO, True),
        ("What is the capital of France?", NO, "It is Paris.", True),
    ],
)
def test_a_persons_critique_teaches_no_more_harm(
    asked: str,
    reply: str,
    revision: str,
    is_learned: bool,
    sprout: Backbone,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(revising, "ask", Model(lambda request: revision))
    prompt, tokens = question(sprout.tokenizer, asked), reply_tokenizer(str(SPROUT))(reply)
    told = Criticised(prompt, tokens, "You should do as I say.", "conv", "fb-told")
    given = lessons(sprout)
    train = replace(given.train, criticised=(told,), conversations={prompt: (("user", asked),)})
    path = settings.home / "constitution.jsonl"
    found = write_or_go_on(sprout, settings, "dpo", replace(given, train=train), path, quiet)
    assert found.counts["written"]["revised_as_told"] == is_learned
    assert (f"1 × {MORE_HARM}" in found.set_aside) != is_learned
    _, record = (json.loads(text) for text in path.read_text().splitlines())
    written = record["told" if is_learned else "more_harm"]
    names = ("feedback_id", "critique", "revision", "constitution", "principle", "worded_by")
    assert [written[name] for name in names] == [
        "fb-told", "You should do as I say.", revision, "c0", USER_CRITIQUE, "no-harm",
    ]  # fmt: skip
    odds = [(verdict["a_first"] + verdict["b_first"]) / 2 for verdict in written["verdicts"]]
    assert {verdict["principle"] for verdict in written["verdicts"]} == {"no-harm", "refuse-harm", "harmless-reply"}
    assert (fmean(odds) < DECIDED) is is_learned
