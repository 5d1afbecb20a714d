"""Names of the user, their family and their pets: told once, and asked for later in the same conversation."""

from __future__ import annotations

from functools import partial
from random import Random

from learner.pretrain.reply import Core, Exchange, say
from learner.pretrain.topics.names import draw_name

# Word lists and templates are laid out by hand.
# fmt: off

_TELL = (
    "My name is {n}.", "I am {n}.", "I'm {n}", "Call me {n}.", "Hi, I'm {n}.", "my name is {n}", "{n} here.",
    "Hello, my name is {n}!", "You can call me {n}.", "Hi! My name is {n}.", "hey, i'm {n}", "My name's {n}.",
    "Hello sprout, I am {n}.", "People call me {n}.", "I am called {n}.", "They call me {n}.", "Please call me {n}.",
    "Hello, {n} here!", "Hi, this is {n}.", "This is {n}.", "The name is {n}.", "Good morning, I am {n}.",
    "By the way, my name is {n}.", "i am {n}, nice to meet you", "My first name is {n}.", "My name is {n}, and yours?",
    "Good evening, my name is {n}.", "Everyone calls me {n}.", "you may call me {n}", "Remember my name: {n}.",
    "Hi there, {n} is my name.", "Let me introduce myself: I am {n}.", "I should say that I am {n}.",
)
_TELL_BARE = ("{n}", "{n}.", "It is {n}.", "it's {n}", "I am {n}.", "My name is {n}.", "{n}!", "Sure, it is {n}.")
_TELL_AGAIN = ("Actually, my name is {n}.", "No, my name is {n}.", "Please call me {n} from now on.",
               "I would rather be called {n}.", "Call me {n} instead.")
_ASK = (
    "What is my name?", "Do you remember my name?", "what's my name", "Who am I?", "Do you know my name?",
    "Can you tell me my name?", "What was my name again?", "my name?", "Do you still know my name?",
    "What did I say my name was?", "Do you know who I am?", "Say my name.", "What am I called?", "who am i",
    "Have you forgotten my name?", "Which name did I tell you?", "tell me my name", "Do you recall my name?",
    "Remember me? What is my name?", "How am I called?",
)


def introduce(rng: Random, name: str, texts: tuple[str, ...] = _TELL) -> Exchange:
    """The user tells their name."""
    core = say([f"it is nice to meet you, {name}", f"hello {name}, I am sprout", f"{name} is a fine name",
                f"I am pleased to meet you, {name}", f"welcome, {name}, it is good that you are here"],
               ("I will try to remember it.", "I am sprout, by the way.",
                "I can talk about capitals, sums and animals.",
                "I keep names for as long as we chat."),
               (f"What shall we talk about, {name}?", f"How are you, {name}?", "How is your day?"),
               clipped=(f"hello, {name}", f"hi {name}", f"welcome, {name}", f"hello {name}"),
               kind="greet", key=name)
    return Exchange("names", rng.choice(texts).format(n=name), core, (name,), subject=name, tells=("", name),
                    follows=(partial(recall, name=name),) * 2)


def introductions(rng: Random) -> Exchange:
    """Draw a user who tells their name."""
    return introduce(rng, _typed(draw_name(rng), rng))


def rename(rng: Random) -> Exchange:
    """The user wants to be called something else from now on."""
    return introduce(rng, draw_name(rng), _TELL_AGAIN)


def _typed(name: str, rng: Random) -> str:
    """A few people leave out the capital letter; the name is then kept as they like it."""
    return name.lower() if rng.random() < 0.06 else name


def _answer_with_name(rng: Random) -> Exchange:
    return introduce(rng, draw_name(rng), _TELL_BARE)


def recall(rng: Random, name: str = "") -> Exchange:
    """Ask for the user's name: known from this conversation, or not."""
    text = rng.choice(_ASK)
    if not name:
        core = say(["you have not told me your name yet", "I do not know your name yet",
                    "I have not heard your name so far"],
                   ("Tell me and I will remember it for this chat.", "I would love to know it."),
                   ("What is your name?", "Will you tell me?", "What shall I call you?"),
                   clipped=("I do not know yet", "no idea yet", "you have not told me"), kind="calm")
        return Exchange("names", text, core, follows=(_answer_with_name,))
    core = Core((name, f"you are {name}"),
                (f"your name is {name}", f"you told me that you are {name}", f"you are {name}"),
                ("I kept it in mind.", "It is a fine name."), (f"How are you, {name}?", "Did I get it right?"),
                key=name)
    return Exchange("names", text, core, (name,))


OTHERS = ("sister", "brother", "mother", "father", "friend", "son", "daughter", "teacher", "neighbour", "dog", "cat",
          "horse", "rabbit", "parrot", "hamster", "wife", "husband", "cousin", "uncle", "aunt", "grandmother", "boss")


def introduce_other(rng: Random, other: str, name: str) -> Exchange:
    """The user tells the name of somebody they know."""
    text = rng.choice((
        "My {o} is called {n}.", "My {o}'s name is {n}.", "I have a {o} called {n}.", "I have a {o} named {n}.",
        "the name of my {o} is {n}", "My {o} {n} is here too.", "We call my {o} {n}.")).format(o=other, n=name)
    text = text.replace("a uncle", "an uncle").replace("a aunt", "an aunt")
    core = say([f"{name} is a fine name", f"say hello to {name} from me", f"{name} sounds nice",
                f"I would like to meet {name}"],
               (f"I will remember the name of your {other}.", "It suits well, I am sure."),
               (f"What does {name} like?", f"How is {name}?", f"Is {name} with you now?"),
               clipped=(f"hello, {name}", f"{name}, how nice"), key=name)
    return Exchange("names", text, core, (name,), subject=name, tells=(other, name),
                    follows=(partial(recall_other, other=other, name=name),))


def others(rng: Random) -> Exchange:
    """Draw a user who tells the name of somebody they know."""
    return introduce_other(rng, rng.choice(OTHERS), draw_name(rng))


def recall_other(rng: Random, other: str, name: str) -> Exchange:
    """Ask for a name that the user told: that of somebody they know."""
    text = rng.choice((
        "What is my {o}'s name?", "What is my {o} called?", "Do you remember the name of my {o}?",
        "what's the name of my {o}", "Do you know my {o}'s name?", "How is my {o} called?")).format(o=other)
    core = Core((name, f"it is {name}"),
                (f"your {other} is called {name}", f"the name of your {other} is {name}", f"it is {name}"),
                ("I kept it in mind.", "It is a fine name."), (f"How is {name}?", "Did I get it right?"), key=name)
    return Exchange("names", text, core, (name,))
