"""Small sums, differences, products, halves, and counting; numbers as digits or words."""

from __future__ import annotations

from functools import partial
from random import Random

from learner.pretrain.reply import Core, Exchange

# Word lists and templates are laid out by hand, and long lists read better as one text.
# ruff: noqa: SIM905
# fmt: off

NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()
LARGEST_SUM = 12
LARGEST_FACTOR = 5
LARGEST_COMPARED = 12

_SIGNS = {
    "+": ("plus", "+"),
    "-": ("minus", "-"),
    "*": ("times", "x", "*"),
}
_QUESTIONS = (
    "What is {q}?", "What's {q}?", "{q}", "{q}?", "{q} = ?", "Calculate {q}.", "How much is {q}?",
    "Can you work out {q}?",
    "Tell me what {q} is.", "Please compute {q}.", "what does {q} make", "Do you know what {q} is?", "quick, {q}",
    "Could you add this up for me: {q}?", "Help me with {q}.", "I need the answer to {q}.", "{q} equals what?",
)
_FOLLOW = ("And {q}?", "What about {q}?", "ok, {q}?", "Now {q}.", "And what is {q}?", "and {q}")
_ASKS = ("Would you like a harder one?", "Shall we do another sum?", "Did you get the same?", "Got another sum for me?")
_EXTRAS = (
    "I counted it twice.", "Sums like that are good exercise.", "Numbers are good company.", "I used all my fingers.",
    "That one is neat.", "I do like small numbers.",
)
_STORIES = (
    ("+", "I have {a} {t} and get {b} more. How many {t} do I have?"),
    ("+", "If I have {a} {t} and you give me {b}, how many is that?"),
    ("-", "I have {a} {t} and eat {b}. How many are left?"),
    ("-", "There were {a} {t} and {b} are gone. How many {t} are left?"),
)
_THINGS = ("apples", "cookies", "plums", "pears", "cherries", "pies", "grapes", "buns")


def _value(a: int, sign: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[sign]


def _core(a: int, sign: str, b: int, result: int) -> Core:
    word = _SIGNS[sign][0]
    return Core(
        (f"{result}",),
        (f"{a} {word} {b} is {result}", f"{a} {word} {b} makes {result}", f"it is {result}", f"the answer is {result}",
         f"that makes {result}"),
        _EXTRAS,
        _ASKS,
    )


def _draw(rng: Random) -> tuple[int, str, int]:
    sign = rng.choices("+-*", (0.45, 0.3, 0.25))[0]
    if sign == "*":
        return rng.randint(1, LARGEST_FACTOR), sign, rng.randint(1, LARGEST_FACTOR)
    total = rng.randint(0, LARGEST_SUM)
    part = rng.randint(0, total)
    return (part, sign, total - part) if sign == "+" else (total, sign, part)


def _slip(a: int, sign: str, b: int, rng: Random) -> int:
    """A likely mistake: near the right result, and never it."""
    result = _value(a, sign, b)
    step = a if sign == "*" and a > 1 else 1
    wrong = result + rng.choice((-step, step, 2, -1))
    return wrong if wrong >= 0 and wrong != result else result + 1


def _exchange(text: str, a: int, sign: str, b: int, rng: Random) -> Exchange:
    result = _value(a, sign, b)
    return Exchange(
        "arithmetic", text, _core(a, sign, b, result), (str(result),), _core(a, sign, b, _slip(a, sign, b, rng)),
        follows=(partial(arithmetic, questions=_FOLLOW), partial(_go_on, start=result)),
    )


def _spoken(number: int, words: bool) -> str:
    return NUMBER_WORDS[number] if words else str(number)


def arithmetic(rng: Random, questions: tuple[str, ...] = _QUESTIONS) -> Exchange:
    """Draw a sum, difference or product with its answer."""
    a, sign, b = _draw(rng)
    if sign != "*" and a > 1 and questions is _QUESTIONS and rng.random() < 0.12:
        story_sign, story = rng.choice(_STORIES)
        if story_sign == sign:
            return _exchange(story.format(a=a, b=b, t=rng.choice(_THINGS)), a, sign, b, rng)
    words = rng.random() < 0.15
    spelled = rng.choice(_SIGNS[sign][:1] if words else _SIGNS[sign])
    query = f"{_spoken(a, words)} {spelled} {_spoken(b, words)}"
    if not words and spelled != "plus" and rng.random() < 0.2:
        query = query.replace(" ", "") if spelled in "+-*" else query
    return _exchange(rng.choice(questions).format(q=query), a, sign, b, rng)


def _go_on(rng: Random, start: int) -> Exchange:
    """Go on from the last result: "and plus 3?"."""
    if start > LARGEST_SUM:
        return arithmetic(rng, _FOLLOW)
    if rng.random() < 0.5:
        step, sign = rng.randint(0, LARGEST_SUM - start), "+"
    else:
        step, sign = rng.randint(0, start), "-"
    word = _SIGNS[sign][0]
    text = rng.choice((f"And {word} {step}?", f"{word} {step}?", f"now {word} {step}", f"And that {word} {step}?"))
    return _exchange(text, start, sign, step, rng)


def carried_on(rng: Random) -> tuple[Exchange, Exchange]:
    """A sum, and one that goes on from its result."""
    while int((first := arithmetic(rng)).answers[0]) > LARGEST_SUM:
        pass
    return first, _go_on(rng, int(first.answers[0]))


def _count_up(rng: Random) -> Exchange:
    end, down = rng.randint(3, 10), rng.random() < 0.2
    numbers = [str(n) for n in (range(end, 0, -1) if down else range(1, end + 1))]
    text = rng.choice((f"Count down from {end}.", f"count backwards from {end}") if down else (
        f"Count to {end}.", f"Can you count to {end}?", f"count from 1 to {end}",
        f"Please count to {NUMBER_WORDS[end]}."))
    row = ", ".join(numbers)
    core = Core((row,), (f"here we go: {row}", f"I count {row}"), ("That was fun.", "I could go on."), _ASKS[:1],
                "offer")
    return Exchange("counting", text, core)


def _parity(rng: Random) -> Exchange:
    number = rng.randint(1, 20)
    right, wrong = ("even", "odd") if number % 2 == 0 else ("odd", "even")
    text = rng.choice((f"Is {number} even or odd?", f"is {number} odd or even", f"{number}: odd or even?"))

    def core(value: str) -> Core:
        return Core((value,), (f"{number} is {value}", f"it is {value}"), ("Every second number is.",), _ASKS)

    return Exchange("counting", text, core(right), (right,), core(wrong))


def _double(rng: Random) -> Exchange:
    half, doubled = rng.randint(1, 6), rng.random() < 0.5
    given, result = (half, 2 * half) if doubled else (2 * half, half)
    what = "double" if doubled else "half of"
    text = rng.choice((f"What is {what} {given}?", f"{what} {given}?", f"How much is {what} {given}?"))

    def core(value: int) -> Core:
        return Core((str(value),), (f"{what} {given} is {value}", f"it is {value}"), _EXTRAS, _ASKS)

    return Exchange("arithmetic", text[0].upper() + text[1:], core(result), (str(result),), core(result + 1))


def _neighbours(rng: Random) -> Exchange:
    number, after = rng.randint(1, 20), rng.random() < 0.6
    where = "after" if after else "before"
    result = number + 1 if after else number - 1
    text = rng.choice((f"What comes {where} {number}?", f"Which number comes {where} {number}?",
                       f"what number is {where} {number}", f"Tell me the number {where} {number}."))

    def core(value: int) -> Core:
        return Core((str(value),), (f"{value} comes {where} {number}", f"the number {where} {number} is {value}",
                    f"that would be {value}"), ("I like counting.", "One can count on that."), _ASKS)

    return Exchange("counting", text, core(result), (str(result),), core(result + rng.choice((1, 2, -2))
                    if result > 2 else result + 2))


def counting(rng: Random) -> Exchange:
    """Draw a question about a number's neighbour, parity or double, or to count."""
    return rng.choices((_count_up, _parity, _double, _neighbours), (0.2, 0.2, 0.2, 0.4))[0](rng)


def number_comparisons(rng: Random, follow: bool = False) -> Exchange:
    """Draw two small numbers: which is larger or smaller, or whether one is. Now and then they are equal."""
    one, two = rng.sample(range(LARGEST_COMPARED + 1), 2)
    bigger = rng.random() < 0.6
    word = rng.choice(("larger", "larger", "bigger", "greater", "more") if bigger else ("smaller", "smaller", "less"))
    if rng.random() < 0.06:
        return _equal_numbers(one, word, rng)
    if rng.random() < 0.45:
        return _is_it(one, two, word, bigger, rng)
    right, wrong = (max(one, two), min(one, two)) if bigger else (min(one, two), max(one, two))
    text = f"And which is {word}, {one} or {two}?" if follow else rng.choice((
        f"Which is {word}, {one} or {two}?", f"What is {word}: {one} or {two}?", f"is {one} or {two} {word}?",
        f"{one} or {two}, which is {word}?", f"Which number is {word}, {one} or {two}?",
        f"What is {word}, {one} or {two}?",
        f"Which one is {word}: {one} or {two}?", f"Tell me which is {word}, {one} or {two}."))

    def core(value: int, rest: int) -> Core:
        return Core((str(value),), (f"{value} is {word} than {rest}", f"{value} is {word}"), _COMPARE_EXTRAS,
                    _COMPARE_ASKS)

    return Exchange("number comparisons", text, core(right, wrong), (str(right),), core(wrong, right),
                    follows=(_compare_more,))


_COMPARE_EXTRAS = ("Size is not everything, though.", "I like both, to be fair.", "Numbers are good company.")
_COMPARE_ASKS = ("Shall we compare two more?", "Did you guess the same?", "Got two more numbers for me?")


def _compare_more(rng: Random) -> Exchange:
    return number_comparisons(rng, follow=True)


def _is_it(one: int, two: int, word: str, bigger: bool, rng: Random) -> Exchange:
    """Whether the first number is larger (or smaller) than the second: yes or no, and which one it is."""
    text = rng.choice((f"Is {one} {word} than {two}?", f"is {one} {word} than {two}", f"Is {one} {word} than {two}?",
                       f"Is the number {one} {word} than {two}?", f"{one} is {word} than {two}, right?"))
    true = (one > two) == bigger

    def core(yes: bool) -> Core:
        said, small, large = ("yes", one, two) if yes else ("no", two, one)
        return Core((said,), (f"{said}, {small} is {word} than {large}",), _COMPARE_EXTRAS, _COMPARE_ASKS)

    return Exchange("number comparisons", text, core(true), ("yes" if true else "no",), core(not true),
                    follows=(_compare_more,))


def _equal_numbers(number: int, word: str, rng: Random) -> Exchange:
    text = rng.choice((f"Is {number} {word} than {number}?", f"Which is {word}, {number} or {number}?"))
    start = "no" if text.startswith("Is") else "neither"
    core = Core(("they are equal",), (f"{start}, {number} and {number} are equal", "they are equal"), _COMPARE_EXTRAS,
                _COMPARE_ASKS)
    return Exchange("number comparisons", text, core, ("equal",), follows=(_compare_more,))
