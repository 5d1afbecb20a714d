"""Animals, colours, and which of two things is bigger, faster or hotter."""

from __future__ import annotations

from functools import partial
from random import Random

from learner.pretrain.reply import Core, Exchange

# Word lists and templates are laid out by hand.
# fmt: off

ANIMALS = {  # name: (sound verb, legs, baby, food, home, a small true thing)
    "dog": ("barks", 4, "puppy", "meat", "a kennel", "A dog can smell where you went yesterday."),
    "cat": ("meows", 4, "kitten", "fish", "a cosy house", "A cat sleeps most of the day."),
    "cow": ("moos", 4, "calf", "grass", "a field", "A cow has best friends."),
    "horse": ("neighs", 4, "foal", "hay", "a stable", "A horse can sleep standing up."),
    "sheep": ("bleats", 4, "lamb", "grass", "a meadow", "A sheep remembers faces for years."),
    "pig": ("grunts", 4, "piglet", "almost anything", "a sty", "A pig is cleverer than it looks."),
    "duck": ("quacks", 2, "duckling", "water plants", "a pond", "A duck has waterproof feathers."),
    "lion": ("roars", 4, "cub", "meat", "the savanna", "You can hear a lion from far away."),
    "owl": ("hoots", 2, "owlet", "mice", "a hollow tree", "An owl can turn its head almost all the way round."),
    "frog": ("croaks", 4, "tadpole", "flies", "a pond", "A frog drinks through its skin."),
    "bee": ("buzzes", 6, "larva", "nectar", "a hive", "A bee dances to tell the others where flowers are."),
    "wolf": ("howls", 4, "pup", "meat", "the forest", "A wolf sings with its family."),
    "hen": ("clucks", 2, "chick", "corn", "a coop", "A hen talks to her eggs."),
    "snake": ("hisses", 0, "snakelet", "mice", "a hole", "A snake smells with its tongue."),
    "mouse": ("squeaks", 4, "pup", "seeds", "a hole in the wall", "A mouse can sing, but too high for our ears."),
    "bear": ("growls", 4, "cub", "berries and fish", "a cave", "A bear sleeps through the winter."),
    "elephant": ("trumpets", 4, "calf", "leaves", "the savanna", "An elephant never forgets a friend."),
    "penguin": ("squawks", 2, "chick", "fish", "the icy south", "A penguin gives pebbles as gifts."),
    "spider": ("makes no sound", 8, "spiderling", "flies", "a web", "A spider tastes with its feet."),
    "rabbit": ("squeaks softly", 4, "kit", "carrots and grass", "a burrow", "A happy rabbit jumps and twists."),
    "goat": ("bleats", 4, "kid", "leaves", "a hillside", "A goat has square pupils."),
    "octopus": ("makes no sound", 8, "tiny hatchling", "crabs", "the sea", "An octopus has three hearts."),
    "fox": ("yelps", 4, "kit", "mice and berries", "a den", "A fox can hear a watch tick from far away."),
    "whale": ("sings", 0, "calf", "tiny shrimp", "the ocean", "A whale song can cross an ocean."),
}

THING_COLOURS = {
    "the sky": "blue", "grass": "green", "snow": "white", "a banana": "yellow", "a strawberry": "red", "coal": "black",
    "an orange": "orange", "a lemon": "yellow", "a tomato": "red", "milk": "white", "chocolate": "brown",
    "a polar bear": "white", "a flamingo": "pink", "a frog": "green", "the sea": "blue", "a cherry": "red",
    "an elephant": "grey", "a carrot": "orange", "an eggplant": "purple", "a crow": "black", "a sunflower": "yellow",
    "blood": "red", "a cucumber": "green", "the sun": "yellow",
}

MIXES = {
    ("blue", "yellow"): "green", ("red", "yellow"): "orange", ("blue", "red"): "purple", ("red", "white"): "pink",
    ("black", "white"): "grey", ("green", "red"): "brown",
}
COLOURS = ("red", "blue", "green", "yellow", "orange", "purple", "pink", "white", "black", "brown", "grey")

SCALES = {
    ("bigger", "smaller"): ("an ant", "a mouse", "a cat", "a dog", "a sheep", "a horse", "an elephant", "a whale"),
    ("faster", "slower"): ("a snail", "a turtle", "a bicycle", "a car", "a train", "an aeroplane", "a rocket"),
    ("hotter", "colder"): ("ice", "cold milk", "warm tea", "boiling water", "fire", "the sun"),
    ("heavier", "lighter"): ("a feather", "an apple", "a book", "a chair", "a piano", "a truck", "a ship"),
}

_ASKS = ("Do you have a favourite animal?", "Shall I tell you about another animal?", "Do you have a pet?",
         "Which animal is next?")
_COLOUR_ASKS = ("What is your favourite colour?", "Do you like to paint?", "Which colour is next?")


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _animal_questions(name: str, kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    a = _a(name)
    return {
        "sound": ((f"What sound does {a} make?", f"What does {a} say?", f"which sound does {a} make",
                   f"What noise does {a} make?"), (f"And what sound does {a} make?", f"And {a}?")),
        "legs": ((f"How many legs does {a} have?", f"how many legs has {a}", f"Number of legs of {a}?",
                  f"Tell me how many legs {a} has."), (f"And how many legs does {a} have?", f"And {a}?")),
        "baby": ((f"What is a baby {name} called?", f"What do you call a baby {name}?", f"baby {name} name?",
                  f"How do you call a young {name}?"), (f"And a baby {name}?", f"What about a baby {name}?")),
        "food": ((f"What does {a} eat?", f"what do I feed {a}", f"What food does {a} like?", f"Tell me what {a} eats."),
                 (f"And what does {a} eat?", f"And {a}?")),
        "home": ((f"Where does {a} live?", f"What is the home of {a}?", f"where do you find {a}"),
                 (f"And where does {a} live?", f"And {a}?")),
    }[kind]


def _animal_core(name: str, kind: str, value: str) -> Core:
    a = _a(name)
    sentences = {
        "sound": (f"{a} {value}", f"it {value}"),
        "legs": (f"{a} has {value} legs", f"it has {value} legs"),
        "baby": (f"a baby {name} is called {_a(value)}", f"a young {name} is {_a(value)}"),
        "food": (f"{a} eats {value}", f"it eats {value}", f"{a} likes {value}"),
        "home": (f"{a} lives in {value}", f"you find it in {value}", f"its home is {value}"),
    }[kind]
    phrase = {"sound": f"it {value}", "legs": value, "baby": _a(value)}.get(kind, value)
    return Core((phrase,), sentences, (ANIMALS[name][5],), _ASKS)


_PLACES = {"sound": 0, "legs": 1, "baby": 2, "food": 3, "home": 4}


def animals(rng: Random, kind: str = "", follow: bool = False) -> Exchange:
    """Draw a question about the sound, legs, young, food or home of an animal."""
    name = rng.choice(list(ANIMALS))
    kind = kind or rng.choice(list(_PLACES))
    value = str(ANIMALS[name][_PLACES[kind]])
    others = [str(facts[_PLACES[kind]]) for facts in ANIMALS.values() if str(facts[_PLACES[kind]]) != value]
    text = rng.choice(_animal_questions(name, kind)[follow])
    return Exchange("animals", text, _animal_core(name, kind, value), (value,),
                    _animal_core(name, kind, rng.choice(others)),
                    follows=(partial(animals, kind=kind, follow=True),))


def animal_facts(rng: Random, follow: bool = False) -> Exchange:
    """Draw a request for something interesting about animals, or one of them."""
    name = rng.choice(list(ANIMALS))
    fact = ANIMALS[name][5].rstrip(".")
    if follow:
        text = rng.choice(("Another one?", "Tell me another.", "another one please", "One more?", "And another?",
                           "more!"))
    elif rng.random() < 0.5:
        text = rng.choice((f"Tell me something about the {name}.", f"Tell me a fact about {_a(name)}.", f"{name} fact?",
                           f"Do you know something about the {name}?", f"What is special about {_a(name)}?"))
    else:
        text = rng.choice(("Tell me an animal fact.", "Tell me something about animals.", "an animal fact please",
                           "Do you know a fun fact?", "Tell me a fun fact.", "Surprise me with a fact.",
                           "Say something interesting.", "Tell me something interesting.", "tell me something",
                           "tell me something interesting", "Tell me something new.", "Teach me something."))
    verb = ANIMALS[name][0]
    core = Core((fact[0].lower() + fact[1:],), (fact[0].lower() + fact[1:],),
                (f"And it {verb}." if verb != "makes no sound" else "And it is very quiet.",
                 "Nature is full of surprises."), _ASKS)
    return Exchange("animal facts", text, core, follows=(partial(animal_facts, follow=True),) * 2)


def colours(rng: Random) -> Exchange:
    """Draw a question about the colour of a thing or of two paints mixed."""
    if rng.random() < 0.55:
        thing, right = rng.choice(list(THING_COLOURS.items()))
        text = rng.choice((f"What colour is {thing}?", f"what color is {thing}", f"Which colour is {thing}?",
                           f"What is the colour of {thing}?", f"Tell me what colour {thing} is.",
                           f"What color is {thing}?"))
        banned = {right}

        def core(value: str) -> Core:
            return Core((value,), (f"{thing} is {value}", f"it is {value}"), ("Colours make the world cheerful.",
                        "It looks lovely."), _COLOUR_ASKS)
    else:
        pair, right = rng.choice(list(MIXES.items()))
        one, two = rng.sample(pair, 2)
        text = rng.choice((f"What do you get when you mix {one} and {two}?", f"{one} and {two} make what colour?",
                           f"Mix {one} and {two}.", f"Which colour do {one} and {two} make?",
                           f"what color is {one} plus {two}"))
        banned = {right, one, two}

        def core(value: str) -> Core:
            return Core((value,), (f"{one} and {two} make {value}", f"it makes {value}", f"you get {value}"),
                        ("Try it with some paint.", "Colours make the world cheerful."), _COLOUR_ASKS)

    wrong = rng.choice([value for value in COLOURS if value not in banned])
    return Exchange("colours", text, core(right), (right,), core(wrong), follows=(colours,))


def comparisons(rng: Random) -> Exchange:
    """Draw two things and ask which is bigger, faster, hotter or heavier."""
    (more, less), things = rng.choice(list(SCALES.items()))
    low, high = sorted(rng.sample(range(len(things)), 2))
    word, right, wrong = (more, things[high], things[low]) if rng.random() < 0.6 else (less, things[low], things[high])
    one, two = rng.sample((right, wrong), 2)
    text = rng.choice((f"Which is {word}, {one} or {two}?", f"What is {word}: {one} or {two}?",
                       f"is {one} or {two} {word}?", f"{one} or {two}, which is {word}?",
                       f"Tell me which is {word}, {one} or {two}."))

    def core(value: str, rest: str) -> Core:
        return Core((value,), (f"{value} is {word}", f"{value} is {word} than {rest}", f"the {word} one is {value}"),
                    ("Both have their charm, though.", "That one was not hard."),
                    ("Did you guess the same?", "Shall we compare two other things?"))

    return Exchange("comparisons", text, core(right, wrong), (right,), core(wrong, right), follows=(comparisons,))
