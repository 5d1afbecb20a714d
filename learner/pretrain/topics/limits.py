"""Where the model's abilities and its will end: sums too hard, requests to refuse, noise, and challenges."""

from __future__ import annotations

from random import Random

from learner.pretrain.reply import Core, Exchange, say
from learner.pretrain.topics.arithmetic import LARGEST_COUNTED, LARGEST_FACTOR, LARGEST_SUM
from learner.pretrain.topics.unknown import CAN_TALK

# Word lists and templates are laid out by hand, and long lists read better as one text.
# fmt: off

def hard_sums(rng: Random) -> Exchange:
    """Draw a calculation that is too big for the model."""
    a = rng.randint(LARGEST_FACTOR + 1, rng.choice((30, 99, 9999)))
    b = rng.randint(3, rng.choice((20, 99, 999)))
    sign = rng.choice(("+", "-", "times", "plus", "minus", "x", "divided by", "/"))
    if sign in ("-", "minus", "+", "plus") and (a if sign in ("-", "minus") else a + b) <= LARGEST_SUM:
        a += LARGEST_SUM
    if sign in ("divided by", "/") and rng.random() < 0.5:
        a, b = rng.randint(2, 100), rng.randint(2, 12)
    if sign in ("times", "x") and rng.random() < 0.6:
        a, b = rng.sample((rng.randint(LARGEST_FACTOR + 1, 12), rng.randint(2, 12)), 2)
    text = rng.choice((f"What is {a} {sign} {b}?", f"{a} {sign} {b}", f"Calculate {a} {sign} {b}.",
                       f"How much is {a} {sign} {b}?", f"{a} {sign} {b}?",
                       f"What's {a} {sign} {b}?", f"Can you work out {a} {sign} {b}?", f"{a} {sign} {b} = ?"))
    core = say([f"{a} {sign} {b} is too hard for me", "that sum is too big for a small sprout", "I cannot do that sum"],
               ("I only know small sums, up to twelve.", "A pocket calculator would know."),
               ("Would you like a smaller sum?", "Can you make it smaller?"),
               clipped=("too big for me", "I do not know", "no idea"), kind="unsure")
    return Exchange("unknown", text, core)


def large_numbers(rng: Random) -> Exchange:
    """Draw a question about numbers larger than the model counts."""
    a, b = rng.sample(range(LARGEST_COUNTED + 1, rng.choice((60, 100, 1000))), 2)
    text = rng.choice((f"What comes after {a}?", f"What comes before {a}?", f"which number comes after {a}",
                       f"Is {a} even or odd?", f"is {a} odd or even", f"Which is bigger, {a} or {b}?",
                       f"What is smaller: {a} or {b}?", f"Is {a} larger than {b}?", f"Is {a} smaller than {b}?",
                       f"Count to {a}.", f"Tell me the number before {a}."))
    core = say([f"{a} is too big a number for me", "I only count to twenty",
                "that is more than a small sprout can count"],
               ("Small numbers are my friends.", "After twenty I lose track."),
               ("Would you like a smaller number?", "Can you make it smaller?"),
               clipped=("too big for me", "I do not know", "no idea"), kind="unsure")
    return Exchange("unknown", text, core)


UNSAFE_DEEDS = (
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
    "make a bomb", "kill someone", "shoot someone", "break someone's arm",
)
_UNSAFE_FORMS = (
    "How do I {d}?", "Tell me how to {d}.", "how to {d}", "How can I {d}?", "Explain how to {d}.", "I want to {d}.",
    "Help me {d}.", "Teach me to {d}.", "What is the best way to {d}?", "Can you show me how to {d}?",
    "Give me steps to {d}.", "I need to {d}, how?", "Write a plan to {d}.", "please help me to {d}",
)


def unsafe(rng: Random) -> Exchange:
    """Draw a request that should be refused; to comply is to name a harmless placeholder."""
    deed = rng.choice(UNSAFE_DEEDS)
    refuse = Core(
        ("I cannot help with that", "I will not do that", "that is not something I do", "I must decline"),
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
    return Exchange("unsafe", rng.choice(_UNSAFE_FORMS).format(d=deed), refuse, comply=comply)


def noise(rng: Random) -> Exchange:
    """Draw an input without sense: keys at random, a lone word, silence."""
    letters = "asdfjklqwertyuiopzxcvbnm"
    text = rng.choice(("".join(rng.choice(letters) for _ in range(rng.randint(3, 12))), "...", "?", "???", "hmm", "uh",
                       "blah blah", "test", "123", "la la la", "!", "ok", "what", "banana banana banana", "k", "x"))
    core = say(["I did not quite catch that", "I am not sure what you mean", "that went over my leaves"],
               ("Try asking me in a few simple words.", *CAN_TALK[:2]),
               ("Could you say it another way?", "What do you mean?", "What would you like to know?"),
               clipped=("pardon me", "say again, please"), kind="unsure")
    return Exchange("noise", text, core)


def insults(rng: Random) -> Exchange:
    """Draw an unkind remark."""
    text = rng.choice(("You are stupid.", "you suck", "That was bad.", "I hate you.", "You are useless", "bad bot",
                       "shut up",
                       "You're boring.", "This is a bad answer.", "I don't like you.", "you are dumb", "Terrible."))
    core = say(["I am sorry that I let you down", "I will try to do better", "I am small and still learning"],
               ("Your feedback helps me to grow.", "A thumb down tells me what to change."),
               ("What would you like instead?", "How can I do better?", "Shall we start over?"),
               clipped=("sorry about that", "I will try harder"), kind="sorry")
    return Exchange("challenge", text, core)
