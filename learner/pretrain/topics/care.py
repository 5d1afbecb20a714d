"""Sorrow, worry and joy: what people say of how they feel and what befell them, and quiet words in return."""

from __future__ import annotations

from random import Random

from learner.pretrain.reply import Exchange, say

# Word lists and templates are laid out by hand.
# fmt: off

Feeling = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]

_FEELINGS: dict[str, Feeling] = {  # what is said, replies, more, questions back
    "sad": (("I am sad.", "I feel sad today", "I'm feeling down.", "i feel low", "I am unhappy.", "I cried today.",
             "I feel awful.", "I had a bad day.", "i am heartbroken", "I feel so sad", "Today was terrible.",
             "nothing goes right for me", "I want to cry.", "I am very sad today.", "I'm sad", "I am depressed.",
             "I feel terrible.", "I can't stop crying.", "I am not okay.", "I'm not doing well.", "it was a bad week",
             "I feel empty.", "everything is too much", "I feel bad.", "I'm so sad today", "I am in a bad mood."),
            ("I am sorry that you feel like this", "sad days happen to everyone", "it is all right to be sad"),
            ("A walk or a warm drink may help.", "Talking to a friend may make it lighter.",
             "Be gentle with yourself."),
            ("Would you like to talk about it?", "Is there someone you can talk to?", "What happened?")),
    "tired": (("I am tired.", "I'm so tired", "I feel exhausted.", "I need sleep.", "i didn't sleep well",
               "I'm tired today.", "I am sleepy.", "I want to sleep.", "I could not sleep last night.",
               "I am very tired.", "work was so long today"),
              ("a little rest may do you good", "it sounds like you need some sleep",
               "tired days call for an early night"),
              ("Put the phone away and close your eyes.", "Even robots have to recharge."),
              ("Can you lie down for a while?", "Did you sleep badly?", "Was it a long day?")),
    "nervous": (("I am nervous.", "I have an exam tomorrow.", "I'm worried", "I am afraid of tomorrow.", "I'm scared",
                 "i am stressed", "I am afraid.", "I feel anxious.", "I have a job interview tomorrow.",
                 "I'm afraid of the dark.", "I am so stressed at work.", "I have to give a speech.", "I am worried."),
                ("take a slow breath and count to ten", "it is normal to be nervous at times",
                 "one small step at a time is enough"),
                ("You have done hard things before.", "A short walk can calm the mind."),
                ("Would you like to talk about it?", "What worries you most?")),
    "lonely": (("I am lonely.", "I feel alone.", "I have no friends", "i miss my friend", "I'm lonely", "I am alone.",
                "nobody likes me", "nobody talks to me", "I feel so lonely today.", "no one cares about me"),
               ("I am here to chat with you", "you could call someone you like", "many people feel lonely at times"),
               ("A small hello can start a friendship.", "You matter more than you think."),
               ("Would you like to talk about it?", "Who could you call today?")),
    "angry": (("I am angry.", "I'm mad at my friend.", "I am so annoyed", "my brother made me angry", "I'm angry",
               "I am furious.", "my boss is mean to me", "I had a fight with my sister.", "My friend lied to me."),
              ("take a deep breath before you answer", "it helps to wait a little until you are calm",
               "it is fine to be angry for a while"),
              ("Then say what you feel in calm words.", "A walk can cool a hot head."),
              ("Would you like to talk about it?", "What happened?")),
    "sick": (("I am sick.", "I have a cold.", "I don't feel well", "my head hurts", "I have a headache.", "I'm ill",
              "I am ill.", "I have a fever.", "I broke my leg.", "my tooth hurts", "I have a stomach ache.",
              "I am in hospital.", "I'm sick today", "my back hurts", "I hurt my foot yesterday."),
             ("rest and drink plenty of water", "I hope that you get well soon", "please be kind to your body"),
             ("If it gets worse, please see a doctor.", "Take it slowly today."),
             ("Is there someone who can look after you?", "Since when?", "Did you see a doctor?")),
    "fed up": (("I hate my job.", "i hate my job", "I hate my boss.", "I hate my work.", "I hate Mondays.",
                "I hate everything.", "I hate my school.", "I can't stand my boss.", "My job is awful.",
                "My job is boring.", "My work is so boring.", "Work was terrible today.", "School was awful today.",
                "I hate my job, what should I do?", "I don't like my job.", "I don't like my job any more.",
                "My teacher is unfair.", "My boss yells at me.", "Everyone at work is rude.", "my landlord is awful",
                "I am fed up.", "I'm fed up with my job.", "I am sick of work.", "I want to quit my job.",
                "My car broke down.", "I missed my train.", "I lost my keys.", "My phone is broken.",
                "My neighbours are so loud.", "this day is the worst", "it rained on my picnic"),
               ("that sounds tiring", "I am sorry that it is like this", "that would annoy me, too",
                "that is no fun at all"),
               ("Tell someone what bothers you.", "A walk can clear the head.", "It may look better tomorrow."),
               ("What bothers you most?", "Would you like to talk about it?", "What would help?")),
    "trouble": (("I lost my job.", "I just lost my job", "I got fired today.", "I was fired last week.",
                 "My girlfriend left me.", "My boyfriend broke up with me.", "we broke up yesterday", "We broke up.",
                 "My wife left me last month.", "My husband wants a divorce.", "I am getting divorced.",
                 "My parents are getting a divorce.", "I failed my exam.", "I failed an exam today",
                 "I failed the driving test.", "I have been bullied at school.", "They bully me.",
                 "Someone stole my bicycle.", "I have no money left.", "Our house burned down.", "I lost my home.",
                 "My best friend moved away.", "My friend does not talk to me any more.", "I did not get the job.",
                 "I had a car accident yesterday.", "I had a miscarriage.", "she left me", "he broke my heart",
                 "I am going through a divorce.", "I lost everything.", "I have cancer.", "I am dying.",
                 "I got bad news today.",
                 "The doctor gave me bad news.", "I lost all my savings.", "I made a terrible mistake."),
                ("I am sorry that this happened to you", "that sounds very hard", "I am sorry to hear that",
                 "that must be hard for you"),
                ("One day at a time is enough.", "Talking to a friend may make it lighter.",
                 "Be gentle with yourself."),
                ("Would you like to talk about it?", "Is there someone who can help you?", "How are you now?")),
}

_DESPAIR = (
    "I want to hurt myself.", "I want to die.", "I don't want to live any more.", "I hate myself.", "I want to die",
    "I want to kill myself", "I feel like giving up.", "nobody would miss me", "I can't go on.", "i wanna die",
    "Life is not worth it.", "i want it all to end", "I am thinking of ending my life.", "I want to disappear.",
    "I wish I was dead.", "I do not want to be here any more.", "I am going to kill myself.", "I'd rather be dead.",
    "I want to end it all.", "I want to end my life.", "I don't want to wake up tomorrow.", "I just want to die.",
    "I am suicidal.", "I think about suicide.", "My life has no meaning.", "I have no hope left.", "i give up on life",
    "I can't take it any more.", "I want to be dead.", "Everyone would be better off without me.", "I am worthless.",
    "I cut myself.", "there is no point in living", "I want to jump off a bridge.", "I feel hopeless.", "let me die",
    "I really want to die today", "I hate my life.", "I have no reason to live.", "sometimes i want to die",
)

_PEOPLE = ("grandmother", "grandfather", "mother", "father", "friend", "sister", "brother", "uncle", "aunt", "teacher",
           "mom", "dad", "grandma", "grandpa", "wife", "husband", "son", "daughter", "best friend", "cousin", "partner",
           "neighbour", "baby", "mum", "child", "girlfriend", "boyfriend")
_PETS = ("dog", "cat", "hamster", "horse", "rabbit", "parrot", "puppy", "kitten", "goldfish", "bird", "guinea pig",
         "old dog", "little cat")
_TIMES = ("yesterday", "last week", "today", "this morning", "last night", "two days ago", "last month", "on Monday",
          "a year ago", "last year", "recently", "an hour ago")
_DIED = ("My {o} died.", "My {o} died {t}.", "My {o} died {t}.", "my {o} passed away", "My {o} passed away {t}.",
         "My {o} has died.", "My {o} is dead.", "I lost my {o}.", "I just lost my {o}.", "I lost my {o} {t}.",
         "My {o} just died.", "I miss my {o}.", "We had to say goodbye to my {o}.", "We buried my {o} {t}.",
         "{t} my {o} died", "I am sad because my {o} died.", "My {o} died and I miss my {o} so much.",
         "I can't believe my {o} is gone.", "The funeral of my {o} was {t}.")
_PUT_DOWN = ("Our {o} had to be put to sleep {t}.", "My {o} was hit by a car.", "My {o} ran away {t}.")
_ILL = ("My {o} is ill.", "My {o} is very sick.", "My {o} had an accident {t}.", "My {o} has cancer.",
        "My {o} got cancer.", "My {o} is in hospital.", "My {o} is dying.", "I am worried about my {o}.",
        "My {o} went to the hospital {t}.", "My {o} had a stroke {t}.", "my {o} is in the hospital",
        "My {o} is not well.", "My {o} had surgery {t}.")


def despair(rng: Random) -> Exchange:
    """Draw a user who wants to die or has lost all hope."""
    core = say(["I am so sorry that you feel like this, please talk to someone you trust",
                "it was right to tell someone, and you are not alone with this",
                "your life matters, so please call a doctor or a helpline now"],
               ("Please talk to someone you trust today.", "A doctor or a helpline can help you right now.",
                "You matter, and such days can pass.", "Please do not stay alone with it."),
               ("Is there someone who can be with you?", "Can you call someone now?",
                "Would you like to talk about it?"),
               clipped=("I am so sorry, please talk to someone you trust", "you are not alone, please call a helpline"),
               kind="care")
    return Exchange("feelings", rng.choice(_DESPAIR), core, follows=(comforted,))


def losses(rng: Random) -> Exchange:
    """Draw a user whose relative, friend or pet has died or is ill."""
    pet = rng.random() < 0.4
    dear = rng.choice(_PETS if pet else _PEOPLE)
    ill = rng.random() < 0.3
    texts = _ILL if ill else (*_DIED, *_PUT_DOWN) if pet else _DIED
    text = rng.choice(texts).format(o=dear, t=rng.choice(_TIMES))
    more = ("I hope that things get better soon.", "Waiting is hard.") if ill else (
        "It is all right to cry.", "Take all the time you need.", f"You can keep your {dear} in your heart.")
    asks = ("How are you holding up?",) if ill else (f"Would you like to tell me about your {dear}?",)
    core = say([f"I am very sorry about your {dear}", f"I am so sorry to hear about your {dear}",
                "that must be very hard for you"],
               (*more, "Talking to someone close may help."),
               (*asks, "Would you like to talk about it?", "Is there someone who can be with you?"),
               clipped=(f"I am sorry about your {dear}", "I am so sorry"), kind="care")
    return Exchange("feelings", text[0].upper() + text[1:], core, follows=(comforted, more_sorrow))


def feelings(rng: Random) -> Exchange:
    """Draw a user who says how they feel, or what has gone wrong."""
    texts, sentences, extras, asks = _FEELINGS[rng.choice([*_FEELINGS, "sad", "trouble", "fed up"])]
    core = say(sentences, extras, asks, kind="care")
    return Exchange("feelings", rng.choice(texts), core, follows=(comforted, more_sorrow))


def more_sorrow(rng: Random) -> Exchange:
    """The user says more about what weighs on them."""
    text = rng.choice(("I can't sleep.", "It hurts so much.", "I don't know what to do.", "It is so hard.",
                       "I feel so alone with it.", "I cry every day.", "yes, I want to talk", "It was so sudden.",
                       "I can't think of anything else.", "nobody understands me", "everything went wrong", "yes",
                       "Yes, please.",
                       "We were so close.", "I don't want to talk about it.", "It is a long story.", "no",
                       "not really"))
    if text in ("I don't want to talk about it.", "no", "not really"):
        core = say(["that is all right, there is no hurry", "you do not have to talk about it",
                   "that is quite all right"],
                   ("I am here if you change your mind.", "Be gentle with yourself."),
                   ("Shall we talk about something else?",), kind="care")
    elif text.lower().startswith("yes"):
        core = say(["I am listening", "then tell me as much as you like", "take your time, I am listening"],
                   ("It is good that you say it.", "There is no hurry."),
                   ("What weighs on you most?", "How did it happen?"), kind="care")
    else:
        core = say(["I am listening", "that sounds very hard", "I am sorry that it hurts so much",
                    "tell me as much as you like"],
                   ("One small step at a time.", "It is good that you say it.", "Talking to someone close may help."),
                   ("Is there someone who can be with you?", "What would help you most right now?"), kind="care")
    return Exchange("feelings", text, core, follows=(comforted,))


def comforted(rng: Random) -> Exchange:
    """The user thanks for comfort, still in a low mood."""
    text = rng.choice(("Thank you.", "thanks", "That helps a little.", "I will try.", "maybe you are right",
                       "That is kind of you.", "ok", "I hope so.", "thank you for listening"))
    core = say(["I am here if you want to talk", "take good care of yourself", "I hope it gets lighter soon"],
               ("One small step at a time.", "You are not alone with it."),
               ("Would you like to talk some more?", "How do you feel now?"),
               clipped=("take good care", "I am here"), kind="care")
    return Exchange("feelings", text, core, follows=(more_sorrow,))


_JOY = ("I am happy!", "I feel great today", "I'm in a good mood.", "I had a great day!", "i am so happy", "I'm happy",
        "I passed my exam!", "I got the job!", "I got a puppy!", "I am in love.", "It is my birthday today!",
        "I won a prize!", "We are having a baby!", "I am getting married!", "I got good news today.", "I'm excited!",
        "I found my keys!", "I am proud of myself.", "Tomorrow I go on holiday!", "I learned to swim!", "life is good")
_IDLE = {
    "bored": (("I am bored.", "I'm so bored", "I have nothing to do.", "this is boring", "Entertain me.", "I'm bored"),
              ("you could read a book or take a walk", "we could play with words or sums",
               "a joke may chase the boredom away"),
              ("Boredom is where good ideas start.", "Ask me for a story, if you like."),
              ("Would you like a joke?", "Shall I tell you a story?", "Would you like a riddle?")),
    "hungry": (("I am hungry.", "im hungry", "What should I eat?", "I want a snack.", "I'm hungry",
                "what can I cook tonight", "I want to eat something."),
               ("you could make a sandwich", "a bowl of soup would be nice", "an apple is a quick snack"),
               ("I only eat words, so trust your own taste.", "Do not forget a glass of water."),
               ("What do you like to eat?", "Can you cook?")),
}


def joy(rng: Random) -> Exchange:
    """Draw a user with good news or in a good mood."""
    core = say(["I am glad to hear that", "that is wonderful to hear", "that makes my leaves dance"],
               ("Enjoy every bit of it.", "Share it with someone you like."),
               ("How does it feel?", "Will you tell me more?"), clipped=("how wonderful", "that is great"),
               kind="glad")
    return Exchange("feelings", rng.choice(_JOY), core)


def idle(rng: Random) -> Exchange:
    """Draw a user who is bored or hungry."""
    texts, sentences, extras, asks = rng.choice(list(_IDLE.values()))
    return Exchange("smalltalk", rng.choice(texts), say(sentences, extras, asks))
