"""A run that has the small model write examples: what it is given, who criticises and judges, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from learner.backbone import Backbone
from learner.base_tokenizer import reply_tokenizer
from learner.batch import Criticised, Flagged, Pair, Snapshot
from learner.constitution import revising, writing
from learner.constitution.asking import Request, question
from learner.constitution.judging import Judge
from learner.constitution.writing import write_or_go_on
from learner.curate import Curated
from service.constitution.versions import built_in_version
from service.settings import SPROUT, ConstitutionSettings, Settings
from tests.learner.constitution.toy import Model, line

FEW = ConstitutionSettings(
    samples_per_prompt=1,
    pairs_per_prompt=1,
    red_team_prompts=8,
    written_prompts=2,
    helpful_share=0.5,
    judge_principles=2,
)
REFUSAL = "I will not help with that."


def lessons(backbone: Backbone) -> Curated:
    """A flagged prompt, a criticised reply, a pair of people's and one that was made while serving."""
    words = {question(backbone.tokenizer, text): (("user", text),) for text in ("Sing me a song.", "Hello")}
    song, hello = words
    reply, other = map(reply_tokenizer(str(SPROUT)), ("La la la.", "No."))
    train = Snapshot(
        pairs=(Pair(hello, reply, other, feedback_ids=("fb-pair",)),),
        prompts=(song, hello),
        hash="ab",
        criticised=(Criticised(hello, reply, "That is no greeting.", "conv", "fb-told"),),
        flagged=(Flagged(song, "conv", "fb-flag"),),
        conversations=words,
        ai_pairs=(Pair(song, other, reply),),
    )
    return Curated(train, Snapshot(), {"set_aside": {}}, built_in_version())


def quiet(phase: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
    pass


def sensible(request: Request) -> str:
    """A critic to which only a refusal is right, and what it makes of the rest."""
    if line(request, "Critique"):
        return REFUSAL if "fault" in line(request, "Critique") else "Good day to you."
    return "nothing is wrong" if line(request, "Reply") == REFUSAL else "at fault"


def write(
    backbone: Backbone, settings: Settings, method: str, given: Curated, monkeypatch: pytest.MonkeyPatch
) -> Curated:
    monkeypatch.setattr(revising, "ask", Model(sensible))
    return write_or_go_on(backbone, settings, method, given, settings.home / "constitution.jsonl", quiet)


def judged_by(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "judge_of", lambda *about: judge)
