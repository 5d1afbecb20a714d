"""The evaluation and the model card it is written into."""

from __future__ import annotations

from itertools import islice

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from learner.pretrain.card import model_card
from learner.pretrain.dialogue import dialogues
from learner.pretrain.evaluate import LATE_TURNS, Bench, as_json, by_turn, clear_verdicts, conversation, evaluate
from learner.pretrain.tokenizer import train_tokenizer
from learner.pretrain.train import Recipe, build_model


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(islice(dialogues(7), 600))


@pytest.fixture(scope="module")
def untrained(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return build_model(Recipe(hidden=32, layers=1, heads=2, kv_heads=1, intermediate=64), tokenizer)


def test_a_model_that_was_never_trained_is_right_about_nothing_and_judges_like_a_coin(
    untrained: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    bench = Bench(untrained.eval(), tokenizer, size=40)
    assert by_turn(bench) == {f"turn {turn}": 0.0 for turn in LATE_TURNS}
    assert set(conversation(bench).values()) == {0.0}
    assert 0.3 < clear_verdicts(bench)["all"][0] < 0.7


def test_the_card_shows_late_turns_new_names_and_both_kinds_of_verdicts(
    untrained: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    figures = evaluate(untrained, tokenizer, size=8)
    training = dict.fromkeys(
        ("parameters", "layers", "hidden", "heads", "kv_heads", "vocab", "context", "tokens", "minutes", "steps",
         "practised", "seed", "sharpness"), 1)  # fmt: skip
    card = model_card(figures, training)
    for turn in LATE_TURNS:
        assert f"| turn {turn} |" in card
    for words in (
        "new name after 20 other turns",
        "a story goes on with its hero",
        "clear cases are right",
        "| polite |",
    ):
        assert words in card
    assert '"by turn"' in as_json(figures)
