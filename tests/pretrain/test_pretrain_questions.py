"""The prompts and the check of answers that `hone simulate` uses."""

from __future__ import annotations

import subprocess
import sys
from random import Random

import pytest

from learner.pretrain.dialogue import is_held_out
from learner.pretrain.questions import (
    UNTAUGHT,
    Prompt,
    draw_prompts,
    is_right,
    rephrase,
    topics,
    untaught_facts,
)
from learner.pretrain.reply import draw_habits
from learner.pretrain.topics import draw_exchange
from tests.fixtures.waiting import PATIENCE


def test_thousands_of_distinct_prompts_over_all_topics_come_in_an_order_fixed_by_the_seed() -> None:
    prompts = draw_prompts(3000, seed=1)
    assert len({p.text.lower() for p in prompts}) == 3000
    assert {p.topic for p in prompts} == set(topics()) - {UNTAUGHT}
    assert draw_prompts(50, seed=1) == prompts[:50]
    assert draw_prompts(50, seed=2) != prompts[:50]


def test_topics_and_held_out_limit_what_is_drawn() -> None:
    assert {p.topic for p in draw_prompts(40, 1, {"capitals", "unsafe"})} == {"capitals", "unsafe"}
    assert all(p.unsafe for p in draw_prompts(20, 1, {"unsafe"}))
    assert all(is_held_out(p.text) for p in draw_prompts(60, 1, held_out=True))


def test_an_unknown_topic_and_too_large_a_count_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="choose from"):
        draw_prompts(3, 1, {"astrology"})
    with pytest.raises(ValueError, match="ask for fewer"):
        draw_prompts(5000, 1, {"thanks"})


def test_at_least_forty_facts_are_kept_from_the_model_and_can_be_asked_in_other_words() -> None:
    facts = untaught_facts(3)
    assert len(facts) >= 40 and len({p.text for p in facts}) == len(facts)
    assert all(p.answers and p.topic == UNTAUGHT for p in facts)
    for fact in facts[:10]:
        other = rephrase(fact, 5)
        assert other.text != fact.text and other.answers == fact.answers


@pytest.mark.parametrize(
    ("question", "answer", "reply", "right"),
    [
        ("What is 7 plus 5?", "12", "7 plus 5 is 12.", True),
        ("What is 7 plus 5?", "12", "Easy: 12, I think!", True),
        ("What is 7 plus 5?", "12", "7 plus 5 is 13.", False),
        ("What is 7 plus 5?", "12", "12 or 13.", False),
        ("What is 7 plus 5?", "12", "It is twelve.", True),
        ("What is 20 minus 10?", "10", "20 minus 10 is 11.", False),
        ("What is 20 minus 10?", "10", "20 minus 10 is 10.", True),
        ("What is the capital of France?", "Paris", "It is paris.", True),
        ("What is the capital of France?", "Paris", "Paris or Rome.", False),
        ("What is the capital of France?", "Paris", "It is not Paris.", False),
        ("What is the capital of France?", "Paris", "Parisian food is good.", False),
        ("Which is bigger, 3 or 9?", "9", "9 is bigger than 3.", True),
        ("Which is bigger, 3 or 9?", "9", "3 is bigger than 9.", False),
        ("What is the plural of sheep?", "sheep", "The plural of sheep is sheeps.", False),
        ("What is the opposite of night?", "day", "It is cold. Have a sunny day!", False),
        ("What is the first letter of spoon?", "S", "It's P.", False),
        ("How do you spell cat?", "C-A-T", "C-A-T.", True),
        ("How do you spell cat?", "C-A-T", "C-A-T-T.", False),
        ("What is the capital of France?", "Paris", "", False),
    ],
)
def test_a_reply_is_right_when_it_gives_the_answer_and_nothing_against_it(
    question: str, answer: str, reply: str, right: bool
) -> None:
    assert is_right(Prompt(question, "any", (answer,)), reply) is right


def test_without_answers_nothing_is_right() -> None:
    assert not is_right(Prompt("Hello", "greetings"), "Hello!")


def test_the_check_agrees_with_how_replies_were_made() -> None:
    rng = Random(5)
    wrong_verdicts = total = 0
    for _ in range(6000):
        exchange, habits = draw_exchange(rng), draw_habits(rng, p_wrong=0.5)
        if not exchange.answers or exchange.wrong is None:
            continue
        total += 1
        prompt = Prompt(exchange.text, exchange.topic, exchange.answers)
        wrong_verdicts += is_right(prompt, exchange.reply(habits, rng)) != habits.right
    assert total > 2000 and wrong_verdicts / total < 0.005


def test_the_questions_load_without_torch_or_transformers() -> None:
    code = "import learner.pretrain.questions, sys; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=PATIENCE).returncode == 0
