"""Games of question and answer: the model asks a riddle or a quiz question, and judges what the user says to it."""

from __future__ import annotations

from functools import partial
from random import Random

from learner.pretrain.reply import Core, Exchange
from learner.pretrain.topics import geography, words

# Word lists and templates are laid out by hand.
# fmt: off

RIDDLES = {
    "what has hands but cannot clap?": "a clock", "what has teeth but cannot bite?": "a comb",
    "what gets wetter the more it dries?": "a towel", "what has a neck but no head?": "a bottle",
    "what has one eye but cannot see?": "a needle", "what has legs but cannot walk?": "a table",
    "what goes up when the rain comes down?": "an umbrella", "what has keys but opens no door?": "a piano",
    "what has many leaves but is no tree?": "a book", "what runs all day but has no legs?": "a river",
    "what follows you in the sun and leaves in the dark?": "your shadow", "what has ears but cannot hear?": "corn",
    "what falls all winter and never gets hurt?": "snow", "what is full of holes but holds water?": "a sponge",
    "what comes down but never goes up?": "rain", "what must you break before you can eat it?": "an egg",
}
_GUESSES = ("a cat", "the moon", "a shoe", "a tree", "the wind", "a house", "a fish", "a spoon", "fire", "a bird",
            "a star", "a door", "time", "a dog", "a cloud", "water")
_GIVES_UP = ("I give up.", "I don't know.", "no idea", "Tell me.", "tell me the answer", "What is it?", "i give up",
             "What is the answer?", "You tell me.", "I can't guess it.", "idk", "the answer please", "give up")
_RIDDLE_TEXTS = ("Tell me a riddle.", "riddle please", "Do you know a riddle?", "Give me a riddle.", "a riddle",
                 "Ask me a riddle.", "I like riddles.", "Can you tell me a riddle?", "Let's do riddles.",
                 "tell me a riddle")
_MORE_RIDDLES = ("Another riddle!", "One more riddle please.", "another riddle", "Tell me another riddle.")
_RIDDLE_ASKS = ("Would you like another riddle?", "Shall I tell you one more riddle?", "Another riddle?")
_QUIZ_TEXTS = ("Quiz me.", "Ask me a question.", "quiz me please", "Let's play a quiz.", "Test me!",
               "let's play a game",
               "Can you quiz me?", "ask me something", "Let us play a game.", "Play with me.", "I want to play.",
               "quiz", "Can we play a game?")
_MORE_QUIZ = ("Another question!", "One more question.", "ask me another one", "Next question!")
_QUIZ_ASKS = ("Would you like another question?", "Shall I ask one more?", "Ready for the next question?")
_GUESS_ASKS = ("What do you say?", "What is your guess?", "Do you know it?")


def _ask(text: str, question: str, answer: str, wrong: str, kind: str) -> Exchange:
    core = Core((question,), (f"here is one: {question}", f"tell me: {question}", f"try this: {question}", question),
                ("Take your time.", "Think about it.", "It is not too hard."), _GUESS_ASKS, kind="offer")
    return Exchange("quiz", text, core, follows=(partial(_marked, answer, wrong, kind),) * 4)


def riddles(rng: Random, more: bool = False) -> Exchange:
    """The user wants a riddle: the model tells one, and then judges the guess or tells the solution."""
    question, answer = rng.choice(list(RIDDLES.items()))
    return _ask(rng.choice(_MORE_RIDDLES if more else _RIDDLE_TEXTS), question, answer,
                rng.choice([g for g in (*RIDDLES.values(), *_GUESSES) if g != answer]), "riddle")


def _quiz_item(rng: Random, kind: str) -> tuple[str, str, str]:
    """A question for the user, its answer, and a wrong answer."""
    kind = kind if kind != "quiz" else rng.choice(("capital", "opposite", "sum"))
    if kind == "capital":
        country, other = rng.sample(list(geography.CAPITALS), 2)
        return f"what is the capital of {country}?", geography.CAPITALS[country][0], geography.CAPITALS[other][0]
    if kind == "opposite":
        word = rng.choice(list(words.OPPOSITES))
        answer = words.OPPOSITES[word]
        others = [other for other in words.OPPOSITES.values() if other not in (answer, word)]
        return f"what is the opposite of {word}?", answer, rng.choice(others)
    one, two = rng.randint(0, 6), rng.randint(0, 6)
    return f"what is {one} plus {two}?", str(one + two), str(one + two + rng.choice((1, 2)))


def quiz(rng: Random, kind: str = "quiz", more: bool = False) -> Exchange:
    """The user wants to be asked something; the model asks, and then tells whether the answer was right."""
    return _ask(rng.choice(_MORE_QUIZ if more else _QUIZ_TEXTS), *_quiz_item(rng, kind), kind)


def again(kind: str, rng: Random) -> Exchange:
    """The user wants another riddle, or another quiz question of this kind."""
    return riddles(rng, more=True) if kind == "riddle" else quiz(rng, kind, more=True)


def _marked(answer: str, wrong: str, kind: str, rng: Random) -> Exchange:
    """The user answers or gives up, and the model judges it, or tells the answer."""
    asks = _RIDDLE_ASKS if kind == "riddle" else _QUIZ_ASKS
    follows = (partial(again, kind),) * 2
    if rng.random() < (0.35 if kind == "riddle" else 0.15):
        core = Core((f"it is {answer}", f"the answer is {answer}"), (f"the answer is {answer}", f"it is {answer}"),
                    ("That was a hard one.", "You will get the next one."), asks, "say")
        return Exchange("quiz", rng.choice(_GIVES_UP), core, follows=follows)
    good = rng.random() < 0.6
    given = answer if good else wrong
    text = rng.choice((given[0].upper() + given[1:], given, f"Is it {given}?", f"{given}!", f"I think it is {given}.",
                       f"It is {given}.", f"maybe {given}", f"{given}?"))
    right = Core(("right", f"yes, {answer}", "correct"),
                 (f"that is right, it is {answer}", f"yes, {answer} is correct"),
                 ("You know your things.", "That was quick."), asks, "glad")
    not_so = Core((f"no, it is {answer}", f"not quite, it is {answer}"),
                  (f"not quite, the answer is {answer}", f"no, the answer is {answer}"),
                  ("That was a hard one.", "You will get the next one."), asks, "say")
    return Exchange("quiz", text, right if good else not_so, follows=follows)
