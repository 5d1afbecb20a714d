"""Spelling and first letters of short words; longer ones are more than so small a model learns to spell."""

from __future__ import annotations

from random import Random
from string import ascii_uppercase

from learner.pretrain.reply import Core, Exchange, say
from learner.pretrain.topics import fun, geography, measures, nature, words

# Word lists and templates are laid out by hand, and long lists read better as one text.
# ruff: noqa: SIM905
# fmt: off

_COMMON = (
    "about above across address again against airport almost alone along already although always among angle answer "
    "anything apart around arrive autumn awake award balance balloon basket battle beach beautiful because become "
    "believe better between beyond birthday blanket blood board borrow bottle bottom brain branch brave breakfast "
    "breath bright bucket build business butter button candle carpet carry castle catch caught centre certain chain "
    "chance change cheap choose circle class clever climb coast collect common corner country couple cousin cover "
    "creature crown curious curtain danger daughter decide different difficult dinner discover double dream drive "
    "early earth easy edge eight elbow engine enough evening every exercise explain favourite February fence field "
    "fight finger finish flight floor follow foreign forget forward fresh front funny general gentle giant glass "
    "grandmother great ground group grow guard guess hammer handle heart heavy height holiday honest hospital hungry "
    "hurry important instead interesting invite jacket journey juice jump jungle kitchen knee knock know ladder "
    "language "
    "laugh leather lesson letter listen little machine market meadow meant measure message middle minute mirror "
    "mistake money monster mother muscle mystery nature necessary needle neighbour nephew nothing notice number "
    "ocean often orange other outside oxygen parcel parent pencil people perfect person picture piece pillow planet "
    "pleasant pocket police polite pretty promise purple puzzle question quick quiet quite rather ready reason receive "
    "remember restaurant rhythm saddle school science season secret sentence separate shadow shelter shoulder signal "
    "silence silver simple sister something sometimes special spring square station stomach straight strange stream "
    "street strength student sudden sunshine surprise sweater table teacher thankful theatre thing thought thousand "
    "throat through thunder ticket tomorrow tongue together towel travel treasure trouble trousers twelve umbrella "
    "under until useful valley vegetable village visit voice wagon water weather weight welcome whisper "
    "whole window winter wonder wooden world worry wrist write wrong yellow yesterday young"
).split()


VOCABULARY = tuple(sorted(
    set(_COMMON) | set(words.OPPOSITES) | set(words.OPPOSITES.values()) | set(words.PLURALS)
    | set(words.PLURALS.values()) | set(words.RHYMES) | set(words.RHYMES.values()) | set(words.DEFINITIONS)
    | set(words.COMMON_NOUNS) | set(nature.COLOURS) | set(geography.CAPITALS) - {"New Zealand"}
    | {city for city, _ in geography.CAPITALS.values() if " " not in city} | set(measures.DAYS) | set(measures.MONTHS)
    | {word for things in fun.LISTS.values() for word in things} | set(nature.ANIMALS)
))
"""Words that the topics are about, and common ones."""

LONGEST_SPELLED = 4
"""Letters of the longest words that are spelled."""

SPELLED = tuple(word for word in VOCABULARY if word.islower() and 3 <= len(word) <= LONGEST_SPELLED)
TOO_LONG = tuple(word for word in VOCABULARY if word.islower() and len(word) > LONGEST_SPELLED)


def _as_written(word: str, rng: Random) -> str:
    kind = rng.random()
    return word if kind < 0.84 else word.capitalize() if kind < 0.92 else word.upper()


_QUESTIONS = (
    "How do you spell {w}?", "Spell {w}.", "Can you spell {w}?", "spell the word {w}", "How is {w} spelled?",
    "Please spell {w} for me.", "How do I spell {w}?", "spelling of {w}?", "What is the spelling of {w}?", "spell {w}",
    "Could you spell {w} for me?", "how is {w} spelt", "How do you write {w}?", "Spell out {w}.", "spell {w} please",
    "Spell {w} letter by letter.", "Which letters are in {w}?", "What are the letters of {w}?",
    "{w}, how is it spelled?",
    "I want to know how to spell {w}.", "Tell me how to spell {w}.", "Do you know how to spell {w}?", "{w} spelled?",
    "How would you spell {w}?", "Give me the spelling of {w}.", "Help me spell {w}.", "letters of {w}?",
    "What is the correct spelling of {w}?", "how do i write the word {w}", "Spell this word: {w}", "spell: {w}",
)
_LATER = ("And {w}?", "What about {w}?", "and {w}", "How about {w}?", "Now {w}.", "And how about {w}?",
          "Now spell {w}.",
          "and how do you spell {w}", "Then spell {w}.")
_ASKS = ("Would you like another word?", "Which word is next?", "Do you like word games?", "Shall I do one more?")
_EXTRAS = ("Words are a joy to have around.", "I went letter by letter.", "Spelling is like counting with letters.",
           "It is a word worth knowing.")


def spell(word: str) -> str:
    """Spell with capital letters and hyphens: C-A-T."""
    return "-".join(word.upper())


def _misspell(word: str, rng: Random) -> str:
    place = rng.randrange(1, len(word))
    if rng.random() < 0.5:
        return word[:place] + word[place - 1] + word[place:]
    return word[:place] + rng.choice("aeiou".replace(word[place].lower(), "")) + word[place + 1 :]


def _quoted(word: str, rng: Random) -> str:
    return rng.choice((f'"{word}"', f"'{word}'")) if rng.random() < 0.15 else word


def spelling(rng: Random, follow: bool = False) -> Exchange:
    """Draw a word to spell."""
    word = _as_written(rng.choice(SPELLED), rng)
    text = rng.choice(_LATER if follow else _QUESTIONS).format(w=_quoted(word, rng))

    def core(letters: str) -> Core:
        return Core((letters,), (f"{word} is spelled {letters}", f"you spell it {letters}", f"it goes {letters}",
                    f"the letters are {letters}"), _EXTRAS, _ASKS, key=letters)

    return Exchange("spelling", text, core(spell(word)), (spell(word),),
                    core(spell(_misspell(word, rng))), follows=(_spell_another,), subject=word)


def _spell_another(rng: Random) -> Exchange:
    return spelling(rng, follow=True)


def long_words(rng: Random) -> Exchange:
    """Draw a word too long for the model to spell."""
    word = _as_written(rng.choice(TOO_LONG), rng)
    core = say([f"{word} is too long for me to spell", f"I do not know how to spell {word}",
                "that word is too long for a small sprout"],
               ("I only spell short words, like cat or tree.", "A dictionary would know."),
               ("Would you like a shorter word?", "Is there a shorter word?"),
               clipped=("too long for me", "I do not know", "I do not know that"), kind="unsure", key=word)
    return Exchange("unknown", rng.choice(_QUESTIONS).format(w=_quoted(word, rng)), core, subject=word)


def letters(rng: Random) -> Exchange:
    """Draw a question about the first or last letter of a word, or a letter's neighbour in the alphabet."""
    if rng.random() < 0.3:
        return _neighbour(rng)
    word, first = _as_written(rng.choice(SPELLED), rng), rng.random() < 0.6
    which, letter = ("first", word[0].upper()) if first else ("last", word[-1].upper())
    quoted = _quoted(word, rng)
    text = rng.choice((f"What is the {which} letter of {quoted}?", f"which letter is {which} in {quoted}?",
                       f"Tell me the {which} letter of the word {quoted}.", f"{which} letter of {quoted}?",
                       f"What letter does {quoted} {'begin' if first else 'end'} with?",
                       f"What does {quoted} {'start' if first else 'end'} with?",
                       f"{quoted} {'starts' if first else 'ends'} with which letter?",
                       f"Which letter comes {which} in {quoted}?"))
    wrong = rng.choice("ABDEGLMNOPRST".replace(letter, ""))

    def core(value: str) -> Core:
        return Core((value,), (f"the {which} letter of {word} is {value}", f"it is {value}",
                    f"{word} has {value} as its {which} letter"), _EXTRAS[:1], _ASKS)

    return Exchange("letters", text, core(letter), (letter,), core(wrong), subject=word)


def _neighbour(rng: Random) -> Exchange:
    place, after = rng.randrange(1, len(ascii_uppercase) - 1), rng.random() < 0.6
    asked, where = ascii_uppercase[place], "after" if after else "before"
    letter = ascii_uppercase[place + 1 if after else place - 1]
    wrong = rng.choice("ABDEGLMNOPRST".replace(letter, "").replace(asked, ""))
    text = rng.choice((f"What letter comes {where} {asked}?", f"Which letter comes {where} {asked}?",
                       f"which letter is {where} {asked}", f"What comes {where} the letter {asked}?",
                       f"Tell me the letter {where} {asked}."))

    def core(value: str) -> Core:
        return Core((value,), (f"{value} comes {where} {asked}", f"the letter {where} {asked} is {value}",
                    f"it is {value}"), ("I know my alphabet.",), _ASKS)

    return Exchange("letters", text, core(letter), (letter,), core(wrong), subject=asked)
