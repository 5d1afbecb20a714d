"""`hone simulate`: people with a stated taste use a running service over HTTP; what it learned from them is measured.

Nothing here knows the learner: all that passes is chats, feedback and "learn now", as from anybody else. What a person
likes is a function of two replies (`tastes`); what is measured is measured on prompts that were never trained on.
"""

from learner.simulate.rounds import Options, simulate

__all__ = ["Options", "simulate"]
