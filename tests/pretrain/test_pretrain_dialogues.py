"""The generator: deterministic, varied, with habits that are independent of each other and of what is said."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from random import Random

import pytest

from learner.pretrain.dialogue import Dialogue, conversation, draw_training_exchange, is_held_out
from learner.pretrain.repeating import echo
from learner.pretrain.reply import Habits, draw_habits
from learner.pretrain.stream import dialogues
from learner.pretrain.topics import draw_exchange
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


def test_with_the_same_luck_another_habit_changes_only_the_words_that_show_it() -> None:
    rng = Random(14)
    for _ in range(400):
        exchange, habits, luck = draw_exchange(rng), draw_habits(rng), rng.getrandbits(64)
        asking = exchange.reply(habits.but(asks=True), Random(luck))
        assert asking == exchange.reply(habits.but(asks=True), Random(luck))
        if exchange.topic != "quiz":
            assert asking.startswith(exchange.reply(habits.but(asks=False), Random(luck)))


def test_what_is_to_be_repeated_is_repeated_as_it_is() -> None:
    rng = Random(15)
    for _ in range(300):
        asked, said = echo(rng)
        assert asked.content.endswith(said.content) and said.content
    again = ("say that again", "repeat", "pardon", "what did you say")
    repeated = 0
    for _ in range(400):
        messages = conversation(rng, 4)
        for last, asked, said in zip(messages[1::2], messages[2::2], messages[3::2], strict=False):
            if any(word in asked.content.lower() for word in again):
                repeated += 1
                assert said == last
    assert repeated > 20


def test_long_conversations_reach_towards_the_end_of_the_context() -> None:
    rng = Random(12)
    lengths = [sum(len(m.content.split()) for m in conversation(rng, 26)) for _ in range(20)]
    assert max(lengths) > 300


def test_typing_noise_keeps_numbers_and_leaves_half_untouched() -> None:
    rng = Random(13)
    typed = [as_typed("What is 12 plus 7?", "arithmetic", rng) for _ in range(500)]
    assert all("12" in text and "7" in text for text in typed)
    assert 0.3 < sum(text == "What is 12 plus 7?" for text in typed) / 500 < 0.7
    assert len(set(typed)) > 10
