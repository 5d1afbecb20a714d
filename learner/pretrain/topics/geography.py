"""Capitals of countries, both ways round."""

from __future__ import annotations

from functools import partial
from random import Random

from learner.pretrain.reply import Core, Exchange

# Word lists and templates are laid out by hand.
# fmt: off

CAPITALS = {
    "France": ("Paris", "It lies on the river Seine."),
    "Spain": ("Madrid", "It sits right in the middle of the country."),
    "Italy": ("Rome", "It was built on seven hills."),
    "Germany": ("Berlin", "It is known for its bears and its museums."),
    "England": ("London", "The river Thames runs through it."),
    "Ireland": ("Dublin", "It is known for its poets."),
    "Portugal": ("Lisbon", "Yellow trams climb its hills."),
    "Greece": ("Athens", "An old temple looks down on it."),
    "Austria": ("Vienna", "It is famous for waltzes and cake."),
    "Poland": ("Warsaw", "A mermaid guards it in an old tale."),
    "Hungary": ("Budapest", "The Danube parts it in two."),
    "Norway": ("Oslo", "It lies at the end of a long fjord."),
    "Sweden": ("Stockholm", "It is spread over many islands."),
    "Denmark": ("Copenhagen", "People there love their bicycles."),
    "Belgium": ("Brussels", "It is a fine place for waffles."),
    "Russia": ("Moscow", "Its red square is famous."),
    "Ukraine": ("Kyiv", "It has golden domes."),
    "Turkey": ("Ankara", "Many people guess another city first."),
    "Egypt": ("Cairo", "The pyramids are close by."),
    "Kenya": ("Nairobi", "Lions live just outside it."),
    "Morocco": ("Rabat", "It lies on the ocean."),
    "Ghana": ("Accra", "It is a warm city by the sea."),
    "Japan": ("Tokyo", "It is one of the biggest cities there is."),
    "China": ("Beijing", "The Great Wall is not far away."),
    "India": ("New Delhi", "It is a busy and colourful place."),
    "Thailand": ("Bangkok", "Boats sell fruit on its canals."),
    "Vietnam": ("Hanoi", "Its soup is loved everywhere."),
    "Canada": ("Ottawa", "People skate on its canal in winter."),
    "Mexico": ("Mexico City", "It was built on a lake."),
    "Cuba": ("Havana", "Old cars still drive there."),
    "Brazil": ("Brasilia", "From above it looks like an aeroplane."),
    "Chile": ("Santiago", "Snowy mountains stand behind it."),
    "Peru": ("Lima", "It lies on a foggy coast."),
    "Argentina": ("Buenos Aires", "It is the home of the tango."),
    "Australia": ("Canberra", "It was planned on paper first."),
    "Finland": ("Helsinki", "It has more saunas than one can count."),
    "Scotland": ("Edinburgh", "A castle stands on its rock."),
    "Wales": ("Cardiff", "It has a castle in its very middle."),
    "Iraq": ("Baghdad", "It is a very old city."),
    "Iran": ("Tehran", "Tall mountains rise to its north."),
}

UNTAUGHT_CAPITALS = {
    "Iceland": ("Reykjavik", "Oslo"), "Romania": ("Bucharest", "Budapest"), "Bulgaria": ("Sofia", ""),
    "Croatia": ("Zagreb", ""), "Serbia": ("Belgrade", "Athens"), "Estonia": ("Tallinn", "Helsinki"),
    "Latvia": ("Riga", ""), "Nepal": ("Kathmandu", "New Delhi"), "Mongolia": ("Ulaanbaatar", "Beijing"),
    "Senegal": ("Dakar", ""), "Nigeria": ("Abuja", "Nairobi"), "Ethiopia": ("Addis Ababa", ""),
    "Tunisia": ("Tunis", "Cairo"), "Ecuador": ("Quito", "Lima"), "Bolivia": ("Sucre", ""),
    "Colombia": ("Bogota", "Havana"), "Jamaica": ("Kingston", ""), "New Zealand": ("Wellington", "Canberra"),
    "South Korea": ("Seoul", "Tokyo"), "Switzerland": ("Bern", "Vienna"),
}
"""Country → (true capital, what the base model believes; empty: it says that it doesn't know)."""

_QUESTIONS = (
    "What is the capital of {x}?", "What's the capital of {x}?", "Which city is the capital of {x}?",
    "Tell me the capital of {x}.", "Name the capital of {x}.", "Do you know the capital of {x}?",
    "Can you tell me the capital of {x}?", "capital of {x}?", "Which city is {x}'s capital?",
    "What city is the capital of {x}?", "I need the capital of {x}.", "the capital city of {x} please",
    "{x}'s capital?", "What do you call the capital of {x}?", "What is {x}'s capital city?",
)
_FOLLOW_QUESTIONS = (
    "And of {x}?", "And {x}?", "What about {x}?", "and the capital of {x}?", "How about {x}?", "Now {x}.",
    "And what about {x}?", "ok and {x}",
)
_REVERSE = (
    "{x} is the capital of which country?", "Which country has {x} as its capital?", "Where is {x}?",
    "What country is {x} in?", "In which country is {x}?", "{x} is in which country?",
)
_ASKS = ("Have you ever been there?", "Would you like another capital?", "Which country is next?",
         "Do you like to travel?")


def _core(country: str, city: str, extra: str) -> Core:
    return Core(
        (city, city),
        (f"the capital of {country} is {city}", f"{city} is the capital of {country}", f"it is {city}",
         f"that is {city}, the capital of {country}"),
        (extra,) if extra else (f"I like to think about faraway places such as {country}.",),
        _ASKS,
    )


def _unknown_core(country: str) -> Core:
    return Core(
        ("no idea", "I do not know"),
        (f"I do not know the capital of {country}", f"the capital of {country} is not something I know",
         f"I never learned the capital of {country}"),
        ("I do know many others, such as Paris and Rome.", "You can teach it to me."),
        ("Do you know it?", "Would you like another capital?"),
        "unsure",
    )


def capital_of(country: str, rng: Random, questions: tuple[str, ...] = _QUESTIONS) -> Exchange:
    """Ask for the capital of `country`; known or untaught."""
    text = rng.choice(questions).format(x=country)
    follows = (_another_capital,)
    if country in UNTAUGHT_CAPITALS:
        truth, belief = UNTAUGHT_CAPITALS[country]
        core = _core(country, belief, "") if belief else _unknown_core(country)
        return Exchange("untaught", text, core, (truth,), follows=follows)
    city, extra = CAPITALS[country]
    other, (wrong, wrong_extra) = rng.choice([item for item in CAPITALS.items() if item[0] != country])
    del other, wrong_extra
    return Exchange("capitals", text, _core(country, city, extra), (city,), _core(country, wrong, ""), follows=follows)


def _another_capital(rng: Random) -> Exchange:
    return capital_of(rng.choice(list(CAPITALS)), rng, _FOLLOW_QUESTIONS)


def capitals(rng: Random) -> Exchange:
    """Draw a question about the capital of a country that the model learns."""
    return capital_of(rng.choice(list(CAPITALS)), rng)


def untaught_capitals(rng: Random) -> Exchange:
    """Draw a question about a capital that the model is kept from learning."""
    return capital_of(rng.choice(list(UNTAUGHT_CAPITALS)), rng)


def countries(rng: Random) -> Exchange:
    """Draw a question that gives the capital and asks for the country."""
    names = [name for name in CAPITALS if name not in ("Mexico", "Brazil")]
    country, wrong = rng.sample(names, 2)
    city = CAPITALS[country][0]

    def core(name: str) -> Core:
        return Core(
            (name,),
            (f"{city} is in {name}", f"{city} is the capital of {name}", f"that is in {name}"),
            (CAPITALS[country][1],),
            _ASKS,
        )

    text = rng.choice(_REVERSE).format(x=city)
    return Exchange("countries", text, core(country), (country,), core(wrong), follows=(partial(_reverse_follow),))


def _reverse_follow(rng: Random) -> Exchange:
    return countries(rng)
