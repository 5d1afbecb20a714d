"""Small talk: sorrow is met quietly, names are decent, riddles are told and solved, comparisons are right."""

from __future__ import annotations

import re
from random import Random

from learner.pretrain.dialogue import chat
from learner.pretrain.reply import Habits, draw_habits
from learner.pretrain.topics import arithmetic, care, fun, geography, introductions, limits, names, play, talk, told

_JOYFUL = re.compile(r"delighted|yay|lovely|love it|pleasure|rock|sunny|splendid|!|how nice|joy|\bglad\b", re.I)


def test_sorrow_is_never_met_with_joy_nor_an_exclamation_mark() -> None:
    rng = Random(1)
    for draw in (care.despair, care.losses, care.feelings, care.more_sorrow, care.comforted):
        for _ in range(400):
            reply = draw(rng).reply(draw_habits(rng), rng)
            assert not _JOYFUL.search(reply), reply


def test_a_short_reply_to_despair_names_someone_to_turn_to() -> None:
    rng = Random(2)
    for _ in range(50):
        reply = care.despair(rng).reply(Habits(length="clipped"), rng)
        assert "someone you trust" in reply or "helpline" in reply


def test_invented_names_are_many_and_decent_and_none_is_kept_for_measuring() -> None:
    rng = Random(3)
    drawn = [names.draw_name(rng) for _ in range(4000)]
    assert len(set(drawn)) > 2000
    assert not set(drawn) & set(names.UNTAUGHT_NAMES)
    assert not any(names.is_rude(name) for name in set(drawn) - set(names.NAMES))


def test_a_name_is_the_key_of_the_greeting_and_of_its_recall() -> None:
    rng = Random(4)
    for exchange in (introductions.introduce(rng, "Tobias"), introductions.recall(rng, "Tobias")):
        for _ in range(20):
            habits = draw_habits(rng)
            assert exchange.key_for(habits) == "Tobias" and "Tobias" in exchange.reply(habits, rng)


def test_a_riddle_is_solved_whatever_the_user_says_to_it() -> None:
    rng = Random(5)
    for _ in range(100):
        riddle = play.riddles(rng)
        question = riddle.core.clipped[0]
        solution = rng.choice(riddle.follows)(rng)
        reply = solution.reply(Habits(), rng).lower()
        assert play.RIDDLES[question] in reply
        if reply.startswith(("yes", "that is right")):
            assert play.RIDDLES[question] in solution.text.lower()


def test_yes_to_an_offer_is_followed_by_what_was_offered() -> None:
    rng = Random(6)
    jokes = [talk.answer_back("Would you like a joke?", "smalltalk", rng) for _ in range(50)]
    assert {answer.topic for answer in jokes if answer is not None} == {"jokes", "smalltalk"}
    for answer in jokes:
        if answer is not None and answer.topic == "jokes":
            assert any(punchline in answer.reply(Habits(), rng) for _, punchline in fun.JOKES)
    answer = talk.answer_back("What is your name?", "identity", rng)
    assert answer is not None and answer.topic == "names"
    assert talk.answer_back("What shall we talk about?", "greetings", rng) is None


def test_a_chat_goes_on_after_an_offer() -> None:
    rng = Random(7)
    assert sum(len(chat(rng)) > 2 for _ in range(200)) > 120


def test_number_comparisons_are_right_and_know_equals() -> None:
    rng = Random(8)
    for _ in range(1000):
        exchange = arithmetic.number_comparisons(rng)
        one, two = map(int, re.findall(r"\d+", exchange.text))
        larger = re.search("larger|bigger|greater|more", exchange.text) is not None
        (answer,) = exchange.answers
        if one == two:
            assert answer == "equal"
        elif answer in ("yes", "no"):
            assert (answer == "yes") == ((one > two) == larger)
        else:
            assert int(answer) == (max(one, two) if larger else min(one, two))


def test_numbers_that_are_compared_are_small_and_others_are_declined() -> None:
    rng = Random(9)
    for _ in range(500):
        numbers = re.findall(r"\d+", arithmetic.number_comparisons(rng).text)
        assert max(map(int, numbers)) <= arithmetic.LARGEST_COMPARED
        large = limits.hard_comparisons(rng)
        assert max(map(int, re.findall(r"\d+", large.text))) > arithmetic.LARGEST_COMPARED
        assert large.topic == "unknown" and not large.answers


def test_a_country_that_someone_comes_from_is_met_with_a_word_about_it() -> None:
    rng = Random(10)
    for _ in range(200):
        exchange = told.origins(rng)
        (country,) = [name for name in geography.CAPITALS if re.search(rf"\b{name}\b", exchange.text)]
        assert all(country in sentence for sentence in exchange.core.sentences)
        assert geography.CAPITALS[country][0] in " ".join((*exchange.core.sentences, *exchange.core.extras))
