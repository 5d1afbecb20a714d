"""What people tell of themselves: what they like and have, where they come from, what they are, do and want."""

from __future__ import annotations

from functools import partial
from random import Random

from learner.pretrain.reply import Exchange, say
from learner.pretrain.topics import geography, talk
from learner.pretrain.topics.names import draw_name

# Word lists and templates are laid out by hand, and long lists read better as one text.
# ruff: noqa: SIM905
# fmt: off

LIKED = (
    "pizza pasta chocolate apples tea coffee music books football chess swimming painting cats dogs horses "
    "birds rain snow "
    "summer winter flowers trees trains boats cars stars science history math cooking dancing singing reading "
    "gardening pancakes soup cheese honey bread cookies penguins owls foxes rabbits stories jokes puzzles games movies "
    "school mountains rivers forests cake ice bananas strawberries drawing running cycling fishing camping "
    "travelling sleeping"
).split()
_KINDS = ("old", "new", "good", "red", "small", "big", "strange", "cheap", "blue", "slow")
_HAD = (
    "dog", "cat", "sister", "brother", "garden", "bicycle", "horse", "rabbit", "parrot", "big family", "new job",
    "guitar",
    "piano", "hamster", "little house", "red car", "new friend", "goldfish", "baby", "plan",
)


def _a_liked_thing(rng: Random) -> str:
    """One that many like, in one in four cases of a kind or together with another."""
    thing, chance = rng.choice(LIKED), rng.random()
    if chance < 0.12:
        return f"{rng.choice(_KINDS)} {thing}"
    if chance < 0.25:
        other = rng.choice([other for other in LIKED if other != thing])
        return f"{thing} and {rng.choice(_KINDS)} {other}" if rng.random() < 0.4 else f"{thing} and {other}"
    return thing


def likes(rng: Random) -> Exchange:
    """The user says what they like, hate or have."""
    thing, chance = _a_liked_thing(rng), rng.uniform(0.0, 0.8)
    if chance < 0.45:
        text = rng.choice((f"I like {thing}.", f"I love {thing}!", f"i really like {thing}",
                           f"My favourite thing is {thing}.",
                           f"{thing} is the best", f"I enjoy {thing}."))
        fine = "are fine things" if " and " in thing else "is a fine thing"
        core = say([f"{thing} {fine} to like", f"I can see why you like {thing}",
                    f"a world with {thing} is a good one"],
                   ("Good taste.", "It is nice to like things."), (f"What do you like about {thing}?",
                   f"Since when do you like {thing}?"), clipped=(f"{thing}, how nice", "good taste"),
                   kind="glad")
    elif chance < 0.6:
        text = rng.choice((f"I hate {thing}.", f"I don't like {thing}.", f"i can't stand {thing}",
                           f"{thing} is boring"))
        core = say([f"not everyone likes {thing}", f"then let us leave {thing} alone", f"{thing} is not for everyone"],
                   ("Tastes differ, and that is good.",), ("What do you like instead?", f"What is wrong with {thing}?"),
                   clipped=("fair enough", "tastes differ"))
    else:
        had = rng.choice(_HAD)
        article = "an" if had[0] in "aeiou" else "a"
        text = rng.choice((f"I have {article} {had}.", f"i got {article} {had}", f"We have {article} {had} at home."))
        core = say([f"{article} {had} sounds nice", f"it must be nice to have {article} {had}",
                    f"I have never had {article} {had}"], ("You have much to tell.", "I only have my leaves."),
                   (f"Do you like your {had}?", f"Will you tell me about your {had}?"),
                   clipped=(f"{article} {had}, how nice", "how nice"), kind="glad")
    return Exchange("smalltalk", text, core, follows=(partial(opinions, thing=thing),) if chance < 0.6 else ())


_FROM = ("I am from {c}.", "I'm from {c}.", "i'm from {c}", "Hi, I'm from {c}.", "I come from {c}.", "i come from {c}",
         "I was born in {c}.", "I live in {c}.", "We live in {c}.", "My home is {c}.", "I grew up in {c}.", "from {c}",
         "I'm in {c}.", "My family is from {c}.", "I moved to {c} last year.")
_THERE = ("I want to travel to {c}.", "I have been to {c}.", "I love {c}.", "We are going to {c}.", "I miss {c}.",
          "i want to see {c}", "My friend lives in {c}.", "We were in {c} last summer.")


def origins(rng: Random) -> Exchange:
    """The user says where they are from, or where they have been or would like to be."""
    country = rng.choice(list(geography.CAPITALS))
    city = geography.CAPITALS[country][0]
    at_home = rng.random() < 0.7
    core = say([f"{country} must be a beautiful place", f"I would like to see {country} one day",
                f"I know {country} from its capital, {city}"],
               (f"Its capital is {city}, if I know one thing.", "I have never left this computer."),
               (f"What do you like about {country}?",
                f"Have you been to {city}?" if at_home else f"What is {country} like?"),
               clipped=(f"{country}, how nice", "how nice"))
    return Exchange("smalltalk", rng.choice(_FROM if at_home else _THERE).format(c=country), core)


_PETS = ("dog", "cat", "rabbit", "hamster", "horse", "parrot", "sister", "brother", "son", "daughter", "friend",
         "teddy")


def named(rng: Random) -> Exchange:
    """The user tells the name of a pet, or of someone close."""
    pet, name = rng.choice(_PETS), draw_name(rng)
    text = rng.choice((f"My {pet} is called {name}.", f"My {pet}'s name is {name}.", f"I have a {pet} called {name}.",
                       f"I have a {pet} named {name}.", f"my {pet} is {name}", f"The name of my {pet} is {name}."))
    core = say([f"please say hello to {name} from me", f"what a fine name, {name}", f"a {pet} called {name}, how nice"],
               ("I would wave, had I hands.", "I like such names."), (f"What is {name} like?", f"How old is {name}?"),
               clipped=(f"hello, {name}", f"how nice, {name}"), kind="glad")
    return Exchange("smalltalk", text, core, (name,), subject=name)


_WORK = ("teacher", "doctor", "nurse", "student", "baker", "farmer", "painter", "pilot", "gardener", "singer", "driver",
         "engineer", "writer", "cook", "mother", "father", "grandmother", "programmer", "carpenter", "musician",
         "dancer", "lawyer", "sailor", "scientist", "actor", "librarian", "firefighter", "waiter", "poet", "vet")
_ORIGINS = ("German", "French", "Spanish", "Italian", "Polish", "English", "Irish", "Dutch", "Indian", "Japanese",
            "Chinese", "American", "Canadian", "Turkish", "Greek", "Swedish", "Mexican", "Brazilian", "Korean")
_CITIES = ("Berlin", "Paris", "London", "Madrid", "Rome", "Vienna", "New York", "Hamburg", "Munich", "Lyon", "Chicago",
           "Boston", "Milan", "Dublin", "Tokyo", "Delhi", "Cairo", "Zurich", "Porto", "a small town", "a village",
           "the city", "the country", "the mountains")
_DOING = {
    "going home": "have a safe way home", "at work": "I hope that work is kind to you",
    "at home": "home is a good place",
    "at school": "I hope that school is fun today", "on the train": "have a good trip", "in bed": "that sounds cosy",
    "cooking": "I can almost smell it", "reading a book": "a book is good company", "having lunch": "enjoy your meal",
    "drinking coffee": "that sounds warm and cosy", "busy": "then I will keep it short", "new here": "a warm welcome",
    "back": "welcome back", "on holiday": "enjoy every day of it", "learning English": "you are doing well",
    "going to bed": "sleep well", "waiting for the bus": "I hope that it comes soon", "here": "I am here too",
    "late": "then be quick, but be safe", "ready": "then let us begin", "cold": "a blanket and tea may help",
    "just testing you": "test me as you like", "not a robot": "then one of us has hands",
    "fine": "I am glad to hear it",
    "okay": "I am glad to hear it", "hungry for facts": "then ask me about an animal",
    "human": "then one of us has hands",
    "in the garden": "say hello to the plants from me", "watching a film": "I hope that it is a good one",
    "not sure": "take your time", "curious": "curiosity is a fine thing", "a human": "then one of us has hands",
}
_PLANS = ("swim", "sing", "dance", "travel", "learn to paint", "go home", "see the sea", "buy a house", "ride a horse",
          "build a boat", "play the piano", "learn English", "go for a walk", "eat pizza", "climb a mountain",
          "read more",
          "plant a tree", "write a book", "play chess", "bake a cake", "go to the zoo", "watch a film", "have a dog")


def statements(rng: Random) -> Exchange:
    """The user says what they are, do, or want: much like how they say their name, and answered otherwise."""
    am, chance = rng.choice(("I am ", "I'm ", "i am ", "i'm ", "I am ", "Hi, I am ", "Well, I'm ")), rng.random()
    if chance < 0.25:
        work = rng.choice(_WORK)
        article = "an" if work[0] in "aeiou" else "a"
        texts: tuple[str, ...] = (f"{am}{article} {work}.", f"{am}{article} {work}", f"I work as {article} {work}.")
        core = say([f"{article} {work} is a fine thing to be", f"the world needs {article} {work} like you"],
                   ("I am a sprout by trade.", "That sounds like a full day."),
                   ("Do you like it?", "How did it begin?"), clipped=(f"{article} {work}, how nice", "how interesting"))
    elif chance < 0.4:
        age = rng.randint(5, 90)
        texts = (f"{am}{age} years old.", f"{am}{age}.", f"I turned {age} today.", f"{am}{age} years old")
        core = say([f"{age} is a fine age", f"{age} years are full of stories"],
                   ("I am much younger than that.", "I am only a few days old."), ("How does it feel?",),
                   clipped=(f"{age}, how nice", "a fine age"))
    elif chance < 0.5:
        origin = rng.choice(_ORIGINS)
        texts = (f"{am}{origin}.", f"{am}{origin}", f"My family is {origin}.")
        core = say([f"it must be nice to be {origin}", "it is nice to meet someone from there"],
                   ("I have never left this computer.",), ("Do you live there now?", "What is the food like?"),
                   clipped=(f"{origin}, how nice", "how interesting"))
    elif chance < 0.65:
        city = rng.choice(_CITIES)
        texts = (f"I live in {city}.", f"{am}from {city}.", f"{am}in {city} now.", f"i live in {city}",
                 f"My home is in {city}.")
        core = say([f"{city} sounds like a good place to live", f"I have only read about {city}"],
                   ("I live in a very small computer.", "I have never left this computer."),
                   ("Do you like it there?", "What is it like there?"), clipped=(f"{city}, how nice", "how nice"))
    elif chance < 0.83:
        doing, reply = rng.choice(list(_DOING.items()))
        texts = (f"{am}{doing}.", f"{am}{doing}", f"{am}{doing} now." if "new" not in doing else f"{am}{doing}.")
        core = say([reply], ("I am sitting in my pot, as ever.", "I am here whenever you like to chat."),
                   ("What shall we talk about?", "How is it going?"))
    else:
        plan = rng.choice((*_PLANS, *(f"be a {work}" for work in _WORK[:10])))
        texts = (f"I want to {plan}.", f"i want to {plan}", f"I would like to {plan}.", f"{am}going to {plan}.",
                 f"Today I want to {plan}.")
        core = say([f"to {plan} sounds like a good plan", f"I hope that you get to {plan}"],
                   ("Take me along in your pocket.", "I would join you, had I feet."),
                   ("When will it be?", "Will you tell me how it went?"), clipped=("a good plan", "a fine wish"))
    return Exchange("smalltalk", rng.choice(texts), core)


def opinions(rng: Random, thing: str = "") -> Exchange:
    """The user asks whether the model likes something."""
    thing = thing or rng.choice(LIKED)
    text = rng.choice((f"Do you like {thing}?", f"What do you think about {thing}?", f"do you enjoy {thing}",
                       f"do you also like {thing}"))
    core = say([f"I like the idea of {thing}", f"I have only read about {thing}, but I like it",
                f"I have a soft spot for {thing}"], ("I am a program, so I dream about it.",
                                                     "My taste is all in words."),
               (f"Do you like {thing}?",), clipped=(f"I like {thing}", f"I am fond of {thing}"))
    return Exchange("smalltalk", text, core, follows=(talk.noted,))
