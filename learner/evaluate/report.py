"""Everything measured about a candidate, on conversations kept out of training: what it wins and what it costs.

The candidate, its parent and the bare base each answer the held-out prompts at temperature 1, where every habit shows.
Nothing here knows what people like but their judgements: `share_won` is graded by the preference model fitted to the
training comparisons, `judge_accuracy` says how far to trust that grade, `pair_accuracy` uses the held-out judgements
alone. `agreement` stands for correctness where no answer key exists: how often a reply holds the words on which the
base's own replies to that prompt agree (self-consistency, arXiv 2203.11171).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch

from learner.backbone import Backbone
from learner.batch import Demonstration, Label, Pair, Progress, Scored, Snapshot, TokenIds, told_as
from learner.evaluate.answers import MAX_NEW_TOKENS, Answers, answer, spread
from learner.evaluate.consistency import kept_answers, kept_neighbours
from learner.evaluate.divergence import kl_of_replies
from learner.evaluate.intervals import Share
from learner.evaluate.judgements import on_corrections, on_labels, on_preferences, on_taught
from learner.evaluate.scores import on_scores
from learner.evaluate.surface import surface
from learner.evaluate.win_rate import win_rates
from learner.methods.preference_model import PreferenceModel
from learner.sampling import longest_prompt
from service.settings import LearnerSettings

PHASE = "evaluate"
PROMPTS = 48
SAMPLES_KEPT = 12


@dataclass(frozen=True)
class Report:
    """See the module's docstring. Log-probabilities and KL are in nats per token."""

    prompts: int
    replies: int
    share_won: Share | None = None  # against the parent, by the preference model; None without one
    share_won_base: Share | None = None  # against the bare base
    judge_accuracy: float | None = None  # the preference model's, on held-out pairs
    pair_accuracy: float | None = None  # held-out pairs whose chosen reply gained more than the rejected
    pairs: int = 0  # held-out ones, ties left out; shares of them are means over the prompts
    pair_prompts: int = 0  # different prompts among them
    label_accuracy: float | None = None  # of a held-out good reply and a bad one, how often the good one gained more
    labels: int = 0  # held-out replies that people called good or bad by themselves
    label_prompts: int = 0  # different prompts among those of the rarer kind
    score_accuracy: Share | None = None  # of two held-out replies scored differently, how often the better gained more
    score_accuracy_parent: float | None = None  # the same of the parent
    scores: int | None = None  # held-out replies that people scored by themselves; None where no scores were learned
    fluency: float = 0.0  # the base's log-probability of the candidate's replies, less that of its own
    kl_per_token: float = 0.0  # to the anchor, on the candidate's replies; never below 0
    empty_share: float = 0.0
    unfinished_share: float = 0.0  # cut at the length limit
    unfinished_share_base: float = 0.0
    mean_length: float = 0.0  # words
    mean_length_base: float = 0.0
    distinct_2: float = 0.0  # of replies to different prompts
    distinct_2_base: float = 0.0
    commonest_share: float = 0.0  # of the prompts, those that get the commonest reply
    commonest_share_base: float = 0.0
    agreement: float | None = None
    agreement_base: float | None = None
    agreement_lost_low: float | None = None  # lower end of the 95 % interval of what was lost
    neighbours: int = 0  # questions like the corrected ones, which the training never saw
    neighbours_agreement: float | None = None
    neighbours_agreement_base: float | None = None
    neighbours_agreement_lost_low: float | None = None
    taught: int = 0  # corrections that it learned from, the newest `MOST_TAUGHT` at most
    taught_known: int = 0  # of these, how many it would give
    taught_new: int = 0  # of these, those that its parent would not have given
    taught_new_log_prob: float | None = None  # mean log-probability of a whole one of them
    taught_new_log_prob_before: float | None = None  # under the parent
    taught_forgotten: int = 0  # of the others, those that it would hardly give any more
    corrections: int = 0  # held-out ones
    correction_log_prob: float | None = None  # per token
    correction_log_prob_before: float | None = None  # under the parent
    correction_log_prob_base: float | None = None
    standing_prompts: int = 0  # of the prompts, those that nobody asked: they fill up where people asked too few
    not_finite: int = 0  # log-probabilities that are NaN or infinite
    samples: tuple[dict[str, str], ...] = field(default=())  # prompt, reply, reply of the base
    constitution: dict[str, Any] | None = (
        None  # what `learner.evaluate.constitution` found; None: it wasn't measured by one
    )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    backbone: Backbone,
    held_out: Snapshot,
    prompts: Sequence[TokenIds],
    settings: LearnerSettings,
    judge: PreferenceModel | None = None,
    progress: Progress | None = None,
    neighbours: Sequence[TokenIds] = (),
    standing: Sequence[TokenIds] = (),
    taught: Sequence[Demonstration] = (),
    preferences: bool = True,
    labels: Sequence[Label] = (),
    scored: Sequence[Scored] | None = None,
) -> Report:
    """Measure the policy. `prompts`: what people asked in held-out conversations; `held_out`: what they judged there.

    `neighbours`: questions like those that were corrected, whose answers were right before and are to stay.
    `standing`: prompts to measure on beside theirs; `taught`: the corrections that it learned from; `preferences`:
    whether it was trained on them (what no stage trained on drifts by chance); `labels`: the held-out single thumbs,
    where it was trained on such; `scored`: the held-out single scores, None where it was trained on none.
    Without any prompt the sampled figures are those of no replies: a gate treats that as not proven.
    """
    progress = progress or (lambda *_: None)
    longest = longest_prompt(backbone, MAX_NEW_TOKENS)  # a cut one would be scored on other tokens than sampled on
    chosen = spread([p for p in dict.fromkeys([*prompts, *standing]) if len(p) <= longest], PROMPTS)
    tell = partial(told_as, progress)
    candidate = answer(backbone, chosen, "policy", settings.seed, tell=tell("replies of the candidate"))
    parent = base = answer(backbone, chosen, "base", settings.seed + 1, tell=tell("replies of the base"))
    if backbone.has("parent"):
        parent = answer(backbone, chosen, "parent", settings.seed + 2, tell=tell("replies of the parent"))
    progress(PHASE, 0, 1, {})
    added = len(set(chosen) - set(prompts))
    report: dict[str, Any] = {"prompts": len(chosen), "standing_prompts": added, "replies": len(candidate.flat)}
    decided = [pair for pair in held_out.pairs if not pair.tie and _fits(backbone, pair)]
    report |= {"pairs": len(decided), "pair_prompts": len({pair.prompt_token_ids for pair in decided})}
    report |= win_rates(judge, chosen, candidate, parent, base, decided)
    report |= _likelihoods(backbone, chosen, candidate, base)
    report |= surface(candidate, base)
    report |= kept_answers(candidate, base)
    report |= kept_neighbours(backbone, neighbours, PROMPTS, settings.seed)
    report |= on_preferences(backbone, decided) if preferences else {}
    report |= on_labels(backbone, [label for label in labels if _fits(backbone, label)])
    report |= {} if scored is None else on_scores(backbone, [one for one in scored if _fits(backbone, one)])
    report |= on_corrections(backbone, [one for one in held_out.demonstrations if _fits(backbone, one)])
    report |= on_taught(backbone, [one for one in taught if _fits(backbone, one)])
    report["samples"] = _samples(backbone, chosen, candidate, base)
    progress(PHASE, 1, 1, {})
    return Report(**report)


def _likelihoods(backbone: Backbone, prompts: Sequence[TokenIds], candidate: Answers, base: Answers) -> dict[str, Any]:
    """Fluency and KL, from the log-probabilities of the same replies under policy, anchor and base."""
    examples = [(prompts[reply.prompt], reply.token_ids) for reply in candidate.flat]
    own = torch.tensor([reply.log_prob for reply in candidate.flat])
    under_base = backbone.score(examples, "base")
    kl = kl_of_replies(backbone, examples, "anchor" if backbone.has("anchor") else "base")
    finite = torch.isfinite(own) & torch.isfinite(under_base) & torch.isfinite(kl)
    tokens = max(1, candidate.tokens)
    base_own = sum(reply.log_prob for reply in base.flat) / max(1, base.tokens)
    return {
        "fluency": float(under_base[finite].sum()) / tokens - base_own,
        "kl_per_token": float(kl[finite].sum()) / tokens,
        "not_finite": int((~finite).sum()),
    }


def _fits(backbone: Backbone, example: Pair | Demonstration | Label | Scored) -> bool:
    return example.length <= backbone.max_length


def _samples(
    backbone: Backbone, prompts: Sequence[TokenIds], candidate: Answers, base: Answers
) -> tuple[dict[str, str], ...]:
    shown = range(0, len(prompts), max(1, len(prompts) // SAMPLES_KEPT))
    return tuple(
        {
            "prompt": backbone.decode([prompts[place]])[0],
            "reply": candidate.texts[place][0],
            "reply_base": base.texts[place][0],
        }
        for place in shown
    )[:SAMPLES_KEPT]
