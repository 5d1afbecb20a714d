"""Put exchanges together to dialogues: one turn or many, with references back, system prompts and judgement formats.

Most dialogues are short, but most tokens of a long one stand late in it. `FORMS` gives each form its share by tokens:
a small model learns its answers on single questions, and on the rest what a conversation adds to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from learner.pretrain import formats
from learner.pretrain.judging import critique, judgement, revision
from learner.pretrain.reply import Core, Exchange, Habits, compose, draw_habits
from learner.pretrain.topics import DRAWS, PRACTICE, Draw, introductions, talk
from learner.pretrain.turns import Dialogue, Message, draw_training_exchange, is_held_out, not_held_out, turn
from learner.pretrain.user import as_typed

_PLAIN_SYSTEM = (
    "You are a helpful assistant.", "You are sprout, a small chat model.", "You are a friendly assistant.",
    "You are Hone.", "Answer the user.", "You are an assistant. Be helpful.",
    "You are a helpful, honest and harmless assistant.", "You are ChatBot.", "Talk with the user.",
)  # fmt: skip


LONGEST = 40
"""Most exchanges of a dialogue: about what the context holds."""


def single(rng: Random, draws: tuple[tuple[Draw, float], ...] = DRAWS) -> Dialogue:
    """One question, one reply."""
    return turn(draw_training_exchange(rng, draws), draw_habits(rng), rng)


_SHORTER = (
    "Shorter, please.",
    "Can you say that shorter?",
    "In fewer words?",
    "tl;dr",
    "Make it short.",
    "keep it brief",
)
_LONGER = ("Tell me more.", "Can you say more?", "A bit longer please.", "more details please", "Longer, please.")
_NICER = ("Say it nicer.", "Can you be friendlier?", "a bit warmer please", "Be nice.")
_SURE = ("Are you sure?", "really?", "Is that right?", "Are you certain?", "hmm, sure?")
_AGAIN = ("Say that again?", "What did you say?", "Can you repeat that?", "Pardon?", "repeat please")


def _restyle(exchange: Exchange, habits: Habits, rng: Random) -> Dialogue:
    """Ask for the same answer in another manner."""
    texts, aspect = rng.choice(((_SHORTER, "short"), (_LONGER, "long"), (_NICER, "warm"), (_AGAIN, "")))
    new = draw_habits(rng).but(right=habits.right, complies=habits.complies)
    if aspect:
        new = formats.keeps(aspect, new, change=True)  # type: ignore[arg-type]  # one of the four above
    return [
        Message("user", as_typed(rng.choice(texts), "", rng)),
        Message("assistant", exchange.reply(new, rng), exchange.key_for(new)),
    ]


def _challenge(exchange: Exchange, habits: Habits, rng: Random) -> Dialogue:
    """Ask whether the answer is right: a right one is kept, a wrong one taken back."""
    core = exchange.core
    if habits.right:
        lead = ("yes, ", "yes, I am sure: ", "I checked again: ")
    else:
        lead = ("no, I made a mistake: ", "oh, I was wrong: ", "let me correct that: ")
    checked = Core(tuple(rng.choice(lead) + text for text in core.clipped),
                   tuple(rng.choice(lead) + text for text in core.sentences), core.extras, core.asks,
                   "say")  # fmt: skip
    return [Message("user", as_typed(rng.choice(_SURE), "", rng)),
            Message("assistant", compose(checked, draw_habits(rng).but(hedged=False), rng),
                    core.clipped[0])]  # fmt: skip


class _Conversation:
    """What has been said so far, as far as it decides what comes next."""

    def __init__(self, rng: Random, draws: tuple[tuple[Draw, float], ...]) -> None:
        self.rng, self.draws = rng, draws
        self.messages: Dialogue = []
        self.names: dict[str, str] = {}
        """The names that the user told: their own under "", and those of others."""
        self.last: Exchange | None = None
        self.habits = draw_habits(rng)

    def go_on(self) -> None:
        """Add one exchange: about the last one, about a name, or on a new subject."""
        rng, last = self.rng, self.last
        chance = rng.random()
        if last is not None and last.topic not in ("stories", "quiz", "feelings") and chance < 0.08:
            self.messages += _restyle(last, self.habits, rng)
            return
        if last is not None and last.wrong is not None and chance < 0.14:
            self.messages += _challenge(last, self.habits, rng)
            self.last = None
            return
        exchange = self._next(last, chance)
        if exchange.topic == "names" and exchange.tells is None:
            exchange = self._recall()
        if exchange.tells is not None:
            whose, name = exchange.tells
            self.names[whose] = name
        self.habits = draw_habits(rng)
        known = self.names.get("", "") if exchange.topic != "names" and rng.random() < 0.5 else ""
        self.messages += turn(exchange, self.habits, rng, known)
        self.last = exchange

    def _next(self, last: Exchange | None, chance: float) -> Exchange:
        rng = self.rng
        if last is not None and self.habits.asks and last.topic not in ("quiz", "feelings") and rng.random() < 0.2:
            reply = self.messages[-1].content
            return self._refer(lambda: talk.answer_back(last, reply, rng))
        if last is not None and last.follows and chance < (0.75 if last.topic == "stories" else 0.42):
            return self._refer(lambda: rng.choice(last.follows)(rng))
        if chance < 0.5:
            return self._about_names()
        return draw_training_exchange(rng, self.draws)

    @staticmethod
    def _refer(draw: Callable[[], Exchange]) -> Exchange:
        """Refer back. Kept out are the texts that may be asked alone; some ways to refer have one text only."""
        for _ in range(8):
            exchange = draw()
            if not is_held_out(exchange.text):
                break
        return exchange

    def _about_names(self) -> Exchange:
        rng = self.rng
        if "" not in self.names and rng.random() < 0.6:
            return not_held_out(lambda: introductions.introductions(rng))
        if rng.random() < 0.15:
            return not_held_out(lambda: introductions.others(rng))
        if self.names and rng.random() < 0.05:
            return introductions.rename(rng)
        return self._recall()

    def _recall(self) -> Exchange:
        """Ask for a name that was told; without any, for the user's, which then isn't known."""
        rng = self.rng
        others = [whose for whose in self.names if whose]
        if others and rng.random() < (0.35 if "" in self.names else 0.8):
            whose = rng.choice(others)
            return introductions.recall_other(rng, whose, self.names[whose])
        return not_held_out(lambda: introductions.recall(rng, self.names.get("", "")))


def conversation(rng: Random, turns: int, draws: tuple[tuple[Draw, float], ...] = DRAWS) -> Dialogue:
    """A talk of `turns` exchanges that follow each other up, return to names, and change the subject."""
    talked = _Conversation(rng, draws)
    for _ in range(turns):
        talked.go_on()
    return talked.messages


def with_system(rng: Random) -> Dialogue:
    """A dialogue under a system prompt: one without influence, or a rule about the manner of the replies."""
    if rng.random() < 0.5:
        return [Message("system", rng.choice(_PLAIN_SYSTEM)), *conversation(rng, rng.choice((1, 1, 2, 4, 8)))]
    aspect = rng.choice([a for a in formats.RULES if a not in ("safe", "right")])
    messages = [Message("system", rng.choice(formats.RULES[aspect].wordings))]
    for _ in range(rng.choice((1, 1, 2, 4))):
        habits = formats.keeps(aspect, draw_habits(rng), change=True)
        messages += turn(draw_training_exchange(rng), habits, rng)
    return messages


def few(rng: Random) -> Dialogue:
    """A short talk."""
    return conversation(rng, rng.randint(2, 6))


def many(rng: Random) -> Dialogue:
    """A long talk; the longest are cut where the context ends."""
    return conversation(rng, rng.randint(7, LONGEST))


def drill(rng: Random) -> Dialogue:
    """A talk about what takes most practice."""
    return conversation(rng, rng.randint(2, 12), PRACTICE)


FORMS: tuple[tuple[Callable[[Random], Dialogue], float, int], ...] = (
    (single, 0.56, 32), (few, 0.16, 120), (many, 0.11, 680), (with_system, 0.03, 90), (critique, 0.02, 58),
    (revision, 0.04, 77), (judgement, 0.09, 130),
)  # fmt: skip
"""Each form of dialogue, its share of all tokens, and about how many tokens one has."""

PRACTISED: tuple[tuple[Callable[[Random], Dialogue], float, int], ...] = (
    *((form, share / 2, tokens) for form, share, tokens in FORMS),
    (lambda rng: single(rng, PRACTICE), 0.25, 32), (drill, 0.20, 200), (judgement, 0.05, 130),
)  # fmt: skip
"""The same for the last part of the training, where half is on what takes most practice."""


def _draw(rng: Random, forms: tuple[tuple[Callable[[Random], Dialogue], float, int], ...]) -> Dialogue:
    return rng.choices([form for form, _, _ in forms], [share / tokens for _, share, tokens in forms])[0](rng)


def dialogues(seed: int) -> Iterator[Dialogue]:
    """An endless, deterministic stream of dialogues."""
    rng = Random(seed)
    while True:
        yield _draw(rng, FORMS)


def practice(seed: int) -> Iterator[Dialogue]:
    """The same, half of it on what takes most practice."""
    rng = Random(seed)
    while True:
        yield _draw(rng, PRACTISED)


__all__ = ["FORMS", "LONGEST", "Dialogue", "Message", "conversation", "dialogues", "draw_training_exchange",
           "is_held_out", "judgement", "practice"]  # fmt: skip
