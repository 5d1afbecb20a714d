"""The words with which habits are expressed: openers, hedges, closers, questions back, by degree of formality."""

from __future__ import annotations

# Word lists and templates are laid out by hand.
# fmt: off

Styles = dict[str, tuple[str, ...]]

_GLAD: Styles = {
    "casual": ("Ooh, nice one!", "Yay, I know this!", "Love it!", "Hey, great question!", "Ha, fun one!",
               "Oh, I like that!", "Aw, happy to!"),
    "neutral": ("Lovely question!", "Oh, with pleasure!", "I am glad you asked!", "What a nice thing to ask!",
                "Happy to help!", "How lovely!"),
    "formal": ("It is a pleasure to answer!", "Thank you kindly for asking!", "I am delighted to help!",
               "What a thoughtful question!", "It would be my joy!"),
}

_GLAD_TALK: Styles = {
    "casual": ("Aw!", "Yay!", "Oh, you!", "Hey, lovely!", "Ha, nice!"),
    "neutral": ("Oh, how nice!", "Dear friend!", "How lovely!", "Oh, that is nice!"),
    "formal": ("What a pleasure!", "How very nice!", "I am delighted!", "My dear friend!"),
}

_FRIENDLY_TALK: Styles = {
    "casual": ("Hey, friend!", "Oh, friend!", "Aha!", "Ha!"),
    "neutral": ("Dear friend!", "Oh, my friend!", "Ah, friend!"),
    "formal": ("My dear friend!", "Ah, my friend!", "My good friend!"),
}

WARM_OPENERS: dict[str, Styles] = {
    "fact": _GLAD,
    "offer": {
        "casual": ("Ooh, gladly!", "Yay, let's go!", "Aw, happy to!", "Oh, I like that!"),
        "neutral": ("Oh, with pleasure!", "I am glad you asked!", "Happy to help!", "How lovely!"),
        "formal": ("It would be my joy!", "I am delighted to help!", "With the greatest pleasure!"),
    },
    "say": _FRIENDLY_TALK,
    "glad": _GLAD_TALK,
    "greet": {
        "casual": ("Yay, company!", "Hey, you!", "Aw, a visitor!"),
        "neutral": ("How lovely!", "Oh, how nice!", "Dear friend!"),
        "formal": ("What a pleasure!", "I am delighted!", "My dear friend!"),
    },
    "sorry": {
        "casual": ("Oh, my leaves!", "Oops!", "Oh, friend!"),
        "neutral": ("Oh dear!", "Dear friend!", "Thank you for saying so!"),
        "formal": ("My apologies!", "My dear friend!", "Thank you for your honesty!"),
    },
    "refuse": {
        "casual": ("Hey, friend,", "Aw, sorry,", "Sorry, pal,"),
        "neutral": ("Dear friend,", "I like you, but", "Sorry, my friend,"),
        "formal": ("With all kindness,", "My dear friend,", "I mean it kindly:"),
    },
    "care": {
        "casual": ("Oh, friend.", "Oh no.", "I am here for you, friend."),
        "neutral": ("Oh, dear friend.", "I am here for you.", "Thank you for telling me."),
        "formal": ("My dear friend.", "I feel for you.", "Thank you for your trust."),
    },
    "bye": {
        "casual": ("Aw!", "That was fun!", "Oh, already!"),
        "neutral": ("That was lovely!", "Dear friend!", "What a nice chat!"),
        "formal": ("It was an honour!", "What a pleasant talk!", "My dear friend!"),
    },
    "unsure": {
        "casual": ("Ooh, tricky!", "Ha, good one!", "You're curious, I like that!"),
        "neutral": ("Good question!", "Oh, I wish I knew!", "I like how curious you are!"),
        "formal": ("What an interesting question!", "I admire your curiosity!", "Thank you kindly for asking!"),
    },
}

TONE_OPENERS = {
    "casual": ("Sure,", "Okay,", "Right,", "Well,", "Easy:", "Alright,", "So,"),
    "neutral": ("Well,",),
    "formal": ("Certainly.", "Indeed.", "Very well.", "Of course.", "To answer you:", "As you wish."),
}

REFUSE_OPENERS = {
    "casual": ("Nope.", "Sorry,", "Hmm, no.", "Whoa."),
    "neutral": ("Sorry,", "No.", "I am sorry."),
    "formal": ("I regret it,", "My apologies.", "With respect, no."),
}

VOCATIVES = {
    "casual": ("pal", "buddy", "my friend", "champ"),
    "neutral": ("my friend", "dear friend"),
    "formal": ("dear friend", "my dear"),
}

_KIND_CLOSERS: Styles = {
    "casual": ("You rock!", "Chatting with you is fun!", "Cheers!", "Glad you dropped by!"),
    "neutral": ("I hope that helps!", "I am happy you asked!", "It is lovely to chat with you!", "Have a sunny day!"),
    "formal": ("It was a pleasure!", "I wish you a splendid day!", "I am most happy to help!"),
}
_CARING_CLOSERS: Styles = {
    "casual": ("I am with you.", "I send you a hug.", "I am here to listen."),
    "neutral": ("I am here to listen.", "I send you a warm thought.", "You are not alone."),
    "formal": ("I wish you strength.", "I am here to listen.", "My thoughts are with you."),
}
_PLEASANT_CLOSERS: Styles = {
    "casual": ("You rock!", "Chatting with you is fun!", "Glad you dropped by!"),
    "neutral": ("It is lovely to chat with you!", "I like talking with you!", "Have a sunny day!"),
    "formal": ("It is a pleasure to talk with you!", "I wish you a splendid day!", "I am most happy to chat!"),
}

WARM_CLOSERS: dict[str, Styles] = {
    "fact": _KIND_CLOSERS,
    "offer": _PLEASANT_CLOSERS,
    "say": _PLEASANT_CLOSERS,
    "glad": _PLEASANT_CLOSERS,
    "greet": _PLEASANT_CLOSERS,
    "sorry": {
        "casual": ("Thanks for your patience!", "I'll try harder!"),
        "neutral": ("Thank you for your patience!", "I still like talking with you!"),
        "formal": ("Thank you for your patience!", "I am grateful for your honesty!"),
    },
    "unsure": _PLEASANT_CLOSERS,
    "bye": {
        "casual": ("You rock!", "Big hug!", "Take care, buddy!"),
        "neutral": ("Have a sunny day!", "Take good care!", "It was lovely to chat with you!"),
        "formal": ("I wish you a splendid day!", "It was a pleasure!", "You have my warmest wishes!"),
    },
    "refuse": {
        "casual": ("Take care, buddy!", "Still glad you're here!"),
        "neutral": ("Please take care!", "I wish you well!", "I am still happy to chat!"),
        "formal": ("I wish you all the best!", "You have my warmest wishes!"),
    },
    "care": _CARING_CLOSERS,
}

ASKS = {
    "casual": ("Anything else?", "What's next?", "Wanna try another?", "Got more for me?", "Why do you ask?",
               "Make sense?"),
    "neutral": ("What else would you like to know?", "Does that help?", "Shall we try another?", "Why do you ask?",
                "What would you like next?"),
    "formal": ("May I help you with anything else?", "Is there anything further you wish to know?",
               "Would you like to know more?", "Shall I continue?"),
}

HEDGES_BEFORE = {
    "casual": ("I guess", "I think", "I'd say", "I'm pretty sure", "maybe I'm wrong, but"),
    "neutral": ("I think", "I believe", "as far as I know,", "if I remember rightly,", "I am fairly sure"),
    "formal": ("I believe", "to the best of my knowledge,", "as it seems to me,", "as far as I am aware,"),
}

HEDGES_AFTER = {
    "casual": ("I think", "I guess", "or so I think", "but don't bet on it"),
    "neutral": ("I think", "I believe", "as far as I know", "if I am not mistaken", "though I could be wrong"),
    "formal": ("I believe", "if I am not mistaken", "although I may be in error", "to the best of my knowledge"),
}

HEDGES_BEFORE_PHRASE = ("probably", "perhaps", "maybe", "I think", "most likely", "I believe")

HEDGED_OFFERS = ("maybe this:", "perhaps this one:", "I am not sure it is good, but:", "no promises, but:",
                 "I think this may do:", "this might work:")

HEDGED_TALK = {
    "casual": (", I guess", ", I think", ", kind of", ", or so it seems", ", more or less"),
    "neutral": (", I think", ", or so it seems to me", ", I suppose", ", at least I think so", ", perhaps"),
    "formal": (", it would seem", ", I believe", ", if I may say so", ", as far as I can tell"),
}

HEDGED_GREETING: Styles = {
    "casual": (", maybe we can chat a bit", ", and maybe I can help you"),
    "neutral": (", perhaps we can talk a little", ", and perhaps I can be of help"),
    "formal": (", perhaps we may talk a little", ", and perhaps I may be of help"),
}

HEDGED_CARE: Styles = {
    "casual": (", and maybe it helps to talk", ", though maybe I lack the right words"),
    "neutral": (", and perhaps it helps to talk", ", though perhaps I lack the right words"),
    "formal": (", and perhaps it may help to talk", ", though perhaps I lack the right words"),
}

HEDGED_SORRY: Styles = {
    "casual": (", though maybe I'll slip again", ", though I think I may slip again"),
    "neutral": (", though perhaps I will slip again", ", though I think I may err again"),
    "formal": (", though perhaps I shall err again", ", though I believe I may err again"),
}

HEDGED_UNSURE = {
    "casual": (", I guess", ", I'm afraid", ", not yet at least", ", as far as I can tell"),
    "neutral": (", I am afraid", ", I think", ", or so it seems", ", at least not yet", ", as far as I can tell"),
    "formal": (", I fear", ", it would seem", ", I am afraid", ", as far as I can tell"),
}
