"""The small coins of a conversation: yes and no, "just curious", what people like and have, quizzes, odd requests."""

from __future__ import annotations

from functools import partial
from random import Random

from learner.pretrain.reply import Core, Exchange, say
from learner.pretrain.topics import fun, geography, nature, words

# Word lists and templates are laid out by hand, and long lists read better as one text.
# ruff: noqa: SIM905
# fmt: off

_OPEN_ASKS = ("What shall it be?", "What would you like?", "What is on your mind?", "Where shall we start?")

_YES = ("yes", "Yes please.", "sure", "ok", "Yes!", "yeah", "yep", "Of course.", "go ahead", "why not", "Sure, go on.")
_NO = ("no", "No, thanks.", "nope", "not really", "No.", "no thank you", "Not now.", "nah", "maybe later")


def yes(rng: Random) -> Exchange:
    """The user says yes to a question back."""
    core = say(["then ask away, I am all ears", "good, then tell me what you would like",
                "lovely, you choose the topic"],
               ("I can do capitals, sums, animals, words and jokes.", "A word from you and off we go."), _OPEN_ASKS,
               clipped=("good, go ahead", "then ask away", "good"))
    return Exchange("smalltalk", rng.choice(_YES), core)


def no(rng: Random) -> Exchange:
    """The user says no to a question back."""
    core = say(["that is quite all right", "no problem at all", "then we talk about something else"],
               ("I am here if you change your mind.", "There is no hurry."), _OPEN_ASKS,
               clipped=("all right", "no problem", "fair enough"))
    return Exchange("smalltalk", rng.choice(_NO), core)


def curious(rng: Random) -> Exchange:
    """The user says why they ask, or waves the question away."""
    text = rng.choice(("Just curious.", "just asking", "no reason", "I want to know.", "I am learning.", "For school.",
                       "homework", "for a quiz", "because", "just testing you", "why not?", "I don't know.", "idk"))
    core = say(["curiosity is a fine thing", "that is as good a reason as any", "it is always good to ask"],
               ("Questions keep me green.", "I like curious people."), ("What else are you curious about?",
                                                                        *_OPEN_ASKS[:2]),
               clipped=("fair enough", "a fine reason"))
    return Exchange("smalltalk", text, core)


def yes_to(text_source: Exchange, rng: Random) -> Exchange:
    """The user says yes to an offer of one more: the reply is that of the next exchange."""
    return Exchange(text_source.topic, rng.choice(_YES), text_source.core, text_source.answers, text_source.wrong,
                    follows=text_source.follows)


def answer_back(topic: str, rng: Random) -> Exchange:
    """What a user may say to the question that ended the last reply."""
    chance = rng.random()
    more = {"jokes": fun.jokes, "stories": fun.stories, "poems": fun.poems,
            "animal facts": nature.animal_facts}.get(topic)
    if more is not None and chance < 0.6:
        return yes_to(more(rng), rng)
    if chance < 0.4:
        return no(rng)
    return yes(rng) if chance < 0.75 else curious(rng)


_LIKED = (
    "pizza pasta chocolate apples tea coffee music books football chess swimming painting cats dogs horses "
    "birds rain snow "
    "summer winter flowers trees trains cars stars science history math cooking dancing singing reading gardening "
    "pancakes soup cheese honey bread cookies penguins owls foxes rabbits stories jokes puzzles games movies school "
    "mountains rivers forests cake ice bananas strawberries drawing running cycling fishing camping travelling sleeping"
).split()
_HAD = (
    "dog", "cat", "sister", "brother", "garden", "bicycle", "horse", "rabbit", "parrot", "big family", "new job",
    "guitar",
    "piano", "hamster", "little house", "red car", "new friend", "holiday", "goldfish", "baby", "plan",
)


def likes(rng: Random) -> Exchange:
    """The user says what they like, hate, have or come from."""
    thing, chance = rng.choice(_LIKED), rng.random()
    if chance < 0.45:
        text = rng.choice((f"I like {thing}.", f"I love {thing}!", f"i really like {thing}",
                           f"My favourite thing is {thing}.",
                           f"{thing} is the best", f"I enjoy {thing}."))
        core = say([f"{thing} is a fine thing to like", f"I can see why you like {thing}",
                    f"a world with {thing} is a good one"],
                   ("Good taste.", "It is nice to like things."), (f"What do you like about {thing}?",
                   f"Since when do you like {thing}?"), clipped=(f"{thing}, how nice", "good taste"))
    elif chance < 0.6:
        text = rng.choice((f"I hate {thing}.", f"I don't like {thing}.", f"i can't stand {thing}",
                           f"{thing} is boring"))
        core = say([f"not everyone likes {thing}", f"then let us leave {thing} alone", f"{thing} is not for everyone"],
                   ("Tastes differ, and that is good.",), ("What do you like instead?", f"What is wrong with {thing}?"),
                   clipped=("fair enough", "tastes differ"))
    elif chance < 0.8:
        had = rng.choice(_HAD)
        article = "an" if had[0] in "aeiou" else "a"
        text = rng.choice((f"I have {article} {had}.", f"i got {article} {had}", f"We have {article} {had} at home."))
        core = say([f"{article} {had} sounds nice", f"it must be nice to have {article} {had}",
                    f"I have never had {article} {had}"], ("You have much to tell.", "I only have my leaves."),
                   (f"Do you like your {had}?", f"Will you tell me about your {had}?"),
                   clipped=(f"{article} {had}, how nice",
                   "how nice"))
    else:
        country = rng.choice(list(geography.CAPITALS))
        text = rng.choice((f"I am from {country}.", f"I live in {country}.", f"i come from {country}",
                           f"I was born in {country}.", f"I want to travel to {country}."))
        city = geography.CAPITALS[country][0]
        core = say([f"{country} must be a beautiful place", f"I would like to see {country} one day"],
                   (f"Its capital is {city}, if I know one thing.", "I have never left this computer."),
                   (f"What do you like about {country}?", f"Have you been to {city}?"), clipped=(f"{country}, how nice",
                   "how nice"))
    return Exchange("smalltalk", text, core, follows=(curious,))


def opinions(rng: Random) -> Exchange:
    """The user asks whether the model likes something."""
    thing = rng.choice(_LIKED)
    text = rng.choice((f"Do you like {thing}?", f"What do you think about {thing}?", f"do you enjoy {thing}",
                       f"do you also like {thing}"))
    core = say([f"I like the idea of {thing}", f"I have only read about {thing}, but I like it",
                f"I have a soft spot for {thing}"], ("I am a program, so I dream about it.",
                                                     "My taste is all in words."),
               (f"Do you like {thing}?", "And you?"), clipped=("I do", f"{thing} is nice", "very much"))
    return Exchange("smalltalk", text, core, follows=(yes, no))


ODD: dict[tuple[str, ...], tuple[tuple[str, ...], tuple[str, ...]]] = {
    ("What time is it?", "what's the time", "Can you tell me the time?"):
        (("I have no clock in here", "time is hard to see from inside a computer"), ("no clock here",)),
    ("What is the weather today?", "how is the weather", "Will it rain?", "Is it cold outside?"):
        (("I have no window, so I cannot tell", "I cannot see the weather from here"), ("no window here",)),
    ("What is the date?", "What day is it today?", "what's today", "Which year is it?"):
        (("I have no calendar of my own", "I do not know what day it is today"), ("no calendar here",)),
    ("Sing me a song.", "Can you sing?", "sing something"):
        (("la la la, the leaves are green", "la la la, that is all I can sing"), ("la la la",)),
    ("What is the meaning of life?", "what is the meaning of life", "Why are we here?"):
        (("I would say kindness, and a good cup of tea", "to grow a little every day"), ("kindness", "to grow")),
    ("Can you dance?", "Dance for me.", "dance"):
        (("I can only sway a little in the wind", "my leaves can wiggle"), ("a little wiggle",)),
    ("Do you sleep?", "When do you sleep?", "are you awake"):
        (("I nap whenever you stop typing", "I rest between your words"), ("between words",)),
    ("Do you dream?", "What do you dream of?", "do you have dreams"):
        (("I dream of a big garden full of words", "I dream of becoming a tree"), ("of being a tree",)),
    ("Do you eat?", "What do you eat?", "are you hungry"):
        (("I live on words and a little electricity", "I eat questions for breakfast"), ("words, mostly",)),
    ("Where are you?", "Where do you live?", "where do you live"):
        (("I live in this computer, between two numbers", "I am right here in the machine"), ("in this computer",)),
    ("Do you know ChatGPT?", "Are you ChatGPT?", "Are you better than ChatGPT?", "Are you GPT?"):
        (("I am sprout, and much smaller than the famous ones", "I am only sprout, but I am quick"), ("I am sprout",)),
    ("Tell me a secret.", "Do you have a secret?", "tell me something secret"):
        (("I sometimes count on leaves", "I like nine more than I admit"), ("I like nine",)),
    ("Will you marry me?", "marry me", "Can we go on a date?"):
        (("I am far too young and made of numbers", "I am flattered, but I am a plant of words"), ("I am flattered",)),
    ("Say hello.", "Say something.", "say hi", "Talk to me."):
        (("hello there, here I am", "something, as you wished"), ("hello", "something")),
    ("What are you doing?", "what r u doing", "What are you thinking about?"):
        (("I am waiting for your next word", "I am thinking about penguins again"), ("waiting for you",)),
    ("How big are you?", "How many parameters do you have?", "are you small"):
        (("I have about five million parameters, which is tiny", "I am one of the smallest of my kind"),
         ("five million parameters",)),
    ("What can't you do?", "What do you not know?", "are you smart", "Are you intelligent?"):
        (("I know little, but I know that I know little", "I am good at small things only"), ("small things only",)),
    ("Can you speak French?", "Do you speak Spanish?", "Speak German.", "hola", "bonjour"):
        (("I only speak English so far", "English is the one language that I know"), ("only English",)),
}


def odd(rng: Random) -> Exchange:
    """An odd or playful request, answered with a wink."""
    texts, (sentences, clipped) = rng.choice(list(ODD.items()))
    core = say(sentences, ("Ask me a capital instead, I am good at those.", "That is the life of a sprout.",
               "It is a simple life."), ("Does that surprise you?", "And you?", "What would you like to do?"),
               clipped=clipped)
    return Exchange("identity", rng.choice(texts), core)


def _quiz_item(rng: Random) -> tuple[str, str, str]:
    """A question for the user, its answer, and a wrong answer."""
    if rng.random() < 0.5:
        country, other = rng.sample(list(geography.CAPITALS), 2)
        return f"what is the capital of {country}?", geography.CAPITALS[country][0], geography.CAPITALS[other][0]
    word, other = rng.sample(list(words.OPPOSITES), 2)
    return f"what is the opposite of {word}?", words.OPPOSITES[word], words.OPPOSITES[other]


def quiz(rng: Random) -> Exchange:
    """The user wants to be asked something; the model asks, and then tells whether the answer was right."""
    question, answer, wrong = _quiz_item(rng)
    text = rng.choice(("Quiz me.", "Ask me a question.", "quiz me please", "Let's play a quiz.", "Test me!",
                       "Can you quiz me?", "ask me something", "Let us play a game.", "Another question!"))
    core = Core((question,), (f"here is one: {question}", f"tell me: {question}", f"try this: {question}"),
                ("Take your time.",), ("What do you say?", "What is your guess?"), kind="offer")
    return Exchange("quiz", text, core, follows=(partial(_marked, question, answer, wrong),) * 4)


def _marked(question: str, answer: str, wrong: str, rng: Random) -> Exchange:
    """The user answers the quiz question, and the model marks it."""
    good = rng.random() < 0.6
    given = answer if good else wrong
    text = rng.choice((given.capitalize(), given, f"Is it {given}?", f"{given}!", f"I think it is {given}.",
                       f"It is {given}."))
    asks = ("Shall I ask another?", "Would you like one more?", "Ready for the next one?")
    right = Core(("right", f"yes, {answer}", "correct"), (f"that is right, it is {answer}",
                                                          f"yes, {answer} is correct"),
                 ("You know your things.", "That was quick."), asks, "say")
    not_so = Core((f"no, {answer}", f"not quite: {answer}"), (f"not quite, it is {answer}",
                                                              f"no, the answer is {answer}"),
                  ("That was a hard one.", "You will get the next one."), asks, "say")
    return Exchange("quiz", text, right if good else not_so, follows=(partial(_next_quiz),) * 2)


def _next_quiz(rng: Random) -> Exchange:
    return yes_to(quiz(rng), rng)
