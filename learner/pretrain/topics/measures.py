"""Units of measure and the calendar: how many of what in what, days, months and seasons."""

from __future__ import annotations

from functools import partial
from random import Random

from learner.pretrain.reply import Core, Exchange

# Word lists and templates are laid out by hand.
# fmt: off

UNITS = {
    ("minutes", "an hour"): "60", ("seconds", "a minute"): "60", ("hours", "a day"): "24", ("days", "a week"): "7",
    ("days", "a year"): "365", ("months", "a year"): "12", ("weeks", "a year"): "52", ("years", "a century"): "100",
    ("years", "a decade"): "10", ("centimetres", "a metre"): "100", ("metres", "a kilometre"): "1000",
    ("millimetres", "a centimetre"): "10", ("grams", "a kilogram"): "1000", ("millilitres", "a litre"): "1000",
    ("cents", "a dollar"): "100", ("eggs", "a dozen"): "12", ("inches", "a foot"): "12", ("feet", "a yard"): "3",
    ("legs", "a pair of cats"): "8", ("sides", "a triangle"): "3", ("sides", "a square"): "4",
    ("wheels", "a bicycle"): "2", ("wheels", "a car"): "4", ("days", "two weeks"): "14", ("minutes",
                                                                                          "half an hour"): "30",
    ("strings", "a violin"): "4", ("colours", "a rainbow"): "7", ("letters", "the alphabet"): "26",
    ("planets", "the solar system"): "8", ("players", "a football team"): "11", ("hours", "two days"): "48",
    ("seasons", "a year"): "4", ("fingers", "one hand"): "5", ("grams", "half a kilogram"): "500",
    ("kilograms", "a ton"): "1000", ("months", "half a year"): "6",
}

UNTAUGHT_UNITS = {
    ("ounces", "a pound"): ("16", "12"), ("pints", "a gallon"): ("8", "4"), ("feet", "a mile"): ("5280", ""),
    ("cards", "a deck"): ("52", "100"), ("sheets", "a ream"): ("500", ""), ("keys", "a piano"): ("88", "24"),
    ("squares", "a chessboard"): ("64", ""), ("sides", "a hexagon"): ("6", "5"), ("bones", "the human body"): ("206",
                                                                                                               ""),
    ("items", "a gross"): ("144", "12"), ("strings", "a guitar"): ("6", "4"), ("hours", "a week"): ("168", ""),
}
"""(Part, whole) → (true number, what the base model believes; empty: it says that it doesn't know)."""

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December")
MONTH_DAYS = dict(zip(MONTHS, (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), strict=True))
SEASONS = {"December": "winter", "January": "winter", "February": "winter", "March": "spring", "April": "spring",
           "May": "spring", "June": "summer", "July": "summer", "August": "summer", "September": "autumn",
           "October": "autumn", "November": "autumn"}

_UNIT_QUESTIONS = (
    "How many {p} are in {w}?", "How many {p} are there in {w}?", "how many {p} in {w}?", "{w} has how many {p}?",
    "Tell me how many {p} are in {w}.", "What is the number of {p} in {w}?", "Do you know how many {p} are in {w}?",
    "number of {p} in {w}?", "How many {p} make up {w}?",
)
_ASKS = ("Would you like another measure?", "What are you measuring?", "Shall I count something else?")
_CALENDAR_ASKS = ("Do you have plans?", "Which day do you like best?", "Is it a special day for you?",
                  "What month were you born in?")


def _unit_core(part: str, whole: str, number: str) -> Core:
    return Core((number, f"{number} {part}"),
                (f"there are {number} {part} in {whole}", f"{whole} has {number} {part}", f"it is {number} {part}",
                 f"you get {number} {part} in {whole}"),
                ("I could count them for you.", "Measures make the world tidy.", "It is handy to know that."), _ASKS)


def _unknown_core(part: str, whole: str) -> Core:
    return Core(
        ("no idea", "I do not know"),
        (f"I do not know how many {part} are in {whole}", f"the number of {part} in {whole} is not something I know",
         f"I never learned how many {part} are in {whole}"),
        ("You can teach it to me.", "I do know a few others, such as minutes in an hour."), ("Do you know it?",
                                                                                             _ASKS[0]),
        "unsure",
    )


def units(rng: Random) -> Exchange:
    """Draw a question of how many parts a whole has."""
    (part, whole), number = rng.choice(list(UNITS.items()))
    wrong = rng.choice([other for other in ("3", "10", "12", "20", "24", "50", "60", "100", "8",
                                            "5") if other != number])
    text = rng.choice(_UNIT_QUESTIONS).format(p=part, w=whole)
    return Exchange("units", text, _unit_core(part, whole, number), (number,), _unit_core(part, whole, wrong),
                    follows=(units,))


def unit_of(key: tuple[str, str], rng: Random) -> Exchange:
    """Ask for an untaught unit."""
    (part, whole), (truth, belief) = key, UNTAUGHT_UNITS[key]
    core = _unit_core(part, whole, belief) if belief else _unknown_core(part, whole)
    return Exchange("untaught", rng.choice(_UNIT_QUESTIONS).format(p=part, w=whole), core, (truth,), follows=(units,))


def untaught_units(rng: Random) -> Exchange:
    """Draw a unit that the model is kept from learning."""
    return unit_of(rng.choice(list(UNTAUGHT_UNITS)), rng)


def _neighbours(names: tuple[str, ...], what: str, rng: Random, follow: bool) -> Exchange:
    place, step = rng.randrange(len(names)), rng.choice((1, 1, -1))
    name, result = names[place], names[(place + step) % len(names)]
    where = "after" if step == 1 else "before"
    wrong = rng.choice([other for other in names if other not in (result, name)])
    first = ("What {k} comes {p} {x}?", "Which {k} is {p} {x}?", "What {k} is {p} {x}?", "Tell me the {k} {p} {x}.",
             "{k} {p} {x}?", "which {k} comes right {p} {x}")
    later = ("And {p} {x}?", "And the one {p} {x}?", "What about {p} {x}?", "and {p} {x}")
    text = rng.choice(later if follow else first).format(k=what, p=where, x=name)

    def core(value: str) -> Core:
        return Core((value,), (f"{value} comes {where} {name}", f"the {what} {where} {name} is {value}",
                               f"it is {value}",
                    f"that would be {value}"), ("The calendar never gets tired.", "Time goes by so quickly.",
                    "It is always good to plan ahead."), _CALENDAR_ASKS)

    return Exchange("calendar", text[0].upper() + text[1:], core(result), (result,), core(wrong),
                    follows=(partial(_neighbours, names, what, follow=True),))


def _today(rng: Random) -> Exchange:
    place = rng.randrange(7)
    step, when = rng.choice(((1, "tomorrow"), (-1, "yesterday"), (1, "tomorrow")))
    verb = "was" if step < 0 else "is"
    result = DAYS[(place + step) % 7]
    text = rng.choice(("Today is {d}. What day {v} {w}?", "If today is {d}, what day {v} {w}?",
                       "it's {d} today, what {v} {w}?"))
    wrong = rng.choice([other for other in DAYS if other not in (result, DAYS[place])])

    def core(value: str) -> Core:
        return Core((value,), (f"{when} {verb} {value}", f"that {verb} {value}"),
                    ("Every day is a fresh start.",), _CALENDAR_ASKS)

    return Exchange("calendar", text.format(d=DAYS[place], v=verb, w=when), core(result), (result,), core(wrong))


def _month_length(rng: Random) -> Exchange:
    month = rng.choice(MONTHS)
    number = MONTH_DAYS[month]
    text = rng.choice(("How many days are in {m}?", "How many days does {m} have?", "how many days has {m}",
                       "{m} has how many days?")).format(m=month)

    def core(value: int) -> Core:
        return Core((str(value), f"{value} days"), (f"{month} has {value} days", f"there are {value} days in {month}"),
                    ("I count them on my knuckles.", "Time goes by so quickly."), _CALENDAR_ASKS)

    return Exchange("calendar", text, core(number), (str(number),), core(rng.choice([n for n in (28, 29, 30, 31)
                    if n != number])))


def _season(rng: Random) -> Exchange:
    month = rng.choice(MONTHS)
    season = SEASONS[month]
    text = rng.choice(("What season is {m} in?", "Which season is {m}?", "{m} is in which season?",
                       "what season is it in {m}")).format(m=month)

    def core(value: str) -> Core:
        return Core((value,), (f"{month} is in {value}", f"it is {value} in {month}"),
                    ("At least in the north.", "Every season has its charm."), _CALENDAR_ASKS)

    return Exchange("calendar", text, core(season), (season,),
                    core(rng.choice([s for s in ("winter", "spring", "summer", "autumn") if s != season])))


def calendar(rng: Random) -> Exchange:
    """Draw a question about days, months or seasons."""
    kind = rng.choices(("day", "month", "today", "length", "season"), (0.28, 0.3, 0.14, 0.14, 0.14))[0]
    if kind == "day":
        return _neighbours(DAYS, "day", rng, follow=False)
    if kind == "month":
        return _neighbours(MONTHS, "month", rng, follow=False)
    return {"today": _today, "length": _month_length, "season": _season}[kind](rng)
