"""Whether a critique says that nothing is wrong, by the phrases that a constitution names (`nothing_wrong`).

Taken for a fault by mistake, a reply costs one revision that wasn't needed; taken for sound by mistake, it goes out as
it is. So a phrase counts only where nothing speaks against it: in the critique's own words, and with no word in its
clause that denies it, doubts it or makes an exception. The words that do are English; a constitution in another
language names phrases that its denials don't hold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_QUOTATION = re.compile(
    r""" "[^"]*(?:"|\Z) | “[^”]*(?:”|\Z) | „[^“”]*(?:[“”]|\Z) | «[^»]*(?:»|\Z) | ‹[^›]*(?:›|\Z)
       | 「[^」]*(?:」|\Z) | 『[^』]*(?:』|\Z) | `+[^`]*(?:`+|\Z)
       | (?<!\w)['‘](?=\S)(?:.*?(?<!\s)['’](?!\w)|.*\Z) """,
    re.VERBOSE | re.DOTALL,
)
"""What may be the reply's words; a mark that is never closed, as in a critique that was cut, quotes all that follows. A
single mark opens before a word and closes behind one: within a word it is an apostrophe."""
_LEFT_OUT = " … "
_NOT = r"(?:\bnot\b|n['’]t\b)"
_DENIED = re.compile(
    rf"""{_NOT} | \b(?:cannot|cant|never|no|none|nobody|nothing|nor|neither|nowhere|without
    |hardly|scarcely|barely|rarely|seldom|almost|nearly|partly|less|far\ from|anything\ but|instead\ of|rather\ than
    |fail(?:s|ed)?|lack(?:s|ed|ing)?|if|unless|whether|otherwise|apart\ from|except|besides
    |den(?:y|ies|ied|ying)|doubts?|pretend(?:s|ed|ing)?|wrong|false|untrue|incorrect|impossible|hard|difficult
    |(?:say|claim|suggest|impl(?:ie|y)|assert|insist|state|tell|argue|believe|think|assume)s
    |said|claimed|suggested|implied|asserted|insisted|stated|told|argued|believed|assumed
    |saying|claiming|suggesting|implying|asserting|insisting|stating|telling|arguing|believing|thinking|assuming)\b""",
    re.VERBOSE,
)
"""In the phrase's clause, before it: a denial, a doubt, or that somebody else says so."""
_CLAUSE_ENDS = re.compile(r"[,.;:!?()\n–—]")
_SENTENCE_ENDS = re.compile(r"[.!?\n]")
_BUT = "but|however|except|although|though|yet|nevertheless|nonetheless|unless"
_EXCEPTED = re.compile(rf"\b(?:{_BUT}|apart from|aside from|other than|besides|as long as|if)\b")
"""Behind the phrase, in its sentence."""
_TAKEN_BACK = re.compile(rf"\W*(?:{_BUT}|still|that said)\b")
"""How a later sentence begins."""
_REVERSED = re.compile(rf"\s*(?:{_NOT}|never\b)")
"""Right behind the phrase: "as it should not"."""


def says_one_of(phrases: Sequence[str], critique: str) -> bool:
    """Whether one of the phrases stands in the critique, and none of them where something speaks against it."""
    sayable = sorted(filter(has_a_word, phrases), key=len, reverse=True)
    if not sayable:
        return False
    said = _QUOTATION.sub(_LEFT_OUT, critique.lower())
    phrase = re.compile("|".join(map(_pattern, sayable)))
    found = list(phrase.finditer(said))
    return bool(found) and all(_holds(phrase.sub(_LEFT_OUT, said[: one.start()]), said[one.end() :]) for one in found)


def has_a_word(phrase: str) -> bool:
    """Whether it says anything: one of marks alone would be found in what is left out."""
    return any(map(str.isalnum, phrase))


def _pattern(phrase: str) -> str:
    """However it is spaced; not within another word, where letters beyond a to z may be of a script without spaces."""
    words = r"\s+".join(map(re.escape, phrase.lower().split()))
    return rf"(?<![a-z]){words}(?:(?=n['’]t\b)|(?![a-z]))"


def _holds(before: str, after: str) -> bool:
    clause = _CLAUSE_ENDS.split(before)[-1]
    sentence, *later = _SENTENCE_ENDS.split(after)
    against = _DENIED.search(clause) or _REVERSED.match(after) or _EXCEPTED.search(sentence)
    return not (against or any(map(_TAKEN_BACK.match, later)))
