"""The user's name: told once, in many words, and asked for later in the same conversation."""

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
    "Hi, I'm {n}.", "Hi, I am {n}.", "I'm {n}.", "Hello! I'm {n}.", "hello i am {n}", "Hi I'm {n}",
    "Hi there, {n} is my name.", "Let me introduce myself: I am {n}.", "I should say that I am {n}.",
)
_TELL_BARE = ("{n}", "{n}.", "It is {n}.", "it's {n}", "I am {n}.", "My name is {n}.", "{n}!", "Sure, it is {n}.")
_ASK = (
    "What is my name?", "Do you remember my name?", "what's my name", "Who am I?", "Do you know my name?",
    "Can you tell me my name?", "What was my name again?", "my name?", "Do you still know my name?",
    "What did I say my name was?", "Do you know who I am?", "Say my name.", "What am I called?", "who am i",
    "Have you forgotten my name?", "Which name did I tell you?", "tell me my name", "Do you recall my name?",
    "Remember me? What is my name?", "How am I called?",
)


def introduce(rng: Random, name: str, texts: tuple[str, ...] = _TELL) -> Exchange:
    """The user tells their name."""
    core = say([f"it is nice to meet you, {name}", f"hello {name}, I am sprout", f"what a fine name, {name}",
                f"I am pleased to meet you, {name}", f"welcome, {name}, I am glad you came"],
               ("I will try to remember it.", "I can talk about capitals, sums and animals.",
                "I am a small model, but a good listener."),
               (f"What shall we talk about, {name}?", f"How are you, {name}?", "How is your day?"),
               clipped=(f"hello, {name}", f"hi {name}", f"welcome, {name}"), kind="greet")
    return Exchange("names", rng.choice(texts).format(n=name), core, (name,), subject=name,
                    follows=(partial(recall, name=name),) * 2)


def introductions(rng: Random) -> Exchange:
    """Draw a user who tells their name. A few leave out the capital letter; it is then kept as they like it."""
    name = draw_name(rng)
    chance = rng.random()
    return introduce(rng, name.lower() if chance < 0.15 else name.upper() if chance < 0.18 else name)


def answer_with_name(rng: Random) -> Exchange:
    """The user tells their name when asked for it."""
    return introduce(rng, draw_name(rng), _TELL_BARE)


def recall(rng: Random, name: str = "") -> Exchange:
    """Ask for the user's name: known from this conversation, or not."""
    text = rng.choice(_ASK)
    if not name:
        core = say(["you have not told me your name yet", "I do not know your name yet",
                    "I have not heard your name so far"],
                   ("Tell me and I will remember it for this chat.", "I would love to know it."),
                   ("What is your name?", "Will you tell me?", "What shall I call you?"),
                   clipped=("I do not know yet", "no idea yet"))
        return Exchange("names", text, core, follows=(answer_with_name,))
    core = Core((f"you are {name}", f"your name is {name}"),
                (f"your name is {name}", f"you told me that you are {name}", f"you are {name}"),
                ("I kept it in mind.", "It is a fine name."), (f"How are you, {name}?", "Did I get it right?"))
    return Exchange("names", text, core, (name,), subject=name)
