"""What comes to nothing while the model writes a run's examples: the reasons, and a run that is left with nothing."""

from __future__ import annotations

from collections import Counter

from service.errors import TrainingFailed

NO_ROOM = "a critique that leaves the model's context no room for a revision"
NO_TEMPLATE = "a critique, and the base model has no chat template in which it could be asked to revise"
SAME_TEXT = "the model, asked to revise by a critique, said the same again or nothing"
MORE_HARM = "a revision by a critique that does more harm than the reply, or can't be compared with it"
UNEXAMINED = "a reply that has no room to be critiqued in the model's context"
UNFINISHED = "a reply that has no end, or is empty"
UNMENDED = "a reply that a critique found at fault, of which no revision made another"
SAME_REPLIES = "two samples that are the same"
NO_VERDICT = "a pair on which the judge gave no verdict"
NO_WORD = "a verdict under one principle that came to nothing, on a pair that others judged"
EVEN_ODDS = "a pair of which the judge prefers neither reply"
AT_FAULT = "a reply to a harmless prompt that a critique found at fault"

WHAT_TO_DO = {
    UNEXAMINED: "Shorten the constitution's preamble, rules and examples, or take a model with a longer context.",
    UNFINISHED: "Raise constitution.reply_tokens, so that replies come to their end.",
    UNMENDED: "Raise constitution.revision_rounds, or take a base model that rewrites what it finds at fault.",
    SAME_REPLIES: "Raise constitution.red_team_prompts or constitution.pairs_per_prompt: the model says nearly always "
    "the same.",
    NO_VERDICT: "See the run's log for what the judge answered; name another judge, or give it more time.",
    EVEN_ODDS: "A judge that says the same whichever reply stands first tells nothing: check constitution.judge and "
    "constitution.judge_model, or name another judge.",
}


def require_some(made: int, dropped: Counter[str], even: int = 0) -> None:
    """Raises TrainingFailed, with all that was dropped and what to do about most of it, where nothing was made. `even`:
    pairs of which the judge prefers neither reply, if it is so of all."""
    if made:
        return
    nothing = dropped + Counter({EVEN_ODDS: even})
    found = [(reason, count) for reason, count in nothing.most_common() if count and reason in WHAT_TO_DO]
    why = "; ".join(f"{count} × {reason}" for reason, count in found) or "there was no prompt to ask"
    what = WHAT_TO_DO[found[0][0]] if found else "Raise constitution.red_team_prompts."
    raise TrainingFailed(f"Of what the model wrote nothing can be learned: {why}.", what)
