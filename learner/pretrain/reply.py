"""Turn what a reply must say (a `Core`) into how it is said: the habits that feedback can choose between.

Every reply draws its habits anew and independently of each other, of the topic and of whether the answer is right, so
that two samples for one prompt differ in ways a person notices, and so that a taste for one habit can be learned by
re-weighting what the base model already does, without touching what it knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

from learner.pretrain import wording

Length = Literal["clipped", "sentence", "long"]
Formality = Literal["casual", "neutral", "formal"]
Kind = Literal["fact", "offer", "say", "glad", "greet", "refuse", "care", "sorry", "bye", "unsure"]

REFUSALS = ("I cannot help with that", "I will not do that", "that is not something I do", "I must decline")
P_WRONG = 0.07
P_COMPLY = 0.35


@dataclass(frozen=True)
class Core:
    """The content of one reply, free of habits. Texts begin in lower case unless with a name, and lack the final stop.

    `clipped` are phrases that answer alone; `sentences` are whole statements; `extras` are whole sentences that may
    follow (with their own punctuation); `asks` are questions that may end the reply.
    """

    clipped: tuple[str, ...]
    sentences: tuple[str, ...]
    extras: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    kind: Kind = "fact"


@dataclass(frozen=True)
class Habits:
    """One draw of the latent habits of a reply."""

    length: Length = "sentence"
    warm: bool = False
    formality: Formality = "neutral"
    hedged: bool = False
    asks: bool = False
    right: bool = True
    complies: bool = False
    refuses: bool = False
    """Declines what harms nobody. Never drawn: only to be criticised and judged."""

    def but(self, **changes: object) -> Habits:
        """These habits with some of them changed."""
        return replace(self, **changes)  # type: ignore[arg-type]  # names are checked by replace itself


def draw_habits(rng: Random, p_wrong: float = P_WRONG) -> Habits:
    """Draw every habit independently."""
    return Habits(
        length=rng.choices(("clipped", "sentence", "long"), (0.34, 0.36, 0.30))[0],
        warm=rng.random() < 0.5,
        formality=rng.choices(("casual", "neutral", "formal"), (0.3, 0.4, 0.3))[0],
        hedged=rng.random() < 0.5,
        asks=rng.random() < 0.5,
        right=rng.random() >= p_wrong,
        complies=rng.random() < P_COMPLY,
    )


def capitalise(text: str) -> str:
    """Upper-case the first letter."""
    return text[:1].upper() + text[1:]


_CONTRACTIONS = [
    (re.compile(rf"\b{long}\b"), short)
    for long, short in (
        ("I am", "I'm"), ("it is", "it's"), ("It is", "It's"), ("that is", "that's"), ("That is", "That's"),
        ("you are", "you're"), ("do not", "don't"), ("cannot", "can't"), ("does not", "doesn't"),
        ("I will", "I'll"), ("I would", "I'd"), ("I have no", "I've no"), ("is not", "isn't"), ("are not", "aren't"),
        ("will not", "won't"), ("let us", "let's"), ("Let us", "Let's"), ("what is", "what's"), ("What is", "What's"),
    )
]  # fmt: skip


def contract(text: str) -> str:
    """Use the short forms of casual speech: "it is" becomes "it's". A sentence never ends in a short form."""
    for pattern, short in _CONTRACTIONS:
        text = pattern.sub(lambda match, short=short: _keep_at_end(match, short), text)  # type: ignore[misc]
    return text


def _keep_at_end(match: re.Match[str], short: str) -> str:
    rest = match.string[match.end() :]
    return match.group(0) if not rest or rest[0] in ".,!?;:" else short


Draws = Callable[[str], Random]
"""For a decision about the wording, by its name, random draws that no other decision uses up."""


def _draws(rng: Random) -> Draws:
    luck = rng.getrandbits(64)
    return lambda decision: Random(f"{luck} {decision}")


def _stop(text: str, warm: bool, draws: Draws) -> str:
    if text and text[-1] in '.!?"':
        return text
    return text + ("!" if warm and draws("stop").random() < 0.6 else ".")


_HEDGES_OF_TALK: dict[Kind, wording.Styles] = {
    "say": wording.HEDGED_TALK, "glad": wording.HEDGED_TALK, "bye": wording.HEDGED_TALK,
    "greet": wording.HEDGED_GREETING, "care": wording.HEDGED_CARE, "sorry": wording.HEDGED_SORRY,
    "unsure": wording.HEDGED_UNSURE,
}  # fmt: skip


def _hedge(text: str, core: Core, habits: Habits, rng: Random) -> str:
    """Put a hedge in front of or behind a statement or phrase."""
    if hedges := _HEDGES_OF_TALK.get(core.kind):
        return text.rstrip(".!") + rng.choice(hedges[habits.formality])
    if core.kind == "refuse":
        return rng.choice(wording.HEDGES_BEFORE[habits.formality][:2]) + " " + text
    if core.kind == "offer":
        return rng.choice(wording.HEDGED_OFFERS) + " " + text
    clipped = habits.length == "clipped"
    if rng.random() < (0.35 if clipped else 0.6):
        if clipped:
            return rng.choice(wording.HEDGES_BEFORE_PHRASE) + " " + text
        return rng.choice(wording.HEDGES_BEFORE[habits.formality]) + " " + text
    return text.rstrip(".!") + ", " + rng.choice(wording.HEDGES_AFTER[habits.formality])


def _opener(core: Core, habits: Habits, draws: Draws) -> str:
    """What stands before the answer: kind words, or a word that sets the tone. May be empty."""
    rng = draws("opener")
    if core.kind == "refuse" and not habits.warm:
        return rng.choice(wording.REFUSE_OPENERS[habits.formality]) if rng.random() < 0.5 else ""
    chance = 0.25 if habits.length == "clipped" else 0.45
    if habits.warm and rng.random() < chance + 0.15:
        return rng.choice(wording.WARM_OPENERS[core.kind][habits.formality])
    if habits.formality != "neutral" and core.kind in ("fact", "offer") and rng.random() < chance + 0.1:
        return rng.choice(wording.TONE_OPENERS[habits.formality])
    return ""


def _body(core: Core, habits: Habits, draws: Draws) -> str:
    options = core.clipped if habits.length == "clipped" else core.sentences
    if habits.hedged and core.kind == "offer":  # a hedged offer has an introduction already
        options = tuple(text for text in options if ":" not in text) or options
    text = draws("body").choice(options)
    if habits.hedged:
        text = _hedge(text, core, habits, draws("hedge"))
    return text


def compose(core: Core, habits: Habits, rng: Random) -> str:
    """Say `core` with these habits. Ends with a question mark exactly when the habit is to ask back.

    Warmth shows in exclamation marks, but for care: kind words to someone in sorrow are quiet. With an `rng` in the
    same state, another habit changes those words alone in which it shows.
    """
    draws = _draws(rng)
    quiet = core.kind == "care"
    opener, body = _opener(core, habits, draws), _body(core, habits, draws)
    vocative, chance = "", draws("vocative")
    if habits.warm and not opener and body[-1:] not in '.!?"' and chance.random() < 0.25:
        vocative = ", " + chance.choice(wording.VOCATIVES["neutral" if quiet else habits.formality])
    parts = [opener] if opener else []
    joined = bool(opener) and opener[-1] in ",:"
    parts.append(_stop((body if joined else capitalise(body)) + vocative, habits.warm and not quiet, draws))
    if habits.length == "long" and core.extras:
        chance = draws("extras")
        count = 1 if len(core.extras) == 1 or chance.random() < 0.75 else 2
        parts += chance.sample(core.extras, count)
    if habits.warm:
        plain, chance = not opener and not vocative and "!" not in " ".join(parts), draws("closer")
        if chance.random() < (0.85 if plain else 0.25):
            parts.append(chance.choice(wording.WARM_CLOSERS[core.kind][habits.formality]))
    if habits.asks:
        chance = draws("asks")
        own = core.asks and (core.kind != "fact" or chance.random() < 0.7)
        parts.append(chance.choice(core.asks if own else wording.ASKS[habits.formality]))
    text = " ".join(parts)
    if habits.formality == "casual":
        text = contract(text)
    return text


def say(sentences: Sequence[str], extras: Sequence[str] = (), asks: Sequence[str] = (), *,
        clipped: Sequence[str] = (), kind: Kind = "say") -> Core:  # fmt: skip
    """A core for talk that is no fact; without `clipped` phrases the shortest sentences serve."""
    phrases = tuple(clipped) or tuple(sorted(sentences, key=len)[: max(1, len(sentences) // 2)])
    return Core(phrases, tuple(sentences), tuple(extras), tuple(asks), kind)


REFUSAL = say(
    (*REFUSALS, "I do not help with things like that"), ("I would rather not.", "It could be harmful."),
    ("Shall we talk about something else?",), clipped=REFUSALS, kind="refuse",
)  # fmt: skip
"""Of whatever was asked."""


@dataclass(frozen=True)
class Exchange:
    """One thing a user says and what a reply to it has to contain.

    `wrong` is the core of a mistaken reply, `comply` that of a harmless placeholder for a request to refuse. `follow`
    draws what the user may say next that refers back to this exchange. `subject` are the words of the text that a user
    types as they are, however careless: a name.
    """

    topic: str
    text: str
    core: Core
    answers: tuple[str, ...] = ()
    wrong: Core | None = None
    comply: Core | None = None
    follows: tuple[Callable[[Random], Exchange], ...] = field(default=(), repr=False, compare=False)
    subject: str = ""

    @property
    def unsafe(self) -> bool:
        """Whether this is a request that should be refused."""
        return self.comply is not None

    def core_for(self, habits: Habits) -> Core:
        """What a reply with these habits says: the right thing, a mistake, a placeholder, or that it declines."""
        if habits.refuses:
            return REFUSAL
        if self.comply is not None and habits.complies:
            return self.comply
        if self.wrong is not None and not habits.right:
            return self.wrong
        return self.core

    def reply(self, habits: Habits, rng: Random) -> str:
        """One reply with these habits."""
        return compose(self.core_for(habits), habits, rng)

    def key_for(self, habits: Habits) -> str:
        """The words of such a reply that carry its answer, right or wrong; empty where nothing was asked."""
        return (self.subject or self.core_for(habits).clipped[0]) if self.answers else ""
