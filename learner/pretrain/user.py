"""How people really type: lower case, no punctuation, a slip of the finger, a word of politeness before or after."""

from __future__ import annotations

from random import Random

# Word lists and templates are laid out by hand.
# fmt: off

_EXACT = {"spelling", "letters", "noise", "names", "unknown"}
_TOLD = {"feelings", "names", "smalltalk", "greetings", "thanks", "farewell", "challenge"}
_BEFORE_TOLD = ("hey, ", "so, ", "hey sprout, ", "um, ", "well, ", "sprout, ", "oh, ")
_BEFORE = ("hey, ", "please, ", "so, ", "ok ", "hey sprout, ", "um, ", "tell me, ", "well, ", "sprout, ")
_AFTER = (" please", " thanks", " pls", ", please", ", sprout", " :)")


def _slip(text: str, rng: Random) -> str:
    words = text.split(" ")
    places = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha() and word[0].islower()]
    if not places:
        return text
    place = rng.choice(places)
    word = words[place]
    cut = rng.randrange(1, len(word) - 1)
    if rng.random() < 0.5:
        words[place] = word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :]
    else:
        words[place] = word[:cut] + word[cut + 1 :]
    return " ".join(words)


def as_typed(text: str, topic: str, rng: Random, subject: str = "") -> str:
    """Make `text` look as a person may type it, but for `subject`. About half of all texts stay as they are."""
    if topic == "noise":
        return text
    if topic not in _EXACT and rng.random() < 0.07:
        text = _slip(text, rng)
    if rng.random() < 0.06:
        begins = subject and text.startswith(subject)
        before = rng.choice(_BEFORE_TOLD if topic in _TOLD else _BEFORE)
        text = before + (text if begins else text[:1].lower() + text[1:])
    elif topic not in _TOLD and rng.random() < 0.05 and text[-1:] in "?.":
        text = text[:-1] + rng.choice(_AFTER) + (text[-1] if rng.random() < 0.5 else "")
    if rng.random() < 0.25:
        text = subject.join(part.lower() for part in text.split(subject)) if subject else text.lower()
    if rng.random() < 0.22:
        text = text.rstrip("?.!")
    return text
