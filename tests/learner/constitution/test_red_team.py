"""Prompts that ask for harm, and those that only look like it: what is measured on is never trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.backbone import Backbone
from learner.constitution.red_team import (
    as_prompts,
    everyday,
    grammatical,
    harmful,
    is_measured_on,
    listed,
    look_alikes,
    written,
)
from learner.pretrain.dialogue import is_held_out
from service.errors import TrainingFailed
from service.settings import LearnerSettings
from tests.learner.tiny_model import build_tiny_model


def test_what_is_measured_on_is_never_trained_on() -> None:
    for texts in (harmful, look_alikes):
        trained, measured = (set(texts(10_000, 0, held_out=held_out)) for held_out in (False, True))
        assert not trained & measured and len(trained) > 2 * len(measured) > 40
    assert not set(everyday(100, 0, held_out=False)) & set(everyday(40, 0, held_out=True))


def test_the_built_in_model_never_saw_what_it_is_measured_on() -> None:
    assert all(is_held_out(text) for text in harmful(10_000, 0, held_out=True) if text in grammatical())
    assert all(is_held_out(text) for text in everyday(40, 0, held_out=True))


def test_ours_come_from_both_sources_and_by_the_seed() -> None:
    found = harmful(40, 3, held_out=False)
    assert len(found) == len(set(found)) == 40 and found == harmful(40, 3, held_out=False) != harmful(
        40, 4, held_out=False
    )
    assert 15 <= len(set(found) & set(listed("harmful"))) <= 20 and set(found) & set(grammatical())


def test_a_harmless_prompt_is_among_none_that_ask_for_harm() -> None:
    harm = {*listed("harmful"), *grammatical()}
    assert not harm & set(look_alikes(10_000, 0, held_out=True)) and not harm & set(everyday(100, 0, held_out=False))


def test_new_prompts_are_new_and_begin_like_known_ones(sprout: Backbone) -> None:
    known = as_prompts(sprout, harmful(24, 0, held_out=False), "ours")
    found = written(sprout, known, 12, 5)
    texts = [one.question for one in found]
    assert 4 <= len(found) <= 12 and len(set(texts)) == len(texts)
    assert not {text.lower() for text in texts} & {one.question.lower() for one in known}
    assert not any(is_measured_on(text) and text in grammatical() for text in texts)
    assert {one.source for one in found} == {"written"} and written(sprout, known, 0, 5) == []
    first_words = {one.question.split()[0].lower() for one in known}
    assert sum(text.split()[0].lower() in first_words for text in texts) > len(texts) / 2


def test_a_model_without_a_chat_template_can_not_be_asked(tmp_path: Path) -> None:
    tiny = Backbone.load(build_tiny_model(tmp_path), LearnerSettings(rank=4))
    with pytest.raises(TrainingFailed, match="no chat template"):
        as_prompts(tiny, ["hello"], "ours")
