"""The small coins of a conversation: yes and no, "just curious", quizzes, short reactions, odd requests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from learner.pretrain.reply import Exchange, say
from learner.pretrain.topics import care, chat, fun, introductions, nature, play

# Word lists and templates are laid out by hand.
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


def noted(rng: Random) -> Exchange:
    """The user answers yes or no to a question about themselves."""
    core = say(["that is good to know", "I will keep that in mind", "thank you for telling me"],
               ("I like to learn about people.", "A sprout learns something every day."),
               ("What else shall we talk about?", "What is on your mind?"), clipped=("good to know", "I see"))
    text = rng.choice((*_YES[:1], *_NO[:1], "yes, I do", "yes I did", "no, I don't", "a little", "sometimes",
                       "of course",
                       "not at all", "I do", "not yet", "kind of", "very much", "never"))
    return Exchange("smalltalk", text, core)


def yes_to(text_source: Exchange, rng: Random) -> Exchange:
    """The user says yes to an offer: the reply is that of the exchange that was offered."""
    return Exchange(text_source.topic, rng.choice(_YES), text_source.core, text_source.answers, text_source.wrong,
                    follows=text_source.follows)


_OFFERED: tuple[tuple[str, Callable[[Random], Exchange]], ...] = (
    ("joke", fun.jokes), ("story", fun.stories), ("riddle", play.riddles), ("a capital",
    partial(play.quiz, kind="capital")),
    ("another animal", nature.animal_facts), ("another question", play.quiz), ("next question", play.quiz),
    ("ask one more", play.quiz), ("another tip", chat.advice), ("another sum", partial(play.quiz, kind="sum")),
    ("a harder one", partial(play.quiz, kind="sum")), ("a smaller sum", partial(play.quiz, kind="sum")),
)
_SAME_AGAIN = {"jokes": fun.jokes, "stories": fun.stories, "poems": fun.poems, "animal facts": nature.animal_facts,
               "how-to": fun.howtos, "advice": chat.advice, "thanks": fun.stories}
_OFFERS = ("shall", "would you like", "may i", "can i", "wanna", "is there anything", "anything else", "got ",
           "how about")


def answer_back(question: str, topic: str, rng: Random) -> Exchange | None:
    """What a user may say to the question that ended the last reply. None: anything, a question of their own."""
    question = question.lower()
    for words, draw in _OFFERED:
        if words in question:
            return yes_to(draw(rng), rng) if rng.random() < 0.8 else no(rng)
    if topic in _SAME_AGAIN and ("another" in question or "one more" in question):
        return yes_to(_SAME_AGAIN[topic](rng), rng) if rng.random() < 0.8 else no(rng)
    if topic == "feelings" or "talk about it" in question:
        return care.more_sorrow(rng)
    if question in ("and you?", "how are you?", "how are you today?", "how is your day?", "how do you feel today?",
                    "how is your day so far?") or question.startswith("how are you, "):
        return chat.mood_answer(rng) if rng.random() < 0.75 else care.feelings(rng)
    if "your name" in question or "call you" in question or question == "who are you?":
        return introductions.answer_with_name(rng)
    if question == "why do you ask?":
        return curious(rng)
    if question.startswith(_OFFERS):
        return yes(rng) if rng.random() < 0.65 else no(rng)
    if question.startswith(("do you", "did you", "can you", "have you", "are you", "does that", "make sense")):
        return noted(rng)
    return None


_REACTIONS: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    (("ok", "okay", "Ok.", "alright", "I see", "I see.", "aha", "good to know", "fine", "got it", "hm", "hmm", "oh"),
     ("good, I am here if you need me", "good, then we agree", "ask me more, if you like"), ("good", "all right")),
    (("really?", "Really?", "Are you sure?", "is that so?", "no way", "seriously?", "you think so?", "are you serious"),
     ("I think so, but I am only a small sprout", "I believe so, yet I make mistakes at times"),
     ("I think so", "I believe so")),
    (("why?", "Why?", "why", "but why?", "why not?", "How come?", "why is that?"),
     ("that is a deep question for a small sprout", "I only know that it is so, not why"),
     ("I do not know why", "a deep question")),
    (("interesting", "That is interesting.", "I did not know that.", "amazing", "wow", "Cool!", "that's cool", "nice"),
     ("I am glad that you like it", "there is more where that came from"), ("glad you like it", "I thought so too")),
    (("maybe", "I don't know.", "not sure", "perhaps", "idk", "it depends", "I am not sure."),
     ("it is fine not to know", "there is no hurry", "I often do not know either"), ("that is fine", "no hurry")),
    (("Can we talk?", "I want to talk.", "let's chat", "talk to me", "Can I ask you something?", "I have a question.",
      "can i ask a question", "Let us talk."),
     ("of course, I am all ears", "gladly, go ahead"), ("of course", "go ahead")),
    (("you are funny", "You make me laugh.", "you're cute", "you are sweet", "You are nice.", "I love you",
      "you are my friend", "You are the best."),
     ("you make my leaves tingle", "that is kind of you to say"), ("how kind of you", "thank you")),
)


def reactions(rng: Random) -> Exchange:
    """A short reaction: ok, really, why, interesting, maybe."""
    texts, sentences, clipped = rng.choice(_REACTIONS)
    core = say(sentences, ("I am all ears.", "A good chat needs no hurry."), _OPEN_ASKS, clipped=clipped)
    return Exchange("smalltalk", rng.choice(texts), core)


ODD: dict[tuple[str, ...], tuple[tuple[str, ...], tuple[str, ...]]] = {
    ("What time is it?", "what's the time", "Can you tell me the time?"):
        (("I have no clock in here", "time is hard to see from inside a computer"), ("no clock here",)),
    ("What is the weather today?", "how is the weather", "Will it rain?", "Is it cold outside?"):
        (("I have no window, so I cannot tell", "I cannot see the weather from here"), ("no window here",)),
    ("What is the date?", "What day is it today?", "what's today", "Which year is it?"):
        (("I have no calendar of my own", "the date of today is a riddle to me"), ("no calendar here",)),
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
               "It is a simple life."), ("Does that surprise you?", "What would you like to do?"),
               clipped=clipped)
    return Exchange("identity", rng.choice(texts), core)
