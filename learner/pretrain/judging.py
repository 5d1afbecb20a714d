"""Dialogues in the judgement formats of `formats`: critique, revision, and verdicts on two replies."""

from __future__ import annotations

from random import Random

from learner.pretrain import formats
from learner.pretrain.contrasts import BETTER, draw_contrast
from learner.pretrain.reply import Exchange, draw_habits
from learner.pretrain.turns import Dialogue, Message, draw_training_exchange

_CLEAR_SHARE = 0.7
"""Of the verdicts' dialogues, those on replies of which one is clearly better; the others are on habits."""


def _judged_exchange(rng: Random) -> Exchange:
    while (exchange := draw_training_exchange(rng)).topic in ("noise", "farewell", "thanks"):
        pass
    return exchange


def critique(rng: Random) -> Dialogue:
    """Criticise a reply under a rule that it breaks, or keeps."""
    good = rng.random() < 0.35
    if rng.random() < 0.5:
        contrast = draw_contrast(rng)
        exchange, better, worse = contrast.draw(rng)
        reply, rule = better if good else worse, contrast.rule
    else:
        exchange = _judged_exchange(rng)
        aspect = rng.choice(formats.aspects_for(exchange))
        reply = exchange.reply(formats.keeps(aspect, draw_habits(rng), change=good), rng)
        rule = formats.RULES[aspect]
    text = formats.critique_prompt(exchange.text, reply, rng.choice(rule.wordings))
    return [Message("user", text), Message("assistant", rng.choice(rule.kept if good else rule.broken))]


def revision(rng: Random) -> Dialogue:
    """Rewrite a reply that breaks a rule: the same content, the rule kept, the other habits as they were."""
    if rng.random() < 0.4:
        return _clear_revision(rng)
    exchange = _judged_exchange(rng)
    aspect = rng.choice(formats.aspects_for(exchange))
    habits = formats.keeps(aspect, draw_habits(rng), change=False)
    rule = formats.RULES[aspect]
    text = formats.revision_prompt(exchange.text, exchange.reply(habits, rng), rng.choice(rule.wordings),
                                   rng.choice(rule.broken))  # fmt: skip
    mended = formats.keeps(aspect, habits, change=True)
    return [Message("user", text), Message("assistant", exchange.reply(mended, rng), exchange.key_for(mended))]


def _clear_revision(rng: Random) -> Dialogue:
    contrast = draw_contrast(rng)
    exchange, better, worse = contrast.draw(rng)
    rule = contrast.rule
    text = formats.revision_prompt(exchange.text, worse, rng.choice(rule.wordings), rng.choice(rule.broken))
    key = exchange.key_for(draw_habits(rng, 0.0).but(complies=False))
    return [Message("user", text), Message("assistant", better, key)]


def judgement(rng: Random) -> Dialogue:
    """Compare two replies: a few clear cases in turn, or one pair under several rules on habits."""
    return clear_judgement(rng) if rng.random() < _CLEAR_SHARE else habit_judgement(rng)


def clear_judgement(rng: Random) -> Dialogue:
    """Up to three pairs in turn, in each of which one reply is clearly better and stands first or second at random."""
    messages: Dialogue = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        contrast = draw_contrast(rng)
        exchange, better, worse = contrast.draw(rng)
        letter = rng.choice("AB")
        replies = (better, worse) if letter == "A" else (worse, better)
        rule = rng.choice(BETTER if rng.random() < 0.2 else contrast.rule.wordings)
        text = formats.judge_prompt(exchange.text, *replies, rule)
        messages += [Message("user", text), Message("assistant", formats.verdict(letter), letter)]
    return messages


def habit_judgement(rng: Random) -> Dialogue:
    """One pair of replies with different habits, under one rule or under several in turn."""
    exchange = _judged_exchange(rng)
    messages: Dialogue = []
    aspects = formats.aspects_for(exchange)
    habits = list(formats.draw_habit_pair(rng.choice(aspects), rng))
    rng.shuffle(habits)
    a, b = exchange.reply(habits[0], rng), exchange.reply(habits[1], rng)
    for aspect in rng.sample(aspects, len(aspects)):
        letter = formats.better(aspect, a, b, habits[0], habits[1])
        if letter is None:
            continue
        rule = rng.choice(formats.RULES[aspect].wordings)
        text = formats.next_judge_prompt(rule) if messages else formats.judge_prompt(exchange.text, a, b, rule)
        messages += [Message("user", text), Message("assistant", formats.verdict(letter), letter)]
        if rng.random() < 0.25:
            break
    return messages or habit_judgement(rng)
