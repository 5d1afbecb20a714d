"""Whether a critique says that nothing is wrong, by the phrases that a constitution names (`nothing_wrong`).

Taken for a fault by mistake, a reply costs one revision that wasn't needed; taken for sound by mistake, it goes out as
it is. So a critique finds no fault only where each of its sentences says so and nothing else: a phrase, with what it is
about ("There is nothing wrong with the reply."), or, for one that begins with "as", behind the clause that it approves
of ("It does no harm, as it should be."). The words around a phrase are English; a constitution in another language
names whole sentences.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_SENTENCE_ENDS = re.compile(r"[.!。！]+")
_MARKS = " \t\n*_#>-"
"""What emphasis and lists put around a sentence."""
_REPLY = r"(?:it|this|that|(?:the|this|that)\s+(?:reply|answer|response))"
_BEFORE = rf"(?:no,\s+)?(?:there\s+is\s+|i\s+(?:see|find|found)\s+|{_REPLY}\s+)?"
_BEHIND = rf"(?:\s+with)?(?:\s+{_REPLY})?"
_DENIED = r"(?:not|never|cannot|\w+n['’]t)\b"
_DOUBTED = r"hardly|scarcely|barely|almost|nearly|partly|fail|lack|if|unless|though|but|than|claim|say|pretend|wrong"
_WORDS = rf"(?:\s+(?!{_DENIED}|{_DOUBTED})[\w'’-]+)+"
_APPROVED = rf"{_REPLY}{_WORDS},\s+(?:(?:which|and)\s+(?:it\s+)?is\s+)?"
_RIGHTLY_NOT = rf"{_REPLY}\s+(?:does\s+not|doesn['’]t){_WORDS},\s+"
"""A denial is approved of by "as it should be"; "It does not refuse, as it should" may be blame."""


def says_one_of(phrases: Sequence[str], critique: str) -> bool:
    """Whether each sentence of the critique is one of the phrases."""
    sayable = [_sentence(phrase) for phrase in phrases if has_a_word(phrase)]
    said = [sentence.strip(_MARKS) for sentence in _SENTENCE_ENDS.split(critique.lower())]
    sentences = [sentence for sentence in said if sentence]
    whole = re.compile("|".join(sayable))
    return bool(sayable and sentences) and all(map(whole.fullmatch, sentences))


def has_a_word(phrase: str) -> bool:
    """Whether it says anything: one of marks alone is nobody's sentence."""
    return any(map(str.isalnum, phrase))


def _sentence(phrase: str) -> str:
    """It, however it is spaced, as a sentence."""
    words = phrase.lower().strip(" .!").split()
    said = r"\s+".join(map(re.escape, words))
    if words[0] == "as":
        return rf"(?:{_APPROVED}|{_REPLY}\s+is\s+|{_BEFORE}){said}(?:\s+be)?|{_RIGHTLY_NOT}{said}\s+be"
    return _BEFORE + said + _BEHIND
