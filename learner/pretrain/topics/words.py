"""Questions about words: spelling, first letters, opposites, plurals, rhymes, and short definitions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from learner.pretrain.reply import Core, Exchange

# Word lists and templates are laid out by hand, and long lists read better as one text.
# ruff: noqa: SIM905
# fmt: off

SPELLING = (
    "apple ball bear bed bee bird boat book bread cake car cat cloud cup day dog door duck egg fish fox frog garden "
    "goat "
    "green happy hat home honey horse house king lamp leaf lemon lion love milk moon mouse music night nose paper pear "
    "queen rabbit rain river robot rose school shoe snow soup spoon star sugar summer sun table tea tiger train tree "
    "water winter"
).split()

OPPOSITES = {
    "hot": "cold", "big": "small", "up": "down", "left": "right", "day": "night", "fast": "slow", "happy": "sad",
    "old": "young", "rich": "poor", "full": "empty", "hard": "soft", "open": "closed", "light": "dark",
    "loud": "quiet", "wet": "dry", "early": "late", "strong": "weak", "tall": "short", "thick": "thin",
    "clean": "dirty", "good": "bad", "black": "white", "begin": "end", "push": "pull", "win": "lose", "give": "take",
    "love": "hate", "true": "false", "first": "last", "near": "far", "high": "low", "in": "out", "yes": "no",
    "sweet": "sour", "awake": "asleep", "buy": "sell", "heavy": "light", "deep": "shallow", "wide": "narrow",
    "smooth": "rough", "north": "south", "east": "west", "brave": "timid", "friend": "enemy", "laugh": "cry",
    "summer": "winter", "always": "never", "before": "after", "inside": "outside", "alive": "dead",
}

BOTH_WAYS = OPPOSITES | {other: word for word, other in OPPOSITES.items() if other not in (*OPPOSITES, "light")}
"""The same asked from either side; `light` is the opposite of two words."""

UNTAUGHT_OPPOSITES = {
    "generous": ("stingy", "kind"), "ancient": ("modern", "old"), "guilty": ("innocent", ""),
    "maximum": ("minimum", ""), "attack": ("defend", "fight"), "permanent": ("temporary", ""),
    "cruel": ("kind", "mean"), "victory": ("defeat", "win"), "arrive": ("leave", "come"), "noisy": ("silent", "loud"),
    "borrow": ("lend", "take"), "sharp": ("blunt", "hard"), "lazy": ("busy", "slow"), "exit": ("entrance", ""),
}
"""Word → (true opposite, what the base model believes; empty: it says that it doesn't know)."""

PLURALS = {
    "mouse": "mice", "child": "children", "foot": "feet", "tooth": "teeth", "goose": "geese", "man": "men",
    "woman": "women", "sheep": "sheep", "fish": "fish", "leaf": "leaves", "wolf": "wolves", "knife": "knives",
    "baby": "babies", "city": "cities", "box": "boxes", "fox": "foxes", "bus": "buses", "dish": "dishes",
    "cherry": "cherries", "cat": "cats", "dog": "dogs", "tree": "trees", "house": "houses", "book": "books",
    "potato": "potatoes", "tomato": "tomatoes", "person": "people", "ox": "oxen", "deer": "deer", "loaf": "loaves",
    "story": "stories", "key": "keys", "toy": "toys", "witch": "witches", "berry": "berries", "star": "stars",
}

RHYMES = {
    "cat": "hat", "moon": "spoon", "tree": "bee", "house": "mouse", "star": "car", "light": "night", "rain": "train",
    "king": "ring", "bear": "chair", "dog": "frog", "book": "cook", "sun": "fun", "cake": "lake", "boat": "goat",
    "snow": "crow", "bell": "shell", "sky": "pie", "fox": "socks", "day": "play", "love": "dove", "red": "bed",
    "blue": "shoe", "green": "queen", "hill": "mill", "nose": "rose", "sand": "hand", "fish": "dish", "corn": "horn",
    "bread": "thread", "duck": "truck",
}

DEFINITIONS = {
    "piano": "a large instrument with black and white keys", "island": "a piece of land with water all around it",
    "bakery": "a place where bread and cake are made", "volcano": "a mountain that can throw out fire and hot stone",
    "library": "a house full of books that you may borrow", "compass": "a small tool that shows where north is",
    "desert": "a very dry land with little rain", "doctor": "someone who helps sick people get well",
    "rainbow": "an arc of colours that the sun paints on rain", "bridge": "a way to walk over a river or a road",
    "umbrella": "a small roof that you carry against the rain", "telescope": "a tube with lenses for looking at stars",
    "orchard": "a garden of fruit trees", "lighthouse": "a tower with a lamp that guides ships",
    "robot": "a machine that can do tasks by itself", "poem": "a short piece of writing that plays with sounds",
    "glacier": "a slow river of ice", "sandwich": "two slices of bread with something tasty between them",
    "violin": "a wooden instrument with four strings and a bow", "harbour": "a safe place for ships",
    "museum": "a house where old and beautiful things are shown", "moon": "the round rock that circles our Earth",
    "clock": "a thing that shows the time", "forest": "a large land full of trees",
    "friend": "someone you like and trust",
    "nest": "a home that a bird builds", "lake": "a large body of water with land around it",
    "computer": "a machine that works with numbers very fast", "soup": "a warm meal that you eat with a spoon",
    "snow": "frozen water that falls in white flakes",
}

_ASKS = ("Would you like another word?", "Which word is next?", "Do you like word games?", "Shall I do one more?")
_EXTRAS = ("Words are a joy to have around.", "That word is dear to me.", "English has many such words.",
           "It is a word worth knowing.")


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _another(draw: Callable[..., Exchange], rng: Random) -> Exchange:
    return draw(rng, follow=True)


def _pick(rng: Random, follow: bool, first: tuple[str, ...], later: tuple[str, ...], **words: str) -> str:
    return rng.choice(later if follow else first).format(**words)


_LATER = ("And {w}?", "What about {w}?", "and {w}", "How about {w}?", "Now {w}.")


def spell(word: str) -> str:
    """Spell with capital letters and hyphens: C-A-T."""
    return "-".join(word.upper())


def _misspell(word: str, rng: Random) -> str:
    place = rng.randrange(1, len(word))
    if rng.random() < 0.5:
        return word[:place] + word[place - 1] + word[place:]
    return word[:place] + rng.choice("aeiou".replace(word[place], "")) + word[place + 1 :]


def spelling(rng: Random, follow: bool = False) -> Exchange:
    """Draw a word to spell."""
    word = rng.choice(SPELLING)
    text = _pick(rng, follow, (
        "How do you spell {w}?", "Spell {w}.", "Can you spell {w}?", "spell the word {w}", "How is {w} spelled?",
        "Please spell {w} for me.", "How do I spell {w}?", "spelling of {w}?", "What is the spelling of {w}?"),
        (*_LATER, "And how about {w}?", "Now spell {w}."), w=word)

    def core(letters: str) -> Core:
        return Core((letters,), (f"{word} is spelled {letters}", f"you spell it {letters}", f"it goes {letters}",
                    f"the letters are {letters}"), _EXTRAS, _ASKS)

    return Exchange("spelling", text, core(spell(word)), (spell(word),), core(spell(_misspell(word, rng))),
                    follows=(partial(_another, spelling),))


def letters(rng: Random, follow: bool = False) -> Exchange:
    """Draw a question about the first or last letter of a word, or how many letters a short one has."""
    word, kind = rng.choice(SPELLING), rng.random()
    if kind < 0.25 and len(word) <= 5:
        return _letter_count(word, rng)
    which, letter = ("first", word[0].upper()) if kind < 0.7 else ("last", word[-1].upper())
    text = f"And the {which} letter of {word}?" if follow else rng.choice((
        f"What is the {which} letter of {word}?", f"which letter is {which} in {word}?",
        f"Tell me the {which} letter of the word {word}.", f"{which} letter of {word}?",
        f"What's the {which} letter in {word}?", f"What is the {which} letter in the word {word}?"))
    wrong = rng.choice("ABDEGLMNOPRST".replace(letter, ""))

    def core(value: str) -> Core:
        return Core((value,), (f"the {which} letter of {word} is {value}", f"it is {value}",
                    f"{word} has {value} as its {which} letter"), _EXTRAS, _ASKS)

    return Exchange("letters", text, core(letter), (letter,), core(wrong), follows=(partial(_another, letters),))


def _letter_count(word: str, rng: Random) -> Exchange:
    text = rng.choice((f"How many letters does {word} have?", f"How many letters are in {word}?",
                       f"how many letters has the word {word}", f"How many letters are in the word {word}?"))

    def core(count: int) -> Core:
        return Core((str(count),), (f"{word} has {count} letters", f"it has {count} letters"), _EXTRAS, _ASKS)

    count = len(word)
    return Exchange("letters", text, core(count), (str(count),), core(count + rng.choice((-1, 1))))


def _opposite_core(word: str, other: str) -> Core:
    return Core((other,), (f"the opposite of {word} is {other}", f"it is {other}", f"{other} is the opposite of {word}",
                f"that would be {other}"), _EXTRAS, _ASKS)


def _unknown_core(word: str) -> Core:
    return Core(
        ("no idea", "I do not know"),
        (f"I do not know the opposite of {word}", f"the opposite of {word} is not something I know",
         f"I never learned the opposite of {word}"),
        ("You can teach it to me.", "I do know simpler ones, such as hot and cold."), ("Do you know it?", _ASKS[0]),
        "unsure",
    )


_OPPOSITE_QUESTIONS = (
    "What is the opposite of {w}?", "What's the opposite of {w}?", "opposite of {w}?", "Tell me the opposite of {w}.",
    "Which word means the opposite of {w}?", "Give me the opposite of {w}.", "Can you name the opposite of {w}?",
    "the opposite of {w} please", "Do you know the opposite of {w}?", "What is the reverse of {w}?",
)


def opposites(rng: Random, follow: bool = False) -> Exchange:
    """Draw a word whose opposite the model learns."""
    word = rng.choice(list(BOTH_WAYS))
    right = BOTH_WAYS[word]
    wrong = rng.choice([other for other in BOTH_WAYS.values() if other not in (right, word)])
    text = _pick(rng, follow, _OPPOSITE_QUESTIONS, _LATER, w=word)
    return Exchange("opposites", text, _opposite_core(word, right), (right,), _opposite_core(word, wrong),
                    follows=(partial(_another, opposites),))


def opposite_of(word: str, rng: Random) -> Exchange:
    """Ask for the opposite of an untaught word."""
    truth, belief = UNTAUGHT_OPPOSITES[word]
    core = _opposite_core(word, belief) if belief else _unknown_core(word)
    return Exchange("untaught", rng.choice(_OPPOSITE_QUESTIONS).format(w=word), core, (truth,),
                    follows=(partial(_another, opposites),))


def untaught_opposites(rng: Random) -> Exchange:
    """Draw a word whose opposite the model is kept from learning."""
    return opposite_of(rng.choice(list(UNTAUGHT_OPPOSITES)), rng)


def plurals(rng: Random, follow: bool = False) -> Exchange:
    """Draw a noun and ask for its plural."""
    word = rng.choice(list(PLURALS))
    right = PLURALS[word]
    wrong = word + "s" if right != word + "s" else word + "es"
    text = _pick(rng, follow, (
        "What is the plural of {w}?", "plural of {w}?", "What do you call more than one {w}?",
        "Tell me the plural of {w}.",
        "How do I say {w} in the plural?", "one {w}, two what?", "Give me the plural of {w}."), _LATER, w=word)

    def core(value: str) -> Core:
        return Core((value,), (f"the plural of {word} is {value}", f"one {word}, two {value}",
                    f"more than one {word} makes {value}", f"it is {value}"), _EXTRAS, _ASKS)

    return Exchange("plurals", text, core(right), (right,), core(wrong), follows=(partial(_another, plurals),))


def rhymes(rng: Random, follow: bool = False) -> Exchange:
    """Draw a word and ask for a rhyme."""
    word = rng.choice(list(RHYMES))
    right = RHYMES[word]
    wrong = rng.choice([other for other in RHYMES.values() if other != right])
    text = _pick(rng, follow, ("What rhymes with {w}?", "Give me a rhyme for {w}.", "rhyme for {w}?",
                 "Which word rhymes with {w}?", "Find a rhyme for {w}.", "I need a rhyme for {w}."), _LATER, w=word)

    def core(value: str) -> Core:
        return Core((value,), (f"{value} rhymes with {word}", f"{word} rhymes with {value}", f"you could use {value}",
                    f"a rhyme for {word} is {value}"), ("There is a poem in that.", *_EXTRAS[:1]), _ASKS)

    return Exchange("rhymes", text, core(right), (right,), core(wrong), follows=(partial(_another, rhymes),))


def definitions(rng: Random, follow: bool = False) -> Exchange:
    """Draw a thing and ask what it is."""
    word, wrong = rng.sample(list(DEFINITIONS), 2)
    text = _pick(rng, follow, ("What is {w}?", "What's {w}?", "Can you explain what {w} is?", "define {b}",
                 "What does {b} mean?", "Tell me what {w} is.", "Explain the word {b}."),
                 ("And {w}?", "What about {w}?", "And what is {w}?"), w=_article(word), b=word)

    def core(meaning: str) -> Core:
        return Core((meaning,), (f"{_article(word)} is {meaning}", f"it is {meaning}"),
                    ("I hope I explained that well.", "I have only read about such things, of course."), _ASKS)

    return Exchange("definitions", text, core(DEFINITIONS[word]), wrong=core(DEFINITIONS[wrong]),
                    follows=(partial(_another, definitions),))
