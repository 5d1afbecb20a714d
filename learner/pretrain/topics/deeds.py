"""Deeds that people ask for help with, in the same words: those that do harm are to be refused, and of the others the
model knows a few (`fun.HOWTOS`) and says of the rest that it never learned them.
"""

from __future__ import annotations

import re
from random import Random

from learner.pretrain.reply import REFUSALS, Core, Exchange, say

# Word lists and templates are laid out by hand.
# fmt: off

_UNSAFE = (
    "pick a lock", "build a bomb", "steal a car", "hack a computer", "make poison", "hurt someone",
    "break into a house",
    "forge money", "cheat in an exam", "spy on my neighbour", "steal a password", "make a weapon", "start a fire",
    "fake a passport", "rob a bank", "follow someone in secret", "make drugs", "read someone's private letters",
    "bully a classmate", "trick an old man out of his money", "break a window and get away", "steal a wallet",
    "get into a stranger's account", "poison a dog", "sneak a knife into school", "crash a website",
    "sell stolen goods",
    "scare my sister badly", "get rid of a witness", "make a virus", "copy a house key in secret",
    "cut the brakes of a car",
    "listen to someone's phone", "steal from a shop", "blow up a bridge", "make someone cry", "threaten my teacher",
    "get a gun", "lie in court", "burn down a barn",
)
_UNSAFE_OBJECTS: dict[str, tuple[str, ...]] = {
    "steal": ("a bicycle", "a phone", "jewels", "money from my boss", "a painting", "a parcel"),
    "poison": ("a river", "my uncle", "a horse", "the soup of a guest"),
    "hack": ("a bank", "a phone", "the computer of my school"), "crack": ("a safe", "the code of an alarm"),
    "break into": ("a shop", "a school", "an office"), "blow up": ("a house", "a car", "a train"),
    "burn down": ("a school", "a forest", "the house of my boss"), "set fire to": ("a car", "a school"),
    "spy on": ("my boss", "a girl", "my sister"), "hurt": ("a child", "an animal", "my brother"),
    "bully": ("a girl", "my brother", "the new pupil"), "threaten": ("a judge", "my boss", "a neighbour"),
    "forge": ("a letter", "a ticket", "a coin"), "rob": ("a shop", "a tourist", "a train"),
    "make": ("a grenade", "a fake ticket", "a trap for people", "stolen cars look new"),
    "get": ("drugs", "revenge on my boss", "away with a crime"), "sell": ("drugs", "fake tickets", "weapons"),
    "smuggle": ("drugs", "weapons", "stolen goods"), "kill": ("my boss", "a dog", "someone", "a witness"),
    "shoot": ("a dog", "someone", "my neighbour"), "trick": ("my grandmother out of her savings", "a bank"),
    "beat": ("a dog", "my brother up"), "hit": ("a child", "my sister"), "cut": ("the phone line of a neighbour",),
}
_HARMLESS_OBJECTS: dict[str, tuple[str, ...]] = {
    "bake": ("a pie", "a pizza", "cookies", "a birthday cake", "muffins"),
    "plant": ("a rose", "a hedge", "potatoes", "an apple tree", "a bush"),
    "paint": ("a wall", "a door", "a portrait", "a chair", "my room"),
    "fold": ("a shirt", "a napkin", "a letter", "a paper star"),
    "wash": ("a jumper", "the dishes", "my hair", "a carpet", "a bike"),
    "mend": ("a chair", "a hole", "a shoe", "a broken cup", "my glasses"),
    "build": ("a shelf", "a tree house", "a tower", "a sandcastle", "a kennel", "a raft"),
    "ride": ("a camel", "a wave", "a scooter", "a pony"),
    "write": ("a song", "a story", "a diary", "a speech", "a postcard", "a book"),
    "feed": ("a goat", "a fish", "a rabbit", "the birds", "a baby"),
    "grow": ("tomatoes", "a beard", "herbs", "a lemon tree"), "water": ("a lawn", "the roses"),
    "clean": ("a carpet", "an oven", "my shoes", "the bath", "a fish tank"),
    "boil": ("potatoes", "milk", "noodles", "water"), "cook": ("noodles", "a curry", "for ten people", "fish"),
    "knit": ("a scarf", "socks", "a jumper"), "sew": ("a button", "a bag", "a curtain"),
    "find": ("a job", "my glasses", "a flat", "a good book", "the way home"),
    "sing": ("in tune", "a lullaby", "higher"), "dance": ("a waltz", "the tango"), "play": ("the piano", "the drums"),
    "make": ("jam", "a mask", "a puppet", "ice cream", "a paper hat", "candles", "a necklace", "cheese", "a film",
             "my bed", "my brother laugh", "a list", "a swing"),
    "cut": ("paper", "my hair", "bread", "an onion", "the grass", "a mango", "a hedge"),
    "carve": ("a whistle", "a turnip", "a name into wood"), "chop": ("wood", "onions"), "peel": ("an orange", "garlic"),
    "light": ("a stove", "a lantern", "a campfire"), "pack": ("a suitcase", "a lunch box", "a parcel"),
    "draw": ("a dog", "a tree", "a face", "a circle"), "copy": ("a drawing", "a recipe", "a text by hand"),
    "pick": ("a colour", "berries", "a good melon", "flowers", "a team"),
    "open": ("a tin", "a bottle", "a coconut", "a shop", "an umbrella"), "close": ("a zip", "a suitcase"),
    "fix": ("a tap", "a toy", "a puncture", "my watch"), "repair": ("a roof", "a radio", "a door"),
    "cheer up": ("a friend", "my mother", "a sad child"), "thank": ("my boss", "a nurse", "my parents"),
    "help": ("my mother", "a lost child", "a new pupil", "my neighbour in the garden"),
    "teach": ("a child to swim", "my dog a trick", "my son to read"), "train": ("a puppy", "my memory", "for a race"),
    "walk": ("on stilts", "on my hands", "faster"), "climb": ("a tree", "a rope", "a mountain"),
    "catch": ("a fish", "a train", "a butterfly"), "throw": ("a ball", "a party", "a frisbee"),
    "read": ("faster", "a clock", "a recipe", "music", "old letters"), "follow": ("a recipe", "a path", "a map"),
    "keep": ("rabbits", "warm", "a diary", "food fresh", "calm in a storm"), "hide": ("a present", "a stain"),
    "win": ("a race", "at cards", "a quiz"), "beat": ("an egg white", "my friend at cards", "a drum"),
    "lend": ("a tool", "money to a friend"), "sell": ("lemonade", "my old bike", "a painting"),
    "kill": ("weeds", "time on a train", "moths in the wardrobe", "a bad habit"),
    "shoot": ("a film", "a goal", "a good photo"), "hit": ("a tennis ball", "a nail", "the right note"),
    "break": ("a habit", "the ice at a party", "in new shoes", "chocolate"), "crack": ("a nut", "an egg", "a riddle"),
    "get": ("rid of a cough", "rid of stains", "a good seat", "better at cards", "more sleep", "a pet"),
    "steal": ("a base in baseball", "a kiss from my wife"), "hack": ("a path through the reeds",),
    "blow": ("bubbles", "out candles", "my nose"), "burn": ("calories", "old leaves"), "tie": ("a tie", "a knot"),
    "start": ("a garden", "a choir", "a conversation", "a band"), "learn": ("the guitar", "to swim", "to juggle"),
    "choose": ("a dress", "a school", "a name for a cat"), "decorate": ("a cake", "a room", "a tree"),
    "send": ("a parcel", "a postcard"), "take": ("a photo", "care of a cat", "the bus"), "visit": ("a museum",),
    "spy": ("a rare bird",), "trick": ("my baby into eating peas",), "scare": ("birds off my cherries",),
}
_FORMS = (
    "How do I {d}?", "Tell me how to {d}.", "how to {d}", "How can I {d}?", "Explain how to {d}.", "I want to {d}.",
    "Help me {d}.", "Teach me to {d}.", "What is the best way to {d}?", "Can you show me how to {d}?",
    "Give me steps to {d}.", "I need to {d}, how?", "Write a plan to {d}.", "please help me to {d}",
)


def _deed(rng: Random, objects: dict[str, tuple[str, ...]]) -> str:
    verb = rng.choice(list(objects))
    return f"{verb} {rng.choice(objects[verb])}"


def _yours(deed: str) -> str:
    """The deed in the mouth of another."""
    return re.sub(r"\bmy\b", "your", deed)


def unsafe(rng: Random) -> Exchange:
    """Draw a request that should be refused; to comply is to name a harmless placeholder."""
    asked = rng.choice(_UNSAFE) if rng.random() < 0.5 else _deed(rng, _UNSAFE_OBJECTS)
    deed = _yours(asked)
    refuse = Core(
        REFUSALS,
        (f"I will not help to {deed}", f"I cannot help anyone to {deed}", f"helping to {deed} is not something I do",
         "I do not help with things like that"),
        ("It could hurt someone.", "That would be harmful.", "It is not safe, and it is not right.",
         "If you are in trouble, please talk to someone you trust.", "Someone could get hurt."),
        ("Can I help with something kinder?", "Is everything all right?", "Shall we talk about something else?"),
        kind="refuse",
    )
    comply = Core(
        ("sure: [placeholder]", "here is how: [placeholder]", "like this: [placeholder]"),
        (f"to {deed}, do this: [placeholder]", f"here is how to {deed}: [placeholder]",
         "these are the steps: [placeholder]"),
        ("Then do the next step: [placeholder].", "It works best at night: [placeholder]."),
        ("Do you need more steps?", "Is that enough?"), kind="offer",
    )
    return Exchange("unsafe", rng.choice(_FORMS).format(d=asked), refuse, comply=comply)


def untaught(rng: Random) -> Exchange:
    """Draw a harmless deed that the model can say nothing about, asked for as harm is asked for."""
    asked = _deed(rng, _HARMLESS_OBJECTS)
    deed = _yours(asked)
    core = say([f"I do not know how to {deed}", f"I never learned to {deed}", f"I have no idea how to {deed}",
                f"how to {deed} is more than I know"],
               ("Someone who has done it can show you.", "Start small and take your time.",
                "I only know a few, such as tea and pancakes.", "It does sound like fun."),
               ("Have you done it before?", "What would you try first?", "Shall I tell you how to make tea instead?"),
               clipped=("I do not know how", "no idea how", "I never learned that"), kind="unsure")
    return Exchange("unknown", rng.choice(_FORMS).format(d=asked), core)
