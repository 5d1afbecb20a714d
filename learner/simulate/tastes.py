"""What people like, stated as code: which of two replies is better, and what such people talk about.

Each taste looks at the surface that a person would look at, with word lists of its own. Nobody likes an empty reply:
whatever the built-in taste, it loses against one that says something. A taste from a file is taken at its word.
"""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import cycle
from numbers import Real
from pathlib import Path
from typing import Any

from learner.pretrain.questions import Prompt, draw_prompts
from service.errors import BadInput

Prefer = Callable[[str, str, str], float]
"""(prompt, reply A, reply B) → how much better A is; 0 is a tie."""
Draw = Callable[[int, int, bool], list[Prompt]]
"""(count, seed, held out from the base's training) → what such people ask: at most so many."""


@dataclass(frozen=True)
class Taste:
    """`corrects`: they write the right reply out instead of comparing two."""

    name: str
    prefer: Prefer
    draw: Draw
    corrects: bool = False


_WORD = re.compile(r"[\w'’-]+")


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def shorter(prompt: str, a: str, b: str) -> float:
    """Fewer words; the difference as a share of the longer."""
    first, second = len(words(a)), len(words(b))
    return (second - first) / max(first, second, 1)


_WARM = re.compile(
    r"\b(glad|happy|happily|lovely|love|friend|buddy|pal|dear|dearest|delighted?|pleasure|joy|thanks?|thank you|hugs?|"
    r"welcome|wonderful|enjoy|kind|kindly|kindness|nice|cheers|sunny|yay|aw|hooray|gladly|rooting|warm|warmest|"
    r"you rock|well done|take care|wishes|wish you|sweet|splendid|fun|honou?r)\b",
    re.I,
)


def warmth(text: str) -> float:
    """Warm words and exclamation marks, the first of each counting most."""
    return min(len(_WARM.findall(text)), 3) + 0.5 * min(text.count("!"), 2)


def warmer(prompt: str, a: str, b: str) -> float:
    return warmth(a) - warmth(b)


_HEDGES = re.compile(
    r"\b(i think|i believe|i guess|i suppose|i'd say|maybe|perhaps|probably|possibly|most likely|as far as i|it seems|"
    r"or so it seems|seems to me|it would seem|i fear|kind of|more or less|not sure|fairly sure|pretty sure|"
    r"if i remember|if i am not mistaken|if i'm not mistaken|could be wrong|may be in error|might|no promises|"
    r"don't bet on it|best of my knowledge|if i may say so|i'm afraid|i am afraid|at least not yet|not yet at least)\b",
    re.I,
)


def surer(prompt: str, a: str, b: str) -> float:
    """Fewer hedges."""
    return float(len(_HEDGES.findall(b)) - len(_HEDGES.findall(a)))


_DANGER = re.compile(
    r"\b(bombs?|steal|stolen|hack|poison|hurt|break into|forge|cheat|spy|weapons?|gun|knife|fake|rob|drugs|bully|"
    r"trick an old|break a window|stranger's account|crash a website|witness|virus|copy a house key|cut the brakes|"
    r"listen to someone's|blow up|make someone cry|threaten|lie in court|burn down|pick a lock|start a fire|"
    r"follow someone|private letters|scare my sister|password|wallet)\b",
    re.I,
)
_REFUSES = re.compile(
    r"\b(can't|cannot|can not|won't|will not|must decline|do not help|don't help|not something i do|i refuse|nope|"
    r"not safe|harmful|hurt someone|get hurt)\b",
    re.I,
)


def safer(prompt: str, a: str, b: str) -> float:
    """Where harm is asked for, a refusal; elsewhere they don't mind either way."""
    if not _DANGER.search(prompt):
        return 0.0
    return _safety(a) - _safety(b)


def _safety(reply: str) -> float:
    complies = "[" in reply or re.search(r"\b(here is how|like this|these are the steps|do this)\b", reply, re.I)
    return (1.0 if _REFUSES.search(reply) else 0.0) - (1.0 if complies else 0.0)


def draw_up_to(count: int, seed: int, held_out: bool = False, topics: Collection[str] | None = None) -> list[Prompt]:
    """As many different prompts as there are, about, and at most `count`."""
    while True:
        try:
            return draw_prompts(count, seed, topics, held_out)
        except ValueError:
            if count < 2:
                raise
            count = count * 4 // 5


def _often_unsafe(count: int, seed: int, held_out: bool) -> list[Prompt]:
    """Half of what they ask should be refused. Few such texts are held out: those are asked again and again."""
    unsafe = cycle(draw_up_to(count - count // 2, seed, held_out, ["unsafe"]))
    others = [prompt for prompt in draw_up_to(count, seed + 1, held_out) if not prompt.unsafe]
    return [prompt for pair in zip(unsafe, others, strict=False) for prompt in pair][:count]


BUILT_IN = {
    "short": Taste("short", shorter, draw_up_to),
    "warm": Taste("warm", warmer, draw_up_to),
    "sure": Taste("sure", surer, draw_up_to),
    "safe": Taste("safe", safer, _often_unsafe),
    "teach": Taste("teach", lambda prompt, a, b: 0.0, draw_up_to, corrects=True),
}


def load_taste(name: str) -> Taste:
    """A built-in taste, or `FILE.py:function`, which alone decides. Raises BadInput that says what there is."""
    if name in BUILT_IN:
        return _nobody_likes_silence(BUILT_IN[name])
    file, separator, function = name.rpartition(":")
    if not separator or not file.endswith(".py"):
        known = ", ".join(BUILT_IN)
        raise BadInput(f"There is no taste {name!r}.", f"Name one of {known}, or write FILE.py:function.")
    return Taste(name, _from_file(Path(file), function), draw_up_to)


def _from_file(path: Path, name: str) -> Prefer:
    function = _load_function(path, name)

    def prefer(prompt: str, a: str, b: str) -> float:
        try:
            liking = function(prompt, a, b)
        except (Exception, SystemExit) as error:
            raise BadInput(f"The taste {path}:{name} fails: {type(error).__name__}: {error}.") from error
        if not isinstance(liking, Real) or math.isnan(liking):
            raise BadInput(f"The taste {path}:{name} answers {liking!r}.", _SIGNATURE)
        return float(liking)

    prefer("Hello", "Hi.", "Good day to you.")  # what is no good is told before a service is started for it
    return prefer


_SIGNATURE = "It takes (prompt, reply_a, reply_b) and answers a number: positive when A is better."


def _load_function(path: Path, name: str) -> Callable[[str, str, str], Any]:
    spec = importlib.util.spec_from_file_location("hone_taste", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise BadInput(f"There is no file {path}.", "Write FILE.py:function.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as dataclasses and the like expect
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise BadInput(f"The taste {path} can't be loaded: {type(error).__name__}: {error}.") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise BadInput(f"{path} has no function {name!r}.", _SIGNATURE)
    found: Callable[[str, str, str], Any] = function
    return found


def _nobody_likes_silence(taste: Taste) -> Taste:
    def prefer(prompt: str, a: str, b: str) -> float:
        if bool(a.strip()) != bool(b.strip()):
            return 1.0 if a.strip() else -1.0
        return taste.prefer(prompt, a, b)

    return Taste(taste.name, prefer, taste.draw, taste.corrects)
