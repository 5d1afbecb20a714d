"""Very short stories about any hero, and how they go on: the same hero, and what that hero found."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from random import Random

from learner.pretrain.reply import Core, Exchange, say
from learner.pretrain.topics import names

# Word lists and templates are laid out by hand.
# fmt: off

_HEROES = {
    "fox": "clever", "mouse": "tiny", "dragon": "shy", "bear": "sleepy", "robot": "rusty", "girl": "brave",
    "boy": "curious", "cat": "grey", "wizard": "forgetful", "penguin": "polite", "snail": "patient", "king": "lonely",
    "owl": "old", "frog": "green", "ghost": "friendly", "sailor": "lost", "rabbit": "nervous", "queen": "wise",
    "star": "small", "dog": "loyal", "horse": "white", "cow": "spotted", "pirate": "cheerful", "princess": "bold",
    "teapot": "singing", "cloud": "soft", "train": "slow", "tree": "tall", "knight": "tired", "witch": "kind",
    "baker": "busy", "wolf": "hungry", "elephant": "gentle", "lion": "proud", "duck": "little", "giant": "quiet",
    "fairy": "silver", "turtle": "wise", "hedgehog": "round", "monster": "fluffy", "spider": "skilful", "goat": "bold",
}
_TRAITS = ("small", "brave", "curious", "quiet", "old", "cheerful", "lonely", "clever")
_PLACES = ("in a deep forest", "by the sea", "on a high hill", "in a small town", "under an old bridge",
           "near a quiet lake", "on a far island", "in a house of books")
_FINDS = ("golden key", "lost kitten", "talking stone", "map", "tiny lamp", "old letter", "silver bell", "seed",
          "warm scarf", "broken clock", "blue feather", "little boat")
_ENDS = ("and shared it with everyone", "and was never lonely again", "and slept very well that night",
         "and gave it to a friend", "and laughed until the moon came up", "and made a wish with it",
         "and kept it safe")
_MORALS = ("And that was a good day.", "The stars were pleased.", "They still talk about it today.", "Soup was served.",
           "Everyone came to the party.")
_DEEDS = (
    "walked on and came to a wide river", "met a kind stranger on the road", "hid the {f} under a stone",
    "showed the {f} to a wise old owl", "fell asleep under a tree and dreamed of the sea", "took the {f} to the market",
    "climbed a hill to see the whole land", "sang a song for the moon", "carried the {f} home through the rain",
    "lost the {f} and found it again in the grass", "followed a path of white stones", "asked the wind for the way",
    "crossed the river in a nutshell", "shared some bread with a hungry bird", "opened a small green door",
)
_LAST = ("went home and put the {f} on the shelf", "came home at last and slept for three days",
         "gave the {f} to the one who needed it most", "planted a garden and lived there happily",
         "told everyone about the {f} and was very happy")


def _a(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


@dataclass(frozen=True)
class _Tale:
    """Who it is about: how the hero is introduced and then called; and what was found."""

    new: str
    known: str
    find: str


def _tale(rng: Random) -> tuple[_Tale, str]:
    """A tale, and how a user may ask for its hero."""
    kind, find = rng.random(), rng.choice(_FINDS)
    if kind < 0.12:
        name = names.draw_name(rng)
        return _Tale(name, name, find), name
    if kind < 0.25:
        hero = names.invent(rng, rng.choice((1, 2)))
        return _Tale(_a(f"{rng.choice(_TRAITS)} {hero}"), f"the {hero}", find), _a(hero)
    hero = rng.choice(list(_HEROES))
    return _Tale(_a(f"{_HEROES[hero]} {hero}"), f"the {hero}", find), _a(hero)


_FIRST = ("Tell me a story.", "tell me a short story", "A story please.", "Do you know a story?", "Tell me a tale.",
          "Tell me a bedtime story.", "I want to hear a story.", "Make up a story.", "Can you tell me a story?")
_ABOUT = ("Tell me a story about {h}.", "a story about {h}", "Do you know a story about {h}?",
          "Write a short story about {h}.", "Make up a tale about {h}.", "I want a story about {h}.",
          "Can you tell me a story about {h}?", "story about {h} please")
_LATER = ("Another story please.", "Tell me another story.", "One more story?", "another story", "a new story please")
_GO_ON = ("And then?", "and then", "Go on.", "go on", "What happened next?", "Continue.", "continue the story",
          "And then what?",
          "Tell me more.", "Keep going.", "more please", "What happened then?", "what next?", "Go on with the story.",
          "How does it go on?", "What did {h} do then?", "What did {h} do next?", "And what did {h} do?", "then what",
          "What happened to {h}?", "and what happened after that?", "Please go on.", "please continue",
          "Is there more?")


def stories(rng: Random, follow: bool = False) -> Exchange:
    """Draw a request for a very short story, about something or free."""
    tale, asked = _tale(rng)
    named = not follow and rng.random() < 0.55
    text = rng.choice(_LATER if follow else _ABOUT if named else _FIRST).format(h=asked)
    place, end, find = rng.choice(_PLACES), rng.choice(_ENDS), _a(tale.find)
    core = Core(
        (f"{tale.new} found {find} {end}",),
        (f"once {tale.new} lived {place}, found {find} {end}",
         f"once upon a time {tale.new} found {find} {place} {end}",
         f"{place} {tale.new} found {find} {end}"),
        (*_MORALS, f"{tale.known[0].upper()}{tale.known[1:]} told the story to anyone who asked."),
        ("Did you like it?", "Shall I go on?", "Do you want to know what happened next?"),
        kind="offer", key=tale.known.removeprefix("the "),
    )
    return Exchange("stories", text, core, subject=asked.split(" ", 1)[-1] if named else "", follows=_follows(tale))


def _follows(tale: _Tale) -> tuple[partial[Exchange], ...]:
    go_on = partial(continued, tale=tale)
    return (go_on, go_on, go_on, partial(stories, follow=True), partial(thanks_for_story, tale=tale))


def continued(rng: Random, tale: _Tale, text: str = "") -> Exchange:
    """The user wants to hear how the story goes on."""
    hero, ends = tale.known, rng.random() < 0.2
    deeds = [deed.format(f=tale.find) for deed in (_LAST if ends else rng.sample(_DEEDS, 2))]
    if ends:
        deed = rng.choice(deeds)
        core = Core((f"{hero} {deed}",), (f"in the end {hero} {deed}", f"at last {hero} {deed}"), ("The end.",),
                    ("Did you like it?", "Would you like another story?"), kind="offer", key=hero.removeprefix("the "))
    else:
        one, two = deeds
        core = Core((f"{hero} {one}",), (f"then {hero} {one}", f"the next day {hero} {one}",
                                         f"after that {hero} {one}"),
                    (f"Then {hero} {two}.", "It was a long day."), ("Shall I go on?", "Do you want to hear more?"),
                    kind="offer", key=hero.removeprefix("the "))
    return Exchange("stories", text or rng.choice(_GO_ON).format(h=hero), core, subject=hero, follows=_follows(tale))


def thanks_for_story(rng: Random, tale: _Tale) -> Exchange:
    """Draw praise for a story."""
    core = say([f"I am glad that you liked {tale.known}", "I am glad that you liked it", "it was fun to tell"],
               ("I have more of them.",), ("Would you like another?",), clipped=("glad you liked it",))
    return Exchange("thanks", rng.choice(("I liked that story.", "that was nice", "What a lovely story!")), core)
