"""Rankings and scores as texts: what they become is what people's feedback becomes, and a method learns from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from learner.backbone import Backbone
from learner.batch import Label, Pair, Snapshot
from learner.methods import reward, rlhf
from learner.methods.raft import RaftResult
from learner.methods.reward_model import RewardFit
from learner.methods.rlhf import RlhfResult
from learner.on_texts import LearnedTexts, learn, learn_reward
from learner.text_examples import as_snapshot, read_examples
from service.errors import BadInput
from service.settings import SPROUT, LearnerSettings
from tests.learner.tiny_model import build_tiny_model

WORDS = ["one", "two", "three", "four", "five", "six", "blue", "you"]
ENOUGH: list[dict[str, Any]] = [
    {"prompt": f"what is {word} ?", "reply": "yes .", "score": 9 if len(word) < 4 else 2} for word in WORDS
]


def snapshot(*rows: dict[str, Any], room: int | None = None) -> tuple[Snapshot, int]:
    return as_snapshot(read_examples(rows), str(SPROUT), room)


def ids(text: str) -> tuple[int, ...]:
    tokenizer = AutoTokenizer.from_pretrained(SPROUT)
    return (*tokenizer(text).input_ids, tokenizer.eos_token_id)


def test_a_ranking_becomes_all_its_pairs_in_one_group() -> None:
    found, _ = snapshot({"prompt": "Hi", "order": ["A", ["B", "C"]], "failed": ["D"]}, {"prompt": "Hi", "reply": "E"})
    a, b, c, d = map(ids, "ABCD")
    pairs = {(pair.chosen, pair.rejected): pair for pair in found.pairs}
    assert set(pairs) == {(a, b), (a, c), (a, d), (b, c), (b, d), (c, d)}
    assert {pair.group for pair in found.pairs} == {"1"} and {pair.weight for pair in found.pairs} == {1 / 3}
    assert [pairs[two].margin for two in ((a, b), (a, d), (c, d))] == [1.0, 2.0, 1.0] and pairs[b, c].tie
    assert len(found.demonstrations) == 1 and len(found.prompts) == 1


def test_a_score_is_above_or_below_what_is_usual_and_several_to_one_prompt_make_pairs() -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "Hi", "reply": "A", "score": 10},
        {"prompt": "Bye", "reply": "B", "score": 2},
    ]
    found, _ = snapshot(*rows)
    usual = (10 + 2 + 2 * 5.5) / 4
    assert [(one.reply_token_ids, one.points) for one in found.scored] == [
        (ids("A"), 10 - usual),
        (ids("B"), 2 - usual),
    ]
    found, _ = snapshot(*rows, {"prompt": "Hi", "reply": "C", "score": 7})
    (pair,) = found.pairs
    assert (pair.chosen, pair.rejected, pair.margin, pair.tie) == (ids("A"), ids("C"), 1.0, False)
    assert [one.reply_token_ids for one in found.scored] == [ids("B")]


def test_a_ranking_with_one_reply_too_long_is_left_out_as_a_whole() -> None:
    found, too_long = snapshot({"prompt": "Hi", "order": ["A", "B", "C " * 99]}, room=64)
    assert (found.pairs, too_long) == ((), 1) and len(found.prompts) == 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"), context=512)


def test_a_reward_model_is_fitted_to_them(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = list[RewardFit]()

    def fit(
        backbone: Backbone, pairs: list[Pair], labels: list[Label], _: Any, settings: LearnerSettings, *more: Any
    ) -> RlhfResult:
        fits.append(reward.fit(backbone, pairs, labels, settings, more[1], more[2]).fit)
        return RlhfResult(fits[0], RaftResult(0, 0, 0, 0, 0, 0, 0))

    monkeypatch.setattr(rlhf, "train", fit)
    rows: list[dict[str, Any]] = [
        *ENOUGH,
        {"prompt": "what is red ?", "order": ["yes .", "no .", "it ."]},
        {"prompt": "what ?", "reply": "it ."},
    ]
    learned = learn("rloo", model, rows, tmp_path / "out")
    assert learned == LearnedTexts(("rloo",), learned_from=9, too_long=0, unused=1)
    assert (fits[0].scores, fits[0].pairs, fits[0].labels) == (8, 3, 0)


def test_scores_alone_are_left_out_where_no_reward_is_fitted(model: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*ENOUGH, {"prompt": "what is red ?", "order": ["yes .", "no ."]}]
    learned = learn("dpo", model, rows, tmp_path / "out", {"learner": {"dpo_on": "pairs"}})
    assert learned == LearnedTexts(("dpo",), learned_from=1, too_long=0, unused=8)


def judged(good: int, bad: int) -> list[dict[str, Any]]:
    return [{"prompt": f"what is {number} ?", "reply": "yes .", "good": number < good} for number in range(good + bad)]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (judged(8, 0), r"It takes pairs, or at least 4 good and 4 bad replies \(there are 8 good and 0 bad\)\.$"),
        (judged(3, 3), r"\(there are 3 good and 3 bad\)"),
        (ENOUGH[:6], r"or at least 4 scored above and 4 below .* \(there are 3 above and 3 below\)"),
        ([*judged(8, 0), *ENOUGH[:6]], r"\(there are 8 good and 0 bad\), or at least 4 scored above"),
        ([{"prompt": "Hi", "reply": "Hi."}], r"See docs/learning\.md"),
    ],
)
def test_where_single_replies_are_too_few_for_a_reward_it_is_said_how_many_it_takes(
    rows: list[dict[str, Any]], said: str, model: Path, tmp_path: Path
) -> None:
    nothing = "There is nothing in the data that {} learns from. .*"
    with pytest.raises(BadInput, match=nothing.format("ppo") + said):
        learn("ppo", model, rows, tmp_path / "out")
    with pytest.raises(BadInput, match=nothing.format("a reward model") + said):
        learn_reward(model, rows, tmp_path / "out")


def test_of_single_thumbs_auto_says_it_too(model: Path, tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"auto learns from: .* It takes corrections, pairs, or at least 4 good and 4 bad"
    ):
        learn("auto", model, judged(8, 0), tmp_path / "out")


def test_of_single_replies_a_method_that_never_learns_from_them_says_nothing(model: Path, tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"learns from: it holds 8 good replies\. It learns from corrections.*See docs/learning\.md"
    ):
        learn("sft", model, judged(8, 0), tmp_path / "out")
