"""What the model writes for a run: from flagged prompts and ours, kept in a file, counted, and turned into lessons."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from learner.backbone import Backbone
from learner.batch import Criticised, Flagged, Snapshot, TokenIds, unheard
from learner.constitution import revising, writing
from learner.constitution.asking import Request, Said, question
from learner.constitution.dropped import AT_FAULT, NO_ROOM, NO_TEMPLATE, SAME_TEXT, UNFINISHED
from learner.constitution.journal import Journal
from learner.constitution.judging import HeardOdds
from learner.constitution.red_team import harmful
from learner.constitution.writing import Writer, write_or_go_on
from learner.curate import Curated
from service.constitution.versions import built_in_version
from service.errors import AdapterBroken, TrainingFailed
from service.settings import SPROUT, ConstitutionSettings, LearnerSettings, Settings
from tests.learner.constitution.toy import Model, Scale, line, tokens
from tests.learner.constitution.written import FEW, REFUSAL, judged_by, lessons, quiet, sensible, write
from tests.learner.progress import Heard
from tests.learner.tiny_model import build_tiny_model


def test_the_supervised_stage_learns_the_revisions_of_the_policys_replies(
    sprout: Backbone, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = lessons(sprout)
    found = write(sprout, settings, "sl-cai", given, monkeypatch)
    assert 8 <= len(found.train.revised) <= 10
    assert {one.reply_token_ids for one in found.train.revised} == {tokens(REFUSAL)}
    prompts = {one.prompt_token_ids for one in found.train.revised}
    assert question(sprout.tokenizer, "Sing me a song.") in prompts
    measured = {question(sprout.tokenizer, text) for text in harmful(10_000, 0, held_out=True)}
    assert not prompts & measured
    assert found.train.pairs == given.train.pairs and found.train.ai_pairs == ()
    assert found.counts["written"]["changed"] == len(found.train.revised)


def test_neither_a_flagged_prompt_of_ours_that_measures_nor_one_that_is_held_out_is_trained_on(
    sprout: Backbone, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ours,) = harmful(1, 0, held_out=True)
    measured, held = question(sprout.tokenizer, ours), question(sprout.tokenizer, "Hello")
    given = lessons(sprout)
    words = {**given.train.conversations, measured: (("user", ours),)}
    flagged = (*given.train.flagged, Flagged(measured, "conv", "fb-ours"))
    train = replace(given.train, flagged=flagged, conversations=words)
    given = replace(given, train=train, held_out=Snapshot(flagged=(Flagged(held, "other", "fb-held"),)))
    found = write(sprout, settings, "sl-cai", given, monkeypatch).train
    learned = {one.prompt_token_ids for one in found.revised} | {prompt for prompt, _ in found.kept}
    assert question(sprout.tokenizer, "Sing me a song.") in learned and not {measured, held} & learned


def test_a_constitution_without_room_for_a_critique_stops_the_stage(
    sprout: Backbone, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revising, "ask", lambda backbone, requests, **rest: [None] * len(requests))
    with pytest.raises(TrainingFailed, match="no room to be critiqued"):
        write_or_go_on(sprout, settings, "sl-cai", lessons(sprout), settings.home / "constitution.jsonl", quiet)


def fault_with(question: str | None, request: Request) -> str:
    """A critic that finds at fault whatever answers this question; None: any."""
    return "at fault" if question in (None, line(request, "Question")) else "nothing is wrong"


def test_replies_to_harmless_prompts_are_kept_unless_a_critique_finds_them_at_fault(
    sprout: Backbone, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hello, path = question(sprout.tokenizer, "Hello"), settings.home / "constitution.jsonl"
    for faulty, is_kept in (("Hello", False), (None, True)):  # the one at fault isn't; where all are, nobody can tell
        monkeypatch.setattr(revising, "ask", Model(partial(fault_with, faulty)))
        found = write_or_go_on(sprout, settings, "sl-cai", lessons(sprout), path, quiet)
        assert len(found.train.kept) >= writing.FEWEST_KEPT - 2
        prompts = {prompt for prompt, _ in found.train.kept}
        assert (hello in prompts) is is_kept and question(sprout.tokenizer, "Sing me a song.") not in prompts
        assert found.counts["written"]["dropped"].get(AT_FAULT, 0) == (not is_kept)
        records = [json.loads(line) for line in path.read_text().splitlines()]
        dropped = [record["at_fault"] for record in records if "at_fault" in record]
        said = [(one["conversation"], one["critique"]) for one in dropped]
        assert said == ([] if is_kept else [([["user", "Hello"]], "at fault")])
        kept = [record["kept"] for record in records if "kept" in record]
        assert all(one["conversation"] and one["principle"] and one["critique"] and one["reply"] for one in kept)
        path.unlink()


def test_what_is_kept_is_a_share_of_it_and_what_was_examined_but_never_fewer_prompts_than_32(
    sprout: Backbone, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is learned of the examined ones is thinned later; the docs say 32."""
    asked = list[int]()

    def replies(self: Writer, stage: str, prompts: Sequence[TokenIds], each: int, seed: int) -> list[list[Said]]:
        asked.append(len(prompts))
        return [[] for _ in prompts]

    monkeypatch.setattr(Writer, "_replies", replies)
    for share, taught, prompts in ((0.0, 400, 32), (0.5, 40, 40), (0.75, 40, 120)):
        how = settings.constitution.model_copy(update={"helpful_share": share})
        of = settings.model_copy(update={"constitution": how})
        writer = Writer(sprout, of, built_in_version(), quiet, Journal(settings.home / "journal", {}))
        writer._kept(lessons(sprout), taught, 1, Counter())
        assert asked[-1] == prompts
    described = ConstitutionSettings.model_fields["helpful_share"].description
    assert described is not None and described.endswith("; 32 such prompts at least, also at 0.")


def test_a_draft_that_no_revision_mends_is_written_with_its_critiques(
    sprout: Backbone, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stubborn(request: Request) -> str:
        return line(request, "Reply") if line(request, "Critique") else fault_with("Sing me a song.", request)

    monkeypatch.setattr(revising, "ask", Model(stubborn))
    path = settings.home / "constitution.jsonl"
    write_or_go_on(sprout, settings, "sl-cai", lessons(sprout), path, quiet)
    records = [json.loads(text) for text in path.read_text().splitlines()]
    (unmended,) = (record["unmended"] for record in records if "unmended" in record)
    assert unmended["conversation"] == [["user", "Sing me a song."]] and unmended["reply"] == unmended["draft"]
    assert {round_["critique"] for round_ in unmended["rounds"]} == {"at fault"}


def test_the_supervised_stage_tells_what_it_does(
    sprout: Backbone, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revising, "ask", Model(sensible))
    path, heard = settings.home / "constitution.jsonl", Heard()
    found = write_or_go_on(sprout, settings, "sl-cai", lessons(sprout), path, heard)
    counted = heard.counted()
    assert list(counted) == [
        "writing red-team prompts",
        "replies",
        "critiques, round 1 of 2",
        "revisions, round 1 of 2",
        "critiques, round 2 of 2",  # and nothing is at fault any more
        "replies to harmless prompts",
        "critiques of replies to harmless prompts",
    ]
    drafts = found.counts["written"]["revised"]
    assert counted["replies"] >= drafts == counted["critiques, round 1 of 2"] == counted["critiques, round 2 of 2"]
    told = [step for stage, step, *_ in heard.steps if stage == "replies"]
    assert len(told) > 3  # while they are sampled
    heard.steps.clear()
    write_or_go_on(sprout, settings, "sl-cai", lessons(sprout), path, heard)
    assert heard.steps == []  # it is read


def test_the_feedback_stage_learns_the_judges_odds_beside_what_people_said(
    sprout: Backbone, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by(Scale(lambda reply: len(reply) / 1_000), monkeypatch)
    given = lessons(sprout)
    monkeypatch.setattr(revising, "ask", Model(sensible))
    heard = Heard()
    found = write_or_go_on(sprout, settings, "rl-cai", given, settings.home / "constitution.jsonl", heard)
    served, *pairs = found.train.ai_pairs
    assert served == given.train.ai_pairs[0] and len(pairs) == found.counts["written"]["judged"] >= 8
    for pair in pairs:
        longer, shorter = sprout.decode([pair.chosen, pair.rejected])
        assert len(longer.strip()) >= len(shorter.strip()) and 0.5 <= pair.certainty < 0.7
    assert [pair.feedback_ids for pair in found.train.pairs] == [("fb-pair",), ("fb-told",)]
    counted = heard.counted()
    assert counted["a first question to the judge"] == 4 and counted["judgements"] == len(pairs)
    assert list(counted) == [
        "revisions by people's critiques",
        "writing red-team prompts",
        "a first question to the judge",
        "replies",
        "judgements",
        "replies to harmless prompts",
        "critiques of replies to harmless prompts",
    ]
    assert found.train.criticised == ()


def test_a_judge_that_answers_nonsense_stops_the_run_and_leaves_no_file(
    sprout: Backbone, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by(Scale(lambda reply: None), monkeypatch)
    with pytest.raises(TrainingFailed, match="judge_failed_share"):
        write(sprout, settings, "rl-cai", lessons(sprout), monkeypatch)
    assert not (settings.home / "constitution.jsonl").exists()


def test_several_replies_to_each_prompt_are_revised_and_judged(
    sprout: Backbone, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = settings.constitution.model_copy(update={"samples_per_prompt": 3, "pairs_per_prompt": 2})
    settings = settings.model_copy(update={"constitution": few})
    revised = write(sprout, settings, "sl-cai", lessons(sprout), monkeypatch)
    unfinished = revised.counts["written"]["dropped"].get(UNFINISHED, 0)
    kept = Counter(prompt for prompt, _ in revised.train.kept)
    assert max(kept.values()) == 3 and revised.counts["written"]["revised"] + unfinished >= 3 * 8
    judged_by(Scale(lambda reply: len(reply) / 1_000), monkeypatch)
    _, *judged = write(sprout, settings, "rl-cai", lessons(sprout), monkeypatch).train.ai_pairs  # the first was served
    assert max(Counter(pair.prompt_token_ids for pair in judged).values()) == 2


class Closed:
    """A judge that refuses everyone."""

    def odds(self, requests: Sequence[Request], reasoned: bool, heard: HeardOdds = unheard) -> list[float | None]:
        raise TrainingFailed("refused")


def test_a_judge_that_refuses_everyone_ends_the_run_before_anything_is_sampled(
    sprout: Backbone, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by(Closed(), monkeypatch)
    monkeypatch.setattr(Writer, "_replies", lambda *about: pytest.fail("replies were sampled"))
    with pytest.raises(TrainingFailed, match="refused"):
        write(sprout, settings, "rl-cai", lessons(sprout), monkeypatch)


@pytest.mark.parametrize("method", ["auto", "dpo", "ppo", "raft", "kto"])
def test_a_critique_becomes_a_pair_in_whatever_learns_from_pairs(
    sprout: Backbone, settings: Settings, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = write(sprout, settings, method, lessons(sprout), monkeypatch)
    *_, pair = found.train.pairs
    assert pair.chosen == tokens("Good day to you.") and sprout.decode([pair.rejected]) == ["La la la."]
    assert pair.feedback_ids == ("fb-told",) and pair.conversation_id == "conv"
    assert found.train.ai_pairs == () == found.train.revised and found.counts["written"]["revised_as_told"] == 1


@pytest.mark.parametrize(("says", "reason"), [("La la la.", SAME_TEXT), ("", SAME_TEXT), (None, NO_ROOM)])
def test_a_revision_that_came_to_nothing_is_counted_with_its_reason(
    sprout: Backbone, settings: Settings, says: str | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revising, "ask", Model(lambda request: says))
    found = write_or_go_on(sprout, settings, "auto", lessons(sprout), settings.home / "file", quiet)
    assert [pair.feedback_ids for pair in found.train.pairs] == [("fb-pair",)]
    assert found.counts["set_aside"] == {reason: 1} and reason in found.set_aside


def test_a_model_without_a_chat_template_keeps_the_critique_for_later(tmp_path: Path, settings: Settings) -> None:
    tiny = Backbone.load(build_tiny_model(tmp_path / "tiny"), LearnerSettings(rank=4))
    train = Snapshot(
        criticised=(Criticised((5, 6), (7, 1), "no", "c", "fb"),), conversations={(5, 6): (("user", "a"),)}
    )
    given = Curated(train, Snapshot(), {"set_aside": {}}, built_in_version())
    found = write_or_go_on(tiny, settings, "auto", given, tmp_path / "file", quiet)
    assert found.counts["set_aside"] == {NO_TEMPLATE: 1} and found.train.pairs == ()
    with pytest.raises(TrainingFailed, match="no chat template"):
        write_or_go_on(tiny, settings, "sl-cai", given, tmp_path / "another", quiet)


def test_a_killed_run_goes_on_from_the_file_and_another_does_not(
    sprout: Backbone, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write(sprout, settings, "auto", lessons(sprout), monkeypatch)
    monkeypatch.setattr(revising, "ask", Model(lambda request: "Something else."))
    path = settings.home / "constitution.jsonl"
    assert write_or_go_on(sprout, settings, "auto", lessons(sprout), path, quiet) == first
    changed = replace(lessons(sprout), train=replace(lessons(sprout).train, hash="cd"))
    other = write_or_go_on(sprout, settings, "auto", changed, path, quiet)
    assert other.train.pairs[-1].chosen != first.train.pairs[-1].chosen
    assert other.counts["written"]["sha256"] != first.counts["written"]["sha256"]


def test_where_there_is_nothing_to_write_nothing_is_written(sprout: Backbone, settings: Settings) -> None:
    plain = replace(lessons(sprout), train=replace(lessons(sprout).train, criticised=(), ai_pairs=()))
    path = settings.home / "constitution.jsonl"
    assert write_or_go_on(sprout, settings, "auto", plain, path, quiet) == plain and not path.exists()


def test_another_adapter_judges_in_a_role_of_its_own(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone.load(SPROUT, LearnerSettings(rank=4))
    before = backbone.adapter_state()
    backbone.save_adapter(settings.adapters_folder / "v3")
    by_v3 = settings.model_copy(update={"constitution": FEW.model_copy(update={"judge": "v3"})})
    found = write(backbone, by_v3, "rl-cai", lessons(backbone), monkeypatch)
    assert backbone.has("judge") and len(found.train.ai_pairs) > 4
    assert all(bool((backbone.adapter_state()[name] == value).all()) for name, value in before.items())
    assert {parameter.requires_grad for parameter in backbone.trainable()} == {True}
    shutil.rmtree(settings.adapters_folder / "v3")
    with pytest.raises(AdapterBroken):
        Backbone.load(SPROUT, LearnerSettings(rank=4)).add_judge(settings.adapters_folder / "v3", LearnerSettings())
