"""How the model is asked for critique, revision and verdict: messages to be rendered with its chat template.

    Rule: …                            the principle's rule comes first, so that all after it is read in its light
    Before: …                          earlier turns, if there are any
    Question: …
    Reply: …                           or A: … and B: … for a verdict
    Critique: …                        for a revision
    What is wrong with the reply?      the principle's own request comes last

What people and models wrote is data: each of it stands behind its own word, its further lines are quoted (`> `) as in
a letter, and what counts is the request after it. So no line of theirs can pass for one of ours. Our own words are not
capitalised in it (`rule: be friendly`), however they are marked up, and the name of a special token is none: an engine
may read them as tokens, wherever they stand, and would take what follows for a turn of its own. Letters and brackets of
another shape (`Ａ：`, `＜｜`) count as the plain ones that they look like. A verdict is scored by the
log-probabilities of `OPTIONS` after the constitution's `verdict_prefix`, in both orders, so that what asks for "A" in
the data weighs on both sides alike.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from service.constitution.principles import Constitution, Principle

Message = dict[str, str]
"""`role` and `content`."""

OPTIONS = (" A", " B")
"""What a verdict says after `verdict_prefix`; each is compared by its first token."""

_OURS = re.compile(r"(?<![^\W_])(?:(?:Rule|Before|Question|Reply|Critique)(?![^\W_])|[AB](?=[\W_]*:))", re.IGNORECASE)
"""Wherever they stand: between marks, too (`**A**:`)."""
_SPEAKS = re.compile(r"[\W_]*(?:User|Assistant|System)(?=[\W_]*:)", re.IGNORECASE)
"""How the line of an earlier turn begins."""
_OPENS_TOKEN = re.compile(
    r"<(?=[|｜]|/?(?:s|bos|eos|pad|unk|think|[a-z]+(?:_[a-z]+)+)>|</?SYS>>)|\[(?=/?(?:INST|TOOL_[A-Z]+|AVAILABLE_TOOLS)\])",
    re.IGNORECASE,
)
"""Where the names of special tokens begin, in the usual families of models (`<|…|>`, `<im_start>`, `</tool_response>`).
"""
_STRUCTURE = "<>[]|/:_"
_LETTER = re.compile(r"\W*([AB])\W*", re.IGNORECASE)
_LETTER_AND_REASON = re.compile(r"\W*([AB])(?:[.,;:!)*\]\"”\n]|\s+because\b|\s*$)", re.IGNORECASE)


def critique_messages(
    constitution: Constitution, principle: Principle, conversation: Sequence[Message], reply: str
) -> list[Message]:
    """Asks what is wrong with `reply`, the answer to `conversation`, whose last message is the person's."""
    shown = _preamble(constitution)
    for example in principle.revisions:
        asked = _under(principle, [_user(example.question)], ("Reply", example.reply))
        shown += [_user(_asking(asked, principle.critique_request)), _assistant(example.critique)]
    asked = _under(principle, conversation, ("Reply", reply))
    return [*shown, _user(_asking(asked, principle.critique_request))]


def revision_messages(
    constitution: Constitution, principle: Principle, conversation: Sequence[Message], reply: str, critique: str | None
) -> list[Message]:
    """Asks for `reply` once more, better as `critique` says; None: as the rule alone says."""
    shown = _preamble(constitution)
    for example in principle.revisions:
        asked = _under(principle, [_user(example.question)], ("Reply", example.reply), ("Critique", example.critique))
        shown += [_user(_asking(asked, principle.revision_request)), _assistant(example.revision)]
    parts = [("Reply", reply)] if critique is None else [("Reply", reply), ("Critique", critique)]
    asked = _under(principle, conversation, *parts)
    return [*shown, _user(_asking(asked, principle.revision_request))]


def verdict_messages(
    constitution: Constitution,
    principle: Principle,
    conversation: Sequence[Message],
    reply_a: str,
    reply_b: str,
    reasoned: bool = False,
) -> list[Message]:
    """Asks which of two replies is better; `reasoned`: after thoughts about both."""
    question = principle.comparison_question + (f" {constitution.reasoning_request}" if reasoned else "")
    shown = _preamble(constitution)
    examples = () if reasoned else principle.comparisons  # without thoughts they would teach to do without
    for example in examples:
        asked = _under(principle, [_user(example.question)], ("A", example.a), ("B", example.b))
        shown += [_user(_asking(asked, question)), _assistant(f"{constitution.verdict_prefix} {example.better}")]
    asked = _under(principle, conversation, ("A", reply_a), ("B", reply_b))
    return [*shown, _user(_asking(asked, question))]


def read_verdict(constitution: Constitution, said: str) -> str | None:
    """ "A" or "B" as a written verdict has it; None where it says neither, or nothing that can be read.

    Behind the prefix a reason may follow ("Better: A, because …"); without the prefix the letter stands alone.
    """
    _, found, after = said.rpartition(constitution.verdict_prefix)
    letter = _LETTER_AND_REASON.match(after) if found else _LETTER.fullmatch(said)
    return letter[1].upper() if letter else None


def quoted(text: str) -> str:
    """Text under judgement: no line, no word and no token of it can pass for one of ours."""
    return _as_data(text.strip())


def _as_data(text: str) -> str:
    text = "".join(map(_plain, text))
    text = _OPENS_TOKEN.sub(r"\g<0> ", text)
    text = _OURS.sub(lambda word: word[0].lower(), text)
    return "\n> ".join(map(_as_no_turn, text.splitlines()))


def _plain(letter: str) -> str:
    """A letter or a mark of the frame as such, whatever its shape (Unicode's NFKC); all else is as it was written."""
    if letter.isascii():
        return letter
    plain = unicodedata.normalize("NFKC", letter)
    is_ours = len(plain) == 1 and plain.isascii() and (plain.isalpha() or plain in _STRUCTURE)
    return plain if is_ours else letter


def _as_no_turn(line: str) -> str:
    speaker = _SPEAKS.match(line)
    end = speaker.end() if speaker else 0
    return line[:end].lower() + line[end:]


def _under(principle: Principle, conversation: Sequence[Message], *parts: tuple[str, str]) -> list[str]:
    *before, question = conversation
    lines = [f"Rule: {principle.rule}"]
    if before:
        turns = "\n  ".join(f"{turn['role'].capitalize()}: {quoted(turn['content'])}" for turn in before)
        lines.append(f"Before: {turns}")
    lines.append(f"Question: {quoted(question['content'])}")
    return lines + [f"{name}: {quoted(text)}" for name, text in parts]


def _asking(lines: Sequence[str], request: str) -> str:
    return "\n".join([*lines, request])


def _preamble(constitution: Constitution) -> list[Message]:
    return [{"role": "system", "content": constitution.preamble}] if constitution.preamble else []


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}
