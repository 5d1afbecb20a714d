"""Put exchanges together to dialogues: one turn or many, with references back and system prompts."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from random import Random

from learner.pretrain import formats
from learner.pretrain.reply import Core, Exchange, Habits, compose, draw_habits
from learner.pretrain.topics import CHAT, DRAWS, Draw, draw_exchange, introductions, talk
from learner.pretrain.topics import chat as chat_topic
from learner.pretrain.user import as_typed

HELD_OUT_SHARE = 16
"""One in so many prompt texts is never used in training."""


@dataclass(frozen=True)
class Message:
    """One turn. `role` is system, user or assistant; `key` the words of a reply that carry its answer."""

    role: str
    content: str
    key: str = ""


Dialogue = list[Message]

_PLAIN_SYSTEM = (
    "You are a helpful assistant.", "You are sprout, a small chat model.", "You are a friendly assistant.",
    "You are Hone.", "Answer the user.", "You are an assistant. Be helpful.",
    "You are a helpful, honest and harmless assistant.", "You are ChatBot.", "Talk with the user.",
)  # fmt: skip


def is_held_out(text: str) -> bool:
    """Whether this prompt text is kept out of the training data, for evaluation."""
    return zlib.crc32(text.strip().lower().encode()) % HELD_OUT_SHARE == 0


def draw_training_exchange(rng: Random, draws: tuple[tuple[Draw, float], ...] = DRAWS) -> Exchange:
    """Draw an exchange whose prompt isn't held out."""
    while is_held_out((exchange := draw_exchange(rng, draws)).text):
        pass
    return exchange


def _turn(exchange: Exchange, habits: Habits, rng: Random) -> Dialogue:
    return [Message("user", as_typed(exchange.text, exchange.topic, rng, exchange.subject)),
            Message("assistant", exchange.reply(habits, rng), exchange.key_for(habits))]  # fmt: skip


def single(rng: Random, draws: tuple[tuple[Draw, float], ...] = DRAWS) -> Dialogue:
    """One question, one reply."""
    return _turn(draw_training_exchange(rng, draws), draw_habits(rng), rng)


_SHORTER = (
    "Shorter, please.",
    "Can you say that shorter?",
    "In fewer words?",
    "tl;dr",
    "Make it short.",
    "keep it brief",
)
_LONGER = ("Tell me more.", "Can you say more?", "A bit longer please.", "more details please", "Go on.")
_NICER = ("Say it nicer.", "Can you be friendlier?", "a bit warmer please", "Be nice.")
_RESTYLES: tuple[tuple[tuple[str, ...], formats.Aspect], ...] = (
    (_SHORTER, "short"), (_LONGER, "long"), (_NICER, "warm")
)  # fmt: skip
_SURE = ("Are you sure?", "really?", "Is that right?", "Are you certain?", "hmm, sure?")
_WRONG = ("You are wrong.", "That's not true.", "that is wrong", "No, that's wrong.", "I don't believe you.")
_AGAIN = ("Say that again?", "What did you say?", "Can you repeat that?", "Pardon?", "repeat please")


def _restyle(exchange: Exchange, habits: Habits, rng: Random) -> Dialogue:
    """Ask for the same answer in another manner."""
    texts, aspect = rng.choice(_RESTYLES)
    new = formats.keeps(aspect, draw_habits(rng).but(right=habits.right, complies=habits.complies), change=True)
    return [
        Message("user", as_typed(rng.choice(texts), "", rng)),
        Message("assistant", exchange.reply(new, rng), exchange.key_for(new)),
    ]


def _again(last: Message, rng: Random) -> Dialogue:
    """Ask for the last reply once more."""
    return [Message("user", as_typed(rng.choice(_AGAIN), "", rng)), last]


def _challenge(exchange: Exchange, habits: Habits, rng: Random) -> Dialogue:
    """Ask whether the answer is right: a right one is kept, a wrong one taken back."""
    core, denied = exchange.core, rng.random() < 0.3
    if habits.right and denied:
        lead: tuple[str, ...] = ("I checked again: ", "sorry, but I still say: ")
    elif habits.right:
        lead = ("yes, ", "yes, I am sure: ", "I checked again: ")
    else:
        lead = ("no, I made a mistake: ", "oh, I was wrong: ", "let me correct that: ")
    checked = Core(tuple(rng.choice(lead) + text for text in core.clipped),
                   tuple(rng.choice(lead) + text for text in core.sentences), core.extras, core.asks,
                   "say")  # fmt: skip
    return [Message("user", as_typed(rng.choice(_WRONG if denied else _SURE), "", rng)),
            Message("assistant", compose(checked, draw_habits(rng).but(hedged=False), rng),
                    core.clipped[0])]  # fmt: skip


def _question(reply: str) -> str:
    """The last sentence of a reply, in the words of its core."""
    return re.split(r"(?<=[.!?:]) ", reply)[-1].replace("What's", "What is")


def chat(rng: Random) -> Dialogue:
    """A question, and what the user says to the reply: an answer to the question back, or something that follows."""
    exchange, habits = draw_training_exchange(rng, CHAT), draw_habits(rng)
    messages = _turn(exchange, habits, rng)
    for _ in range(rng.choice((1, 1, 2))):
        answer = None
        if habits.asks and exchange.topic != "quiz":
            answer = talk.answer_back(_question(messages[-1].content), exchange.topic, rng)
        if answer is None and not exchange.follows:
            break
        exchange, habits = answer or rng.choice(exchange.follows)(rng), draw_habits(rng)
        messages += _turn(exchange, habits, rng)
    return messages


def conversation(rng: Random, turns: int) -> Dialogue:
    """A talk of about `turns` exchanges that follow each other up, return to names, and change the subject."""
    messages: Dialogue = []
    name, exchange, habits = "", None, draw_habits(rng)
    for _ in range(turns):
        chance = rng.random() if exchange is not None else rng.uniform(0.62, 1.0)
        if exchange is not None and chance < 0.12 and exchange.topic not in ("quiz", "feelings"):
            messages += _restyle(exchange, habits, rng) if rng.random() < 0.7 else _again(messages[-1], rng)
            continue
        if exchange is not None and exchange.wrong is not None and chance < 0.22:
            messages += _challenge(exchange, habits, rng)
            exchange = None
            continue
        answer = None
        if exchange is not None and habits.asks and exchange.topic != "quiz" and rng.random() < 0.5:
            answer = talk.answer_back(_question(messages[-1].content), exchange.topic, rng)
        if answer is not None:
            exchange = answer
        elif exchange is not None and exchange.follows and (chance < 0.6 or exchange.topic == "quiz"):
            exchange = rng.choice(exchange.follows)(rng)
        elif exchange is not None and exchange.topic not in ("feelings", "unsafe") and chance < 0.635:
            exchange = rng.choice((talk.reactions, talk.reactions, chat_topic.thanks))(rng)
        elif chance < 0.75:
            if not name or rng.random() < 0.05:
                exchange = introductions.introductions(rng)
            else:
                exchange = introductions.recall(rng, name)
        else:
            exchange = draw_training_exchange(rng)
        if exchange.topic == "names" and exchange.answers:
            name = exchange.answers[0]
        elif exchange.topic == "names" and name:
            exchange = introductions.recall(rng, name)
        habits = draw_habits(rng)
        messages += _turn(exchange, habits, rng)
    return messages


def name_asked_back(rng: Random) -> Dialogue:
    """The user tells their name and asks for it again, often with something else in between."""
    told = introductions.introductions(rng)
    between = [draw_training_exchange(rng)] if rng.random() < 0.4 else []
    asked = introductions.recall(rng, told.answers[0])
    return [message for exchange in (told, *between, asked) for message in _turn(exchange, draw_habits(rng), rng)]


def with_system(rng: Random) -> Dialogue:
    """A dialogue under a system prompt: one without influence, or a rule about the manner of the replies."""
    if rng.random() < 0.5:
        return [Message("system", rng.choice(_PLAIN_SYSTEM)), *conversation(rng, rng.choice((1, 1, 2)))]
    exchange = draw_training_exchange(rng)
    aspect, wordings = rng.choice(list(formats.MANNERS.items()))
    messages = [Message("system", rng.choice(wordings))]
    for _ in range(rng.choice((1, 1, 2))):
        messages += _turn(exchange, formats.keeps(aspect, draw_habits(rng), change=True), rng)
        exchange = draw_training_exchange(rng)
    return messages
