"""What the base answers is found in its own replies, and a reply that turns a choice round doesn't hold it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from learner.backbone import Backbone
from learner.batch import TokenIds
from learner.methods.answers import Answer, Answers, answer_tokens, answers, share_agreed
from learner.sampling import Reply
from service.settings import LearnerSettings
from tests.learner.tiny_model import ids

PARIS, COLOUR, CHOICE, LIST = (ids(f"<bos> {text} ?") for text in ("one green", "two", "red blue", "three four"))
CHOSEN = Answer(frozenset({"red"}), "red", frozenset({"blue", "red"}))


@pytest.fixture
def backbone(folder: Path) -> Backbone:
    return Backbone.load(folder, LearnerSettings())


def found(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, said: Mapping[TokenIds, Sequence[str]]
) -> Mapping[TokenIds, Answer]:
    def sampled(backbone: Backbone, prompts: Sequence[TokenIds], **_: object) -> list[list[Reply]]:
        return [[Reply(0, ids(text, end=True), -1.0, True) for text in said[prompt]] for prompt in prompts]

    monkeypatch.setattr("learner.methods.answers.sample", sampled)
    monkeypatch.setattr("learner.methods.answers.ANSWERS", 4)
    return answers(backbone, [*said, *said], seed=1)


def test_the_answer_is_what_the_base_says_again_and_again(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        PARIS: ["paris green", "paris yes", "paris", "paris"],
        COLOUR: ["two green", "three rome", "green", "yes"],
        CHOICE: ["red yes blue", "red", "red blue", "rome red blue"],
        LIST: ["three four", "four three", "three four", "four three"],
    }
    by_prompt = found(backbone, monkeypatch, said)
    assert by_prompt[PARIS] == Answer(frozenset({"paris"}), firm=True)
    assert by_prompt[COLOUR] == Answer()
    assert by_prompt[CHOICE].words == {"red", "blue"} and by_prompt[CHOICE].first == "red"
    assert {"red", "blue"} <= by_prompt[CHOICE].named
    assert by_prompt[CHOICE].firm is False, "one reply didn't name the other"
    assert by_prompt[LIST] == Answer(frozenset({"three", "four"}), firm=True), "in either order"


def test_a_choice_that_is_turned_round_is_not_held() -> None:
    both: Answers = {CHOICE: CHOSEN, LIST: Answer(frozenset({"three", "four"})), COLOUR: Answer()}
    replies = [(CHOICE, "Red is more than blue."), (CHOICE, "Blue is more than red."), (CHOICE, "Red."), (CHOICE, "I")]
    replies += [(LIST, "four"), (LIST, "Four, three"), (COLOUR, "anything"), (PARIS, "anything")]
    shares = share_agreed([text for _, text in replies], [prompt for prompt, _ in replies], both)
    assert shares.tolist() == [1, 0, 1, 0, 0.5, 1, 1, 1]


def test_an_answer_survives_json() -> None:
    for answer in (CHOSEN, Answer(), Answer(frozenset({"paris"}), firm=True)):
        assert Answer.from_parts(*json.loads(json.dumps(answer.parts))) == answer
    assert Answer.from_parts(["paris"]) == Answer(frozenset({"paris"})), "as it was kept before there were choices"


def test_the_tokens_of_an_answer_are_those_of_its_words_and_of_the_word_before(backbone: Backbone) -> None:
    reply = ids("paris one two red one red", end=True)
    of_red = [False, False, True, True, True, True, False]
    assert answer_tokens(backbone, reply, Answer(frozenset({"red", "blue"}))) == of_red
    assert answer_tokens(backbone, reply, CHOSEN) == of_red
    assert answer_tokens(backbone, reply, Answer(frozenset({"paris"}))) == [True, *[False] * 6]
    assert answer_tokens(backbone, reply, Answer()) == [False] * 7
    assert answer_tokens(backbone, (), CHOSEN) == []
