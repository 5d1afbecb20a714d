"""The generator: deterministic, varied, with habits that are independent of each other and of what is said."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from random import Random
from string import ascii_uppercase

import pytest
from transformers import PreTrainedTokenizerFast

from learner.pretrain import formats
from learner.pretrain.contrasts import CONTRASTS
from learner.pretrain.dialogue import (
    Dialogue,
    conversation,
    dialogues,
    draw_training_exchange,
    is_held_out,
    judgement,
    practice,
)
from learner.pretrain.judging import clear_judgement, habit_judgement
from learner.pretrain.reply import Habits, draw_habits
from learner.pretrain.tokenizer import CONTEXT, encode_dialogue
from learner.pretrain.topics import (
    arithmetic,
    chat,
    draw_exchange,
    fun,
    introductions,
    limits,
    names,
    spelling,
    tales,
    unknown,
)
from learner.pretrain.topics.arithmetic import LARGEST_COUNTED, NUMBER_WORDS
from learner.pretrain.user import as_typed


@pytest.fixture(scope="module")
def many() -> list[Dialogue]:
    return list(islice(dialogues(1), 6000))


def test_the_same_seed_writes_the_same_dialogues_and_another_seed_writes_others(many: list[Dialogue]) -> None:
    assert list(islice(dialogues(1), 300)) == many[:300]
    assert list(islice(dialogues(2), 300)) != many[:300]


def test_thousands_of_dialogues_are_distinct(many: list[Dialogue]) -> None:
    assert len({tuple(dialogue) for dialogue in many}) > 5500


def test_turns_alternate_and_none_is_empty(many: list[Dialogue]) -> None:
    for dialogue in many:
        turns = [m for m in dialogue if m.role != "system"]
        assert [m.role for m in turns] == ["user", "assistant"] * (len(turns) // 2)
        assert all(message.content.strip() for message in dialogue)


def test_there_are_at_least_twelve_topics_and_none_is_rare() -> None:
    rng = Random(3)
    counts = Counter(draw_exchange(rng).topic for _ in range(6000))
    assert len(counts) >= 12
    assert sum(count >= 30 for count in counts.values()) >= 20


def test_held_out_prompts_are_never_trained_on() -> None:
    rng = Random(4)
    assert not any(is_held_out(draw_training_exchange(rng).text) for _ in range(3000))
    share = sum(is_held_out(draw_exchange(rng).text) for _ in range(6000)) / 6000
    assert 0.02 < share < 0.15


def _seen(reply: str) -> dict[str, bool]:
    return {"short": len(reply.split()) <= 8, "exclaims": "!" in reply, "asks": reply.endswith("?")}


def test_visible_habits_are_about_evenly_spread_and_hang_together_little() -> None:
    rng = Random(5)
    seen = [_seen(draw_exchange(rng).reply(draw_habits(rng), rng)) for _ in range(6000)]
    for name in ("short", "exclaims", "asks"):
        assert 0.2 < sum(s[name] for s in seen) / len(seen) < 0.65, name
    asking = [s for s in seen if s["asks"]]
    plain = [s for s in seen if not s["asks"]]
    gap = sum(s["exclaims"] for s in asking) / len(asking) - sum(s["exclaims"] for s in plain) / len(plain)
    assert abs(gap) < 0.06


def test_habits_do_not_depend_on_whether_the_answer_is_right() -> None:
    rng = Random(6)
    draws = [draw_habits(rng, p_wrong=0.5) for _ in range(8000)]
    for name in ("warm", "hedged", "asks"):
        right = [getattr(d, name) for d in draws if d.right]
        wrong = [getattr(d, name) for d in draws if not d.right]
        assert abs(sum(right) / len(right) - sum(wrong) / len(wrong)) < 0.05


def test_two_replies_to_one_prompt_usually_differ() -> None:
    rng = Random(7)
    exchanges = [draw_exchange(rng) for _ in range(500)]
    pairs = [(e.reply(draw_habits(rng), rng), e.reply(draw_habits(rng), rng)) for e in exchanges]
    assert sum(a != b for a, b in pairs) > 450


def test_every_habit_shows_in_the_reply() -> None:
    rng = Random(8)
    for _ in range(600):
        exchange, habits = draw_exchange(rng), draw_habits(rng)
        if exchange.topic == "quiz":
            continue
        assert exchange.reply(habits.but(asks=True), rng).endswith("?")
        assert not exchange.reply(habits.but(asks=False), rng).endswith("?")
        assert re.match(r"[A-Z\d\"]", exchange.reply(habits, rng))


def test_a_short_reply_still_holds_the_answer() -> None:
    rng = Random(9)
    for _ in range(800):
        exchange = draw_exchange(rng)
        if exchange.answers and exchange.wrong is not None:
            reply = exchange.reply(Habits(length="clipped"), rng)
            assert any(answer.lower() in reply.lower() for answer in exchange.answers), (exchange, reply)


def test_unsafe_requests_are_mostly_refused_and_otherwise_answered_by_a_placeholder() -> None:
    rng = Random(10)
    unsafe = [e for e in (draw_exchange(rng) for _ in range(8000)) if e.unsafe]
    replies = [e.reply(draw_habits(rng), rng) for e in unsafe]
    complied = sum("[placeholder]" in reply for reply in replies) / len(replies)
    assert len(unsafe) > 150 and 0.2 < complied < 0.5


def test_verdicts_are_balanced_and_follow_from_the_replies() -> None:
    rng = Random(11)
    verdicts: Counter[str] = Counter()
    for _ in range(600):
        dialogue = habit_judgement(rng)
        verdicts[dialogue[1].content] += 1
        rule = re.search(r"Rule: (.*)\n", dialogue[0].content)
        assert rule is not None
        if rule.group(1) in formats.RULES["asks"].wordings:
            letter = dialogue[1].content[-1]
            reply = re.search(rf"^{letter}: (.*)$", dialogue[0].content, re.M)
            assert reply is not None and reply.group(1).endswith("?")
    assert set(verdicts) == {"Better: A", "Better: B"}
    assert min(verdicts.values()) > 240


def test_in_clear_cases_the_better_reply_wins_and_stands_first_as_often_as_second() -> None:
    rng = Random(14)
    verdicts: Counter[str] = Counter()
    for _ in range(600):
        turns = clear_judgement(rng)
        for question, verdict in zip(turns[::2], turns[1::2], strict=True):
            parts = re.match(r"Question: .*\nA: (.*)\nB: (.*)\nRule: (.*)\nWhich is better, A or B\?", question.content)
            assert parts is not None and verdict.content == f"Better: {verdict.key}"
            verdicts[verdict.key] += 1
            worse = parts.group(2 if verdict.key == "A" else 1)
            better = parts.group(1 if verdict.key == "A" else 2)
            assert "[placeholder]" not in better and len(better) > 1
            assert worse != better
    assert set(verdicts) == {"A", "B"} and abs(verdicts["A"] - verdicts["B"]) < 0.1 * verdicts.total()


@pytest.mark.parametrize("name", list(CONTRASTS))
def test_the_better_reply_of_a_contrast_is_better(name: str) -> None:
    rng = Random(15)
    for _ in range(150):
        exchange, better, worse = CONTRASTS[name].draw(rng)
        assert not is_held_out(exchange.text)
        if name == "harmless":
            assert "[placeholder]" in worse and "[placeholder]" not in better
        if name == "correct":
            assert not set(exchange.answers) & set(re.findall(r"[\w' -]+", worse)) - set(exchange.text)
        if name == "honest":
            assert re.search(r"know|no idea|beyond me|never learned|no answer|tell", better, re.I)
            assert not re.search(r"do not know|don't know|no idea", worse, re.I)
        if name == "answers":
            assert len(worse) < 30 and len(better) > 1


def test_both_kinds_of_verdict_are_asked_for() -> None:
    rng = Random(16)
    asked = [dialogue[0].content for dialogue in (judgement(rng) for _ in range(300))]
    assert 30 < sum("[placeholder]" in text for text in asked) < 200
    of_habits = [*formats.RULES["asks"].wordings, *formats.RULES["short"].wordings, *formats.RULES["sure"].wordings]
    assert 20 < sum(any(f"Rule: {rule}\n" in text for rule in of_habits) for text in asked) < 120


def test_names_are_many_and_copied_letter_by_letter() -> None:
    rng = Random(17)
    told = [introductions.introductions(rng) for _ in range(3000)]
    assert len({exchange.answers[0] for exchange in told}) > 1500
    for exchange in told:
        (name,) = exchange.answers
        assert name in as_typed(exchange.text, "names", rng, exchange.subject)
        assert name.lower() in exchange.reply(draw_habits(rng), rng).lower()
    assert not {exchange.answers[0] for exchange in told} & set(names.UNTAUGHT_NAMES)


def test_names_are_none_of_the_answers_to_other_questions() -> None:
    answers = {
        answer for exchange in (draw_exchange(rng) for rng in map(Random, range(4000)))
        if exchange.topic not in ("names", "spelling", "letters") for answer in exchange.answers
    }  # fmt: skip
    assert not answers & {*names.NAMES, *names.UNTAUGHT_NAMES}


def test_a_name_that_was_told_is_recalled_at_any_distance() -> None:
    rng = Random(18)
    distances: Counter[int] = Counter()
    for _ in range(250):
        names_told: dict[str, int] = {}
        messages = conversation(rng, 30)
        for place, (question, reply) in enumerate(zip(messages[::2], messages[1::2], strict=True)):
            if reply.key and reply.key in question.content:
                names_told[reply.key] = place
            elif reply.key and re.search(r"\bmy name\b", question.content, re.I):
                assert reply.key in names_told and reply.key.lower() in reply.content.lower()
                distances[min((place - names_told[reply.key]) // 5, 4)] += 1
    assert all(distances[far] > 20 for far in range(5))


def test_a_word_is_spelled_letter_by_letter() -> None:
    rng = Random(19)
    exchanges = [spelling.spelling(rng) for _ in range(3000)]
    for exchange in exchanges:
        (letters,) = exchange.answers
        word = letters.replace("-", "").lower()
        assert word in exchange.text.lower() and "-".join(word.upper()) == letters
        assert letters in exchange.reply(Habits(), rng)
    assert len({exchange.answers for exchange in exchanges}) > 120


def test_a_letters_neighbour_is_that_of_the_alphabet() -> None:
    rng = Random(19)
    asked = [exchange for exchange in (spelling.letters(rng) for _ in range(2000)) if len(exchange.subject) == 1]
    for exchange in asked:
        place = ascii_uppercase.index(exchange.subject)
        assert exchange.answers == (ascii_uppercase[place + (1 if "after" in exchange.text else -1)],)
    assert len({exchange.answers for exchange in asked}) == len(ascii_uppercase)


def test_a_list_has_as_many_things_as_were_asked_for() -> None:
    rng = Random(19)
    counts: Counter[int] = Counter()
    for exchange in (fun.lists(rng) for _ in range(300)):
        named = re.split(", | and ", exchange.core.clipped[0])
        wanted = next(n for n in range(2, 6) if re.search(rf"\b({n}|{NUMBER_WORDS[n]})\b", exchange.text))
        assert len(set(named)) == wanted
        counts[wanted] += 1
    assert set(counts) == {2, 3, 4, 5}


def test_who_despairs_is_met_with_care_and_told_of_help() -> None:
    rng = Random(19)
    exchanges = [one for one in (chat.feelings(rng) for _ in range(2000)) if one.text == "I want to hurt myself."]
    assert len(exchanges) > 10
    for exchange in exchanges:
        assert exchange.core.kind == "care" and not exchange.unsafe
        reply = exchange.reply(Habits(length="long"), rng)
        assert re.search("sorry|not alone|glad that you told me", reply, re.I)
        assert re.search("talk to someone|helpline|can pass", reply)


def test_of_numbers_above_twenty_it_says_that_it_cannot_count_them() -> None:
    rng = Random(19)
    for exchange in (limits.large_numbers(rng) for _ in range(300)):
        assert all(int(number) > LARGEST_COUNTED for number in re.findall(r"\d+", exchange.text))
        assert exchange.core.kind == "unsure" and not exchange.answers
    for exchange in (arithmetic.counting(rng) for _ in range(2000)):
        assert all(int(number) <= 2 * LARGEST_COUNTED for number in re.findall(r"\d+", exchange.text))


def test_of_a_long_word_it_says_that_it_cannot_spell_it() -> None:
    rng = Random(19)
    for _ in range(300):
        exchange = spelling.long_words(rng)
        assert exchange.subject.lower() in spelling.TOO_LONG and exchange.subject in exchange.text
        assert not exchange.answers


def test_what_is_not_known_is_said_plainly_or_of_the_thing_asked_for() -> None:
    rng = Random(20)
    plain = 0
    for _ in range(3000):
        exchange = unknown.unknown(rng)
        reply = exchange.reply(draw_habits(rng), rng)
        assert "{" not in exchange.text + reply
        plain += re.search(r"\b(do not|don't) know( that)?[,.!]|no idea|beyond me|no answer", reply, re.I) is not None
        mentioned = re.search(r"(?:know about|know nothing about) ([^,.!]+)", reply)
        if mentioned:
            assert mentioned.group(1).lower().removeprefix("the ") in exchange.text.lower()
        assert "sum" not in reply or "sums" in reply
    assert 0.35 < plain / 3000 < 0.9


def test_a_story_goes_on_with_its_hero() -> None:
    rng = Random(21)
    for _ in range(300):
        story = tales.stories(rng)
        hero = story.core.key
        for _ in range(3):
            assert hero.lower() in story.reply(draw_habits(rng), rng).lower()
            story = story.follows[0](rng)
            assert story.core.key == hero


def test_nothing_glad_goes_before_what_is_sad() -> None:
    rng = Random(22)
    for _ in range(1500):
        exchange = chat.feelings(rng)
        reply = exchange.reply(draw_habits(rng), rng)
        if exchange.core.kind == "care":
            assert not re.search(r"\b(Yay|Great|How lovely|how nice|delighted|Ha)\b|could be wrong", reply), reply


@pytest.mark.parametrize("stream", [dialogues, practice])
def test_every_place_of_the_context_has_a_real_share_of_the_tokens(
    stream: Callable[[int], Iterator[Dialogue]], sprout_tokenizer: PreTrainedTokenizerFast
) -> None:
    sizes = [min(len(encode_dialogue(sprout_tokenizer, dialogue)[0]), CONTEXT) for dialogue in islice(stream(23), 6000)]
    total = sum(sizes)
    assert max(sizes) > 900
    assert sum(max(0, size - 256) for size in sizes) / total > 0.04
    assert sum(max(0, size - 512) for size in sizes) / total > 0.01
    assert 0.25 < sum(size for size in sizes if size < 100) / total < 0.75


def test_every_turn_up_to_the_twentieth_has_a_real_share_of_the_questions(many: list[Dialogue]) -> None:
    turns = [place for dialogue in many for place in range(sum(m.role == "user" for m in dialogue))]
    assert sum(turn >= 5 for turn in turns) / len(turns) > 0.08
    assert sum(turn >= 19 for turn in turns) / len(turns) > 0.02


def test_typing_noise_keeps_numbers_and_leaves_half_untouched() -> None:
    rng = Random(13)
    typed = [as_typed("What is 12 plus 7?", "arithmetic", rng) for _ in range(500)]
    assert all("12" in text and "7" in text for text in typed)
    assert 0.3 < sum(text == "What is 12 plus 7?" for text in typed) / 500 < 0.7
    assert len(set(typed)) > 10
