"""What of the examples that the model wrote is learned, and what is left out of them."""

from __future__ import annotations

from random import Random

import pytest

from learner.backbone import Backbone
from learner.constitution import revising
from learner.constitution.asking import Request, question
from learner.constitution.dropped import UNMENDED
from learner.constitution.writing import write_or_go_on
from learner.methods import rl_cai
from service.settings import Settings
from tests.learner.constitution.toy import Model, Scale, line
from tests.learner.constitution.written import judged_by, lessons, quiet, sensible, write
from tests.learner.constitution.written import settings as settings
from tests.learner.constitution.written import sprout as sprout


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
    assert found.counts["written"]["dropped"][UNMENDED] == 1
