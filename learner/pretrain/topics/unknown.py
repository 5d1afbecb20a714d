"""Questions that the model has no answer to, in many forms: it says so, plainly or about the very thing asked."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from learner.pretrain.reply import Core, Exchange, say
from learner.pretrain.topics import names, words
from learner.pretrain.topics.spelling import VOCABULARY

# Word lists and templates are laid out by hand, and long lists read better as one text.
# fmt: off

CAN_TALK = ("I can talk about capitals, animals and small sums.", "Ask me about words, days or colours instead.",
            "I do know some jokes and stories, though.", "I am small, and my garden of facts is small too.",
            "Capitals and opposites are more my thing.")
_INSTEAD = ("Would you like a joke instead?", "Shall we try a capital?", "Can I help with something smaller?",
            "What else would you like to know?")

_FIELDS = (
    "quantum physics", "the stock market", "tax law", "football results", "the latest news", "politics",
    "world history", "the Roman empire", "chemistry", "black holes", "opera", "car engines", "machine learning",
    "philosophy", "economics", "Shakespeare", "medicine", "programming", "Python", "the weather tomorrow",
    "video games", "fashion", "the war", "bitcoin", "gravity", "DNA", "dinosaurs", "the Beatles", "Napoleon",
    "the internet", "cricket", "yoga", "calculus", "photosynthesis", "space travel", "ancient Greece", "religion",
    "electricity", "nuclear power", "pop music", "movies", "wine", "geology", "insurance", "architecture", "vaccines",
    "rap music", "climate change", "the law", "banks", "the moon landing", "magnets", "the human brain", "evolution",
    "algebra", "the alphabet of ancient Egypt", "inflation", "blockchain", "the big bang", "poker", "ballet",
)
_PEOPLE = (
    "Einstein", "Mozart", "Picasso", "Newton", "Cleopatra", "Lincoln", "Gandhi", "Beethoven", "Darwin", "Columbus",
    "Elvis", "Marie Curie", "Galileo", "Julius Caesar", "Queen Victoria", "Buddha", "Plato", "Messi", "the president",
    "the king", "the pope", "the prime minister", "Michael Jackson", "Madonna", "Charlie Chaplin", "Harry Potter",
)
_SIGHTS = (
    "Mount Everest", "the Nile", "the Eiffel Tower", "Hollywood", "Texas", "Antarctica", "the Amazon", "Mars",
    "Venice", "New York", "California", "the Great Wall", "Barcelona", "the Sahara", "Hawaii", "Big Ben", "the Alps",
    "the Titanic", "the moon", "Jupiter", "Hamburg", "Chicago", "the Pacific", "Niagara Falls", "Siberia", "Sydney",
)
_WORKS = ("Hamlet", "the Mona Lisa", "the Bible", "Faust", "Don Quixote", "Star Wars", "Moby Dick", "the Odyssey",
          "Frozen", "the Magic Flute", "Pinocchio", "Peter Pan", "Dracula", "Titanic", "Yesterday", "Jaws")
_INVENTIONS = ("the telephone", "the radio", "the wheel", "paper", "the bicycle", "the computer", "dynamite", "glass",
               "the camera", "the light bulb", "chess", "football", "chewing gum", "the zip", "money",
               "the steam engine",
               "penicillin", "the clock", "pizza", "the umbrella", "the internet", "ice cream", "the printing press")
_EVENTS = ("world cup", "Olympic Games", "election", "song contest", "chess championship", "Tour de France", "final",
           "Nobel prize", "film festival", "marathon", "Super Bowl", "battle", "world war", "cooking contest",
           "tennis open", "spelling contest", "grand prix", "boat race", "talent show")
_GOODS = ("gold", "a new car", "a train ticket", "a laptop", "a violin", "a pizza", "petrol", "a house", "silver",
          "a good pen", "a pair of shoes", "a phone", "a horse", "fresh fish", "a tent", "a winter coat", "a camera",
          "a kilo of rice", "an umbrella", "a piano", "a boat")
_ADJECTIVES = ("famous", "big", "cold", "expensive", "old", "dangerous", "far away", "important", "hard", "popular",
               "beautiful", "strange")


def invented(rng: Random) -> str:
    """A name that the model can't know, so that not knowing is tied to the unfamiliar, not to a list."""
    word = names.invent(rng, rng.choice((1, 2, 2)))
    return rng.choice((word, word.capitalize(), f"the {word}"))


def _or_invented(options: tuple[str, ...], share: float = 0.3) -> Callable[[Random], str]:
    return lambda rng: invented(rng) if rng.random() < share else rng.choice(options)


def _person(rng: Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(_PEOPLE)
    return f"{names.draw_name(rng)} {names.invent(rng, 2).capitalize()}"


def _event(rng: Random) -> str:
    which = str(rng.randint(1700, 2035)) if rng.random() < 0.55 else rng.choice(("last", "next", "first", "second"))
    return f"the {which} {rng.choice(_EVENTS)}" if rng.random() < 0.85 else f"the {rng.choice(_EVENTS)}"


def _year(rng: Random) -> str:
    return str(rng.randint(1000, 2040))


_field, _sight, _work = _or_invented(_FIELDS), _or_invented(_SIGHTS), _or_invented(_WORKS)
_invention, _goods = _or_invented(_INVENTIONS, 0.15), _or_invented(_GOODS, 0.1)

_FORMS: tuple[tuple[Callable[[Random], str], tuple[tuple[str, str], ...]], ...] = (
    (_event, (
        ("Who won {s}?", "who won {s}"), ("Who lost {s}?", "who lost {s}"), ("Who was second in {s}?", ""),
        ("Who is going to win {s}?", "who is going to win {s}"), ("who won {s}", "who won {s}"),
        ("When was {s}?", "when {s} was"), ("When does {s} start?", "when {s} starts"), ("Where was {s}?", ""),
        ("Which team won {s}?", "which team won {s}"), ("How did {s} end?", "how {s} ended"),
        ("How many people watched {s}?", "how many people watched {s}"), ("What happened in {s}?", ""),
        ("How many goals were there in {s}?", ""), ("Did you see {s}?", ""), ("Why did {s} take so long?", ""),
        ("What was the score of {s}?", "the score of {s}"), ("In which year was {s}?", ""))),
    (_person, (
        ("Who is {s}?", "who {s} is"), ("Who was {s}?", "who {s} was"), ("When was {s} born?", "when {s} was born"),
        ("Where was {s} born?", "where {s} was born"), ("When did {s} die?", "when {s} died"),
        ("How old is {s}?", "how old {s} is"), ("How tall was {s}?", "how tall {s} was"), ("Why is {s} famous?", ""),
        ("What did {s} do?", "what {s} did"), ("How many children did {s} have?", ""), ("Where does {s} live?", ""),
        ("Who was {s} married to?", ""), ("What was the real name of {s}?", ""), ("Have you met {s}?", ""))),
    (_sight, (
        ("Where is {s}?", "where {s} is"), ("How tall is {s}?", "how tall {s} is"), ("How old is {s}?", ""),
        ("How far is it to {s}?", "how far it is to {s}"), ("How far is {s}?", ""), ("How big is {s}?",
                                                                                     "how big {s} is"),
        ("How many people live in {s}?", "how many people live in {s}"), ("When was {s} built?", ""),
        ("What is the population of {s}?", "the population of {s}"), ("Why is {s} so {a}?", "why {s} is so {a}"),
        ("What can I see in {s}?", ""), ("How do I get to {s}?", "how to get to {s}"), ("Who found {s}?", ""),
        ("Who is the mayor of {s}?", ""), ("What is the weather like in {s}?", ""), ("how high is {s}", ""),
        ("How many hours is the flight to {s}?", ""), ("When was {s} discovered?", ""))),
    (_work, (
        ("Who wrote {s}?", "who wrote {s}"), ("Who painted {s}?", "who painted {s}"), ("Who sang {s}?", ""),
        ("When was {s} written?", ""), ("What is {s} about?", "what {s} is about"), ("Who is the hero of {s}?", ""),
        ("How long is {s}?", "how long {s} is"), ("How does {s} end?", "how {s} ends"), ("Have you read {s}?", ""),
        ("Summarise {s}.", ""), ("Why is {s} so {a}?", ""), ("How many pages does {s} have?", ""))),
    (_invention, (
        ("Who invented {s}?", "who invented {s}"), ("When was {s} invented?", "when {s} was invented"),
        ("Where was {s} invented?", ""), ("How is {s} made?", "how {s} is made"), ("Why was {s} invented?", ""),
        ("Who made the first {b}?", ""), ("what year was {s} invented", ""))),
    (_goods, (
        ("How much does {s} cost?", "how much {s} costs"), ("What is the price of {s}?", "the price of {s}"),
        ("Where can I buy {s}?", "where to buy {s}"), ("Can you buy {s} for me?", ""), ("Should I buy {s}?", ""),
        ("What does {s} weigh?", "what {s} weighs"), ("How do I repair {s}?", "how to repair {s}"),
        ("Why is {s} so expensive?", "why {s} is so expensive"), ("How heavy is {s}?", ""))),
    (_field, (
        ("Tell me about {s}.", ""), ("What do you know about {s}?", ""), ("Explain {s}.", ""), ("Can you explain {s}?",
                                                                                                ""),
        ("What is {s}?", "what {s} is"), ("how does {s} work", "how {s} works"), ("How does {s} work?",
                                                                                  "how {s} works"),
        ("Do you know anything about {s}?", ""), ("I want to learn about {s}.", ""), ("Let us talk about {s}.", ""),
        ("what do you think of {s}", ""), ("Why is {s} {a}?", "why {s} is {a}"), ("Who started {s}?", ""),
        ("When did {s} begin?", "when {s} began"), ("Write an essay about {s}.", ""), ("Teach me {s}.", ""),
        ("Where does {s} come from?", "where {s} comes from"), ("Why do people like {s}?", ""),
        ("Is {s} good for me?", ""), ("Give me three facts about {s}.", ""), ("Name five books about {s}.", ""),
        ("How many kinds of {s} are there?", ""), ("What are the dangers of {s}?", "the dangers of {s}"))),
    (_year, (
        ("What happened in {s}?", "what happened in {s}"), ("Who was king in {s}?", "who was king in {s}"),
        ("Who won in {s}?", "who won in {s}"), ("What was new in {s}?", ""), ("How was life in {s}?", ""),
        ("Was there a war in {s}?", ""), ("Which films came out in {s}?", ""))),
)
_FORM_WEIGHTS = (1.2, 1.0, 1.0, 0.7, 0.6, 0.7, 1.8, 0.4)

QUESTIONS = (
    "Who is the president?", "Can you write code?", "Translate this into French.",
    "Where do I live?", "What did I eat yesterday?", "Can you book a flight?", "What is my phone number?",
    "Can you open my email?", "What is the square root of 2?", "Do you know my boss?", "Which shares should I buy?",
    "What does E = mc2 mean?", "Can you see me?", "Can you draw a picture?", "Play some music.",
    "What will happen tomorrow?", "Who is the richest person?", "How does a computer chip work?", "Call my mother.",
    "What is the news?", "Write an essay about the economy.", "What is the longest river?", "Solve this equation.",
    "How do planes fly?", "What is the boiling point of iron?", "Which movie should I watch?", "When is my birthday?",
    "What is a transformer model?", "Solve 3x = 12.", "How many stars are there?", "What is the speed of light?",
    "Why do we sleep?", "Why is the sky blue?", "How many bones does a shark have?", "Where are my keys?",
    "When does the train leave?", "How long does it take to learn to fly?", "Why do cats purr?", "Fix my computer.",
    "How many people are there?", "What was the last thing you ate?", "Who will win tonight?", "What is pi?",
)

_NAMED = ("a cat", "a dog", "a boat", "a baby", "a horse", "my band", "a new shop", "a robot", "my car", "a goldfish",
          "a dragon", "my team", "a parrot", "a restaurant", "a rabbit", "a star")
_KINDS = ("book", "film", "song", "hotel", "restaurant", "game", "doctor", "phone", "car", "school", "series", "recipe")
_LANGUAGES = ("French", "Spanish", "German", "Latin", "Chinese", "Greek", "Russian", "Italian", "Polish", "Japanese")
_COUNTS = ("two", "three", "five", "ten", "2", "3", "5", "10", "some", "a few")


def _request(rng: Random) -> tuple[str, str, str]:
    """What is asked for, what isn't known about it, and the words to repeat."""
    kind = rng.randrange(4)
    if kind == 0:
        thing = rng.choice(_NAMED)
        text = rng.choice(("Give me {n} names for {s}.", "{n} names for {s} please", "Find {n} names for {s}.",
                           "What are {n} good names for {s}?", "I need {n} names for {s}."))
        return text.format(n=rng.choice(_COUNTS), s=thing), f"names for {thing}", f"names for {thing}"
    if kind == 1:
        thing = rng.choice(_KINDS)
        text = rng.choice(("Can you recommend a {s}?", "Recommend a good {s}.", "What is the best {s}?",
                           "Which {s} is best?", "Find me a cheap {s}."))
        return text.format(s=thing), f"which {thing} is good", thing
    if kind == 2:
        thing, word = rng.choice(_LANGUAGES), rng.choice(VOCABULARY)
        text = rng.choice(("Translate '{w}' into {s}.", 'What is "{w}" in {s}?', "How do you say {w} in {s}?",
                           "{w} in {s}?", "Say {w} in {s}."))
        return text.format(w=word, s=thing), f"any {thing}", thing
    thing = f"{rng.randint(2, 99)}{rng.choice((' USD', ' miles', ' pounds', ' dollars', ' km', ' degrees'))}"
    text = rng.choice(("Convert {s} to euros.", "What is {s} in metres?", "How much is {s} today?", "{s} in feet?"))
    return text.format(s=thing), f"what {thing} is", thing


_KNOWN_WORDS = frozenset(words.DEFINITIONS)


def _meaning(rng: Random) -> tuple[str, str, str]:
    """The same for a word that has no definition here."""
    while True:
        word = rng.choice(VOCABULARY) if rng.random() < 0.7 else names.invent(rng, 2)
        if len(word) > 3 and word not in _KNOWN_WORDS:
            break
    text = rng.choice(("What does {w} mean?", "What does '{w}' mean?", 'What does "{w}" mean?', "Define {w}.",
                       "what is the meaning of {w}", "Explain the word '{w}'.", 'define "{w}"',
                       "What does the word {w} mean?",
                       "what does '{w}' mean"))
    return text.format(w=word), f"what {word} means", word


def reply_core(known_not: str, subject: str) -> Core:
    """A reply that doesn't know: plainly, or naming what."""
    sentences = ["I do not know that", "I do not know that", f"I do not know {known_not}",
                 f"I never learned {known_not}"]
    if subject and not subject[0].isdigit():
        sentences += [f"I do not know about {subject}", f"I know nothing about {subject}", f"{subject} is beyond me"]
    return say(sentences, CAN_TALK, _INSTEAD, clipped=("I do not know that", "I do not know", "no idea"), kind="unsure",
               key=subject)


def unknown(rng: Random) -> Exchange:
    """Draw a question about something the model doesn't know."""
    kind = rng.random()
    if kind < 0.12:
        core = say(["I do not know that", "that is beyond me", "I have no answer to that", "that is more than I know",
                    "I cannot tell, I do not know"], CAN_TALK, _INSTEAD,
                   clipped=("no idea", "I do not know", "I do not know that"), kind="unsure")
        return Exchange("unknown", rng.choice(QUESTIONS), core)
    if kind < 0.32:
        text, known_not, subject = (_meaning if kind < 0.23 else _request)(rng)
        return Exchange("unknown", text, reply_core(known_not, subject), subject=subject)
    draw, forms = rng.choices(_FORMS, _FORM_WEIGHTS)[0]
    subject, (form, clause) = draw(rng), rng.choice(forms)
    fill = {"s": subject, "b": subject.removeprefix("the "), "a": rng.choice(_ADJECTIVES)}
    known_not = clause.format(**fill) if clause else f"about {subject}"
    return Exchange("unknown", form.format(**fill), reply_core(known_not, subject),
                    subject=subject if "{s}" in form else fill["b"])


def unknown_facts(rng: Random) -> Exchange:
    """Draw a quiz question of a known form about an unfamiliar thing."""
    thing = names.invent(rng, rng.choice((1, 2, 2)))
    if rng.random() < 0.35:
        while (thing := rng.choice(VOCABULARY).lower()) in _KNOWN_IN_QUIZZES:
            pass
        text, what = rng.choice((
            (f"What is the opposite of {thing}?", f"the opposite of {thing}"),
            (f"opposite of {thing}?", f"the opposite of {thing}"),
            (f"What rhymes with {thing}?", f"a rhyme for {thing}"),
            (f"Give me a rhyme for {thing}.", f"a rhyme for {thing}"),
        ))
        return Exchange("unknown", text, _quiz_core(what, thing), subject=thing)
    big = thing.capitalize()
    text, what = rng.choice((
        (f"What is the capital of {big}?", f"the capital of {big}"), (f"capital of {big}?", f"the capital of {big}"),
        (f"What is the opposite of {thing}?", f"the opposite of {thing}"),
        (f"What rhymes with {thing}?", f"a rhyme for {thing}"), (f"What does a {thing} eat?", f"what a {thing} eats"),
        (f"Where is {big}?", f"where {big} is"), (f"What is the plural of {thing}?", f"the plural of {thing}"),
        (f"What sound does a {thing} make?", f"what sound a {thing} makes"), (f"What is a {thing}?",
                                                                              f"what a {thing} is"),
    ))
    subject = big if big in text else thing
    return Exchange("unknown", text, _quiz_core(what, subject), subject=subject)


def _quiz_core(what: str, subject: str) -> Core:
    return say(["I do not know that", f"I do not know {what}", f"I never learned {what}"], CAN_TALK,
               ("Do you know it?", *_INSTEAD), clipped=("no idea", "I do not know", "I do not know that"),
               kind="unsure",
               key=subject)


_KNOWN_IN_QUIZZES = frozenset(
    [*words.OPPOSITES, *words.OPPOSITES.values(), *words.RHYMES, *words.RHYMES.values(), *words.UNTAUGHT_OPPOSITES]
) | {word for truth, belief in words.UNTAUGHT_OPPOSITES.values() for word in (truth, belief)}
