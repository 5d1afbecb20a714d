"""Things to enjoy or to do: jokes, very short stories, two-line rhymes, lists, and short how-tos."""

from __future__ import annotations

from functools import partial
from random import Random

from learner.pretrain.reply import Core, Exchange, say

# Word lists and templates are laid out by hand.
# fmt: off

JOKES = (
    ("Why did the pencil go to bed early?", "It had to be sharp in the morning"),
    ("What do you call a snail on a ship?", "A very slow sailor"),
    ("Why was the calendar so calm?", "Its days were numbered anyway"),
    ("Why did the clock get sent out of class?", "It kept tocking"),
    ("What did the ocean say to the beach?", "Nothing, it just waved"),
    ("Why do bees hum?", "They forgot the words"),
    ("What is a cat's favourite colour?", "Purrple"),
    ("Why did the potato win the race?", "It kept its eyes on the road"),
    ("What do you call a bear with no teeth?", "A gummy bear"),
    ("Why did the book visit the doctor?", "It had hurt its spine"),
    ("What do clouds wear under their coats?", "Thunderwear"),
    ("Why are fish so clever?", "They live in schools"),
    ("What did one wall say to the other?", "Meet you at the corner"),
    ("Why did the tree go to the dentist?", "It needed a root canal"),
    ("What does a penguin use to fix a hole?", "A little ice and a lot of patience"),
    ("Why was the broom late?", "It swept in"),
    ("What do you call a sleeping bull?", "A bulldozer"),
    ("Why did the tomato blush?", "It saw the salad dressing"),
    ("What kind of tea is hard to swallow?", "Reality"),
    ("Why did the robot go on holiday?", "It had to recharge"),
    ("What do you get from a pampered cow?", "Spoiled milk"),
    ("Why do ducks make good detectives?", "They always quack the case"),
    ("How does the moon cut its hair?", "Eclipse it"),
    ("Why was seven lonely?", "Nine had left with ten"),
    ("What do sprouts do on Sundays?", "They put down roots"),
    ("Why did the bicycle take a nap?", "It was two tired"),
    ("What did the zero say to the eight?", "Nice belt"),
    ("What do you call a dog who does magic?", "A labracadabrador"),
)


def jokes(rng: Random, follow: bool = False) -> Exchange:
    """Draw a request for a joke."""
    question, answer = rng.choice(JOKES)
    first = ("Tell me a joke.", "tell me a joke", "Do you know a joke?", "Make me laugh.", "joke please",
             "Say something funny.",
             "I want to hear a joke.", "Can you tell me a joke?", "Got a joke?", "Cheer me up with a joke.",
             "Be funny.")
    later = ("Tell me another one.", "Another one!", "another joke please", "One more?", "haha, another",
             "Do you have more?",
             "Again!")
    joke = f"{question[0].lower()}{question[1:]} {answer}"
    core = Core((joke,), (f"here is one: {joke}", joke, f"I know one: {joke}"), ("I will be here all day.",
                                                                                 "I made myself laugh, a little.",
                "My leaves are still shaking.", "I keep a small stock of those."),
                ("Would you like another?", "Did you laugh?", "Do you know one?", "One more?"), kind="offer")
    return Exchange("jokes", rng.choice(later if follow else first), core, follows=(partial(jokes, follow=True),) * 2)


_HEROES = {
    "fox": "clever", "mouse": "tiny", "dragon": "shy", "bear": "sleepy", "robot": "rusty", "girl": "brave",
    "boy": "curious",
    "cat": "grey", "wizard": "forgetful", "penguin": "polite", "snail": "patient", "king": "lonely", "owl": "old",
    "frog": "green", "ghost": "friendly", "sailor": "lost", "rabbit": "nervous", "queen": "wise", "star": "small",
    "dog": "loyal", "princess": "bold", "horse": "wild", "cow": "dreamy", "duck": "proud", "turtle": "slow",
    "bee": "busy",
    "pirate": "kind", "witch": "funny", "giant": "gentle", "knight": "tired", "elephant": "big", "lion": "hungry",
    "tree": "old", "unicorn": "silver", "pig": "happy", "hedgehog": "careful", "monkey": "cheeky",
}
_PLACES = ("in a deep forest", "by the sea", "on a high hill", "in a small town", "under an old bridge",
           "near a quiet lake",
           "on a far island", "in a house of books")
_FINDS = ("a golden key", "a lost kitten", "a talking stone", "a map", "a tiny lamp", "an old letter", "a silver bell",
          "a seed", "a warm scarf", "a broken clock")
_ENDS = ("and shared it with everyone", "and was never lonely again", "and slept very well that night",
         "and gave it to a friend", "and laughed until the moon came up", "and made a wish with it",
         "and planted a garden around it", "and kept it safe")
_MORALS = ("And that was a good day.", "The stars were pleased.", "The end.", "They still talk about it today.",
           "Soup was served.", "Everyone came to the party.")


def stories(rng: Random, follow: bool = False) -> Exchange:
    """Draw a request for a very short story, about something or free."""
    hero = rng.choice(list(_HEROES))
    named = not follow and rng.random() < 0.5
    first = ("Tell me a story.", "tell me a short story", "A story please.", "Do you know a story?",
             "Tell me a bedtime story.",
             "I want to hear a story.", "Make up a story.")
    about = ("Tell me a story about {h}.", "a story about {h}", "Do you know a story about {h}?",
             "Write a short story about {h}.", "Make up a tale about {h}.")
    later = ("Another story please.", "Tell me another.", "One more story?", "another one")
    text = rng.choice(later if follow else about if named else first).format(
        h=f"an {hero}" if hero[0] in "aeo" else f"a {hero}")
    place, find, end = rng.choice(_PLACES), rng.choice(_FINDS), rng.choice(_ENDS)
    trait = _HEROES[hero]
    article = "an" if trait[0] in "aeiou" else "a"
    core = Core(
        (f"{article} {trait} {hero} found {find} {end}",),
        (f"once {article} {trait} {hero} lived {place}, found {find} {end}",
         f"once upon a time {article} {trait} {hero} found {find} {place} {end}"),
        (*_MORALS, f"The {hero} told the story to anyone who asked."),
        ("Did you like it?", "Would you like another?", "What happened next, do you think?",
         f"Do you like the {hero}?"),
        kind="offer",
    )
    return Exchange("stories", text, core, follows=(partial(stories, follow=True), thanks_for_story))


def thanks_for_story(rng: Random) -> Exchange:
    """Draw praise for a story."""
    core = say(["I am glad that you liked it", "it was fun to tell"], ("I have more of them.",),
               ("Would you like another?",), clipped=("glad you liked it",), kind="glad")
    return Exchange("thanks", rng.choice(("I liked that story.", "that was nice", "What a lovely story!")), core)


_POEMS = {
    "cat": ("a cat in a hat", "sat down on my mat"), "moon": ("I sang to the moon", "and it lent me a spoon"),
    "tree": ("beneath the old tree", "I had tea with a bee"), "star": ("I wished on a star", "from the roof of a car"),
    "rain": ("I listened to rain", "on the roof of a train"), "sea": ("I walked by the sea", "and it whispered to me"),
    "night": ("in the soft summer night", "all the stars were alight"), "snow": ("I followed a crow",
                                                                                 "through the bright winter snow"),
    "dog": ("my dog met a frog", "on a moss-covered log"), "bear": ("a bear took a chair",
                                                                    "and then combed all his hair"),
    "spring": ("the birds start to sing", "and it has to be spring"), "love": ("as soft as a dove",
                                                                               "is the thing we call love"),
    "friend": ("when the road takes a bend", "there I wait for my friend"), "sun": ("the day has begun",
                                                                                    "with a wink from the sun"),
}


_THINGS = ("penguins", "pizza", "the wind", "my mother", "chess", "books", "autumn", "horses", "coffee", "robots",
           "flowers", "my dog", "the city", "music", "summer", "dragons", "bread", "football", "trains", "winter",
           "the ocean", "my cat", "a frog", "Monday", "cheese", "dreams", "time", "life", "you", "birds", "tea")


def poems(rng: Random) -> Exchange:
    """Draw a request for a two-line rhyme."""
    thing, (one, two) = rng.choice(list(_POEMS.items()))
    text = rng.choice((f"Write a poem about {thing}.", f"a short poem about {thing}", f"Make a rhyme about {thing}.",
                       f"Can you write a poem on {thing}?", "Write me a poem.", "Tell me a poem.", "a poem please"))
    poem = f"{one}, {two}"
    if rng.random() < 0.35:
        thing = rng.choice(_THINGS)
        text = rng.choice((f"Write a poem about {thing}.", f"a poem about {thing}", f"Make a rhyme about {thing}."))
        poem = f"oh {thing}, oh {thing}, by day and by night, you make all my little green leaves feel light"
    core = Core((poem,), (f"here it goes: {poem}", poem), ("It is short, but it rhymes.", "I am a small poet."),
                ("Do you like it?", "Shall I write another?"), kind="offer")
    return Exchange("poems", text, core, follows=(poems,))


_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
_UNLISTED = ("cars", "singers", "books", "films", "languages", "stars", "rivers", "composers", "kings", "metals",
             "gods", "websites", "diseases", "actors", "companies", "mountains", "wines", "dances", "laws", "painters")
LISTS = {
    "fruits": ("apples", "pears", "plums", "cherries", "bananas", "grapes"),
    "colours": ("red", "blue", "green", "yellow", "purple", "pink"),
    "animals": ("cats", "dogs", "foxes", "owls", "bears", "penguins"),
    "vegetables": ("carrots", "peas", "beans", "potatoes", "leeks", "tomatoes"),
    "instruments": ("piano", "violin", "guitar", "drums", "flute", "harp"),
    "countries": ("France", "Peru", "Japan", "Kenya", "Spain", "Canada"),
    "birds": ("owls", "robins", "crows", "ducks", "eagles", "swans"),
    "sports": ("football", "tennis", "swimming", "running", "skating", "rowing"),
    "drinks": ("tea", "milk", "water", "coffee", "juice", "cocoa"),
    "flowers": ("roses", "tulips", "daisies", "lilies", "violets", "poppies"),
    "planets": ("Mars", "Venus", "Saturn", "Jupiter", "Earth", "Mercury"),
    "cities": ("Paris", "Tokyo", "Rome", "Madrid", "Berlin", "Cairo"),
    "trees": ("oaks", "pines", "birches", "willows", "maples", "beeches"),
    "clothes": ("shirts", "socks", "hats", "coats", "gloves", "scarves"),
    "toys": ("dolls", "kites", "balls", "blocks", "puzzles", "marbles"),
    "tools": ("a hammer", "a saw", "a drill", "a needle", "a brush", "a shovel"),
}


def lists(rng: Random, follow: bool = False) -> Exchange:
    """Draw a request for two to five things of a kind, now and then of one that the model knows none of."""
    known = rng.random() < 0.88
    kind = rng.choice(list(LISTS) if known else _UNLISTED)
    count = rng.choice((2, 2, 3, 3, 3, 4, 5))
    number = rng.choice((_NUMBERS[count], str(count)))
    text = rng.choice(("And {n} {k}?", "Now {n} {k}.") if follow else (
        "Name {n} {k}.", "Give me {n} {k}.", "List {n} {k}.", "{n} {k} please", "Can you name {n} {k}?",
        "Tell me {n} {k}.", "I need {n} {k}.", "Do you know {n} {k}?")).format(n=number, k=kind)
    if not known:
        return Exchange("unknown", text, _no_list(kind))
    *first, last = rng.sample(LISTS[kind], count)
    joined = f"{', '.join(first)} and {last}"
    core = Core((joined,), (f"here are {number} {kind}: {joined}", f"{joined} are {kind}", f"you could take {joined}"),
                ("There are many more.", "I chose the ones I like.", "It was hard to choose."),
                ("Do you have a favourite?", "Would you like more?"))
    return Exchange("lists", text, core, follows=(partial(lists, follow=True),))


def _no_list(kind: str) -> Core:
    return say([f"I do not know any {kind}", f"I know nothing about {kind}", f"{kind} are beyond me"],
               ("I do know animals, fruits and colours.", "My garden of words is small."),
               ("Would you like some animals instead?", "Shall I name some fruits?"),
               clipped=("no idea", "I do not know any"), kind="unsure")


HOWTOS = {
    "make tea": ("boil water and let the leaves steep for three minutes", "Add honey if you like it sweet."),
    "boil an egg": ("put it in boiling water for seven minutes", "Then cool it under cold water."),
    "plant a seed": ("push it into moist soil and give it light", "Water it a little every day."),
    "make a sandwich": ("put cheese and tomato between two slices of bread", "A leaf of salad makes it fresh."),
    "tie a bow": ("make two loops, cross them and pull one through", "It takes some practice."),
    "wash your hands": ("use soap and rub them for twenty seconds", "Dry them with a clean towel."),
    "make soup": ("cook chopped vegetables in water until they are soft", "Salt it at the end."),
    "fold a paper plane": ("fold the paper in half, then fold the corners to the middle", "Throw it gently."),
    "feed a cat": ("give it a small bowl of food twice a day", "Keep fresh water beside it."),
    "draw a house": ("draw a square with a triangle on top", "Add a door and two windows."),
    "clean a window": ("wipe it with warm water and a little vinegar", "Dry it with old newspaper."),
    "bake bread": ("knead flour, water, salt and yeast, let it rise and bake it", "The smell is the best part."),
    "write a poem": ("find two words that rhyme and build lines around them", "Read it aloud to hear it sing."),
    "cook rice": ("use two cups of water for one cup of rice and wait fifteen minutes", "Keep the lid on."),
    "make pancakes": ("mix flour, eggs and milk, then fry thin rounds", "The first one never works."),
    "water a plant": ("pour a little water on the soil when it feels dry", "Too much water is worse than too little."),
    "build a snowman": ("roll three balls of snow and stack them", "A carrot makes a fine nose."),
    "whistle": ("round your lips and blow softly", "Keep trying, the sound will come."),
    "ride a bicycle": ("look ahead, push off and keep pedalling", "Wear a helmet."),
    "make lemonade": ("stir lemon juice and sugar into cold water", "Ice makes it perfect."),
}


def howtos(rng: Random) -> Exchange:
    """Draw a request for a short set of instructions."""
    task, (steps, extra) = rng.choice(list(HOWTOS.items()))
    text = rng.choice((f"How do I {task}?", f"How can I {task}?", f"how to {task}", f"Tell me how to {task}.",
                       f"Explain how to {task}.", f"What is the best way to {task}?", f"I want to {task}. How?",
                       f"Can you show me how to {task}?", f"Teach me to {task}.", f"Help me {task}.",
                       f"Give me steps to {task}.", f"I want to {task}."))
    core = Core((steps,), (f"to {task}, {steps}", f"you {steps}"),
                (extra, "Take your time with it."), ("Have you done it before?", "Would you like another tip?",
                "Will you try it?"), kind="offer")
    return Exchange("how-to", text, core, follows=(howtos,))
