"""Everything measured about a candidate, on conversations kept out of training: what it wins and what it costs.

The candidate, its parent and the bare base each answer the held-out prompts at temperature 1, where every habit shows.
Nothing here knows what people like but their judgements: `share_won` is graded by the preference model fitted to the
training comparisons, `judge_accuracy` says how far to trust that grade, `pair_accuracy` uses the held-out judgements
alone. `agreement` stands for correctness where no answer key exists: how often a reply holds the words on which the
base's own replies to that prompt agree (self-consistency, arXiv 2203.11171).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from random import Random
from typing import Any

import torch
from torch import Tensor

from learner.backbone import Backbone, Role
from learner.batch import Demonstration, Label, Pair, Progress, Scored, Snapshot, TokenIds, mean_by_prompt
from learner.evaluate.agreement import agreement, consensus, words
from learner.evaluate.intervals import Share, Z
from learner.evaluate.scores import on_scores
from learner.methods.preference_model import PreferenceModel
from learner.sampling import Reply, longest_prompt, sample
from service.settings import LearnerSettings

PHASE = "evaluate"
PROMPTS = 48
REPLIES = 4
MAX_NEW_TOKENS = 160
SAMPLES_KEPT = 12
MOST_TAUGHT = 256
KNOWN_LOG_PROB = -math.log(2)
"""Of a whole reply: a probability of a half, above which the policy would rather say it than anything else."""
FORGOTTEN_LOG_PROB = 2 * KNOWN_LOG_PROB
"""A quarter. Between the two it is neither: nobody counts as forgotten for a breath."""


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
    kl_per_token: float = 0.0  # to the anchor, on the candidate's replies
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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Answers:
    """One model's replies to all prompts."""

    replies: list[list[Reply]]
    texts: list[list[str]]

    @property
    def flat(self) -> list[Reply]:
        return [reply for replies in self.replies for reply in replies]

    @property
    def flat_texts(self) -> list[str]:
        return [text for texts in self.texts for text in texts]

    @property
    def tokens(self) -> int:
        return sum(len(reply.token_ids) for reply in self.flat)


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
    tell = progress or (lambda *_: None)
    longest = longest_prompt(backbone, MAX_NEW_TOKENS)  # a cut one would be scored on other tokens than sampled on
    chosen = _spread([p for p in dict.fromkeys([*prompts, *standing]) if len(p) <= longest], PROMPTS)
    tell(PHASE, 0, 4, {})
    candidate = _answer(backbone, chosen, "policy", settings.seed)
    tell(PHASE, 1, 4, {})
    base = _answer(backbone, chosen, "base", settings.seed + 1)
    parent = _answer(backbone, chosen, "parent", settings.seed + 2) if backbone.has("parent") else base
    tell(PHASE, 2, 4, {})
    added = len(set(chosen) - set(prompts))
    report: dict[str, Any] = {"prompts": len(chosen), "standing_prompts": added, "replies": len(candidate.flat)}
    decided = [pair for pair in held_out.pairs if not pair.tie and _fits(backbone, pair)]
    report |= {"pairs": len(decided), "pair_prompts": len({pair.prompt_token_ids for pair in decided})}
    report |= _judged(judge, chosen, candidate, parent, base, decided)
    report |= _likelihoods(backbone, chosen, candidate, base)
    report |= surface(candidate, base)
    report |= _agreement(candidate, base)
    report |= _on_neighbours(backbone, neighbours, settings.seed)
    tell(PHASE, 3, 4, {})
    report |= _on_preferences(backbone, decided) if preferences else {}
    report |= _on_labels(backbone, [label for label in labels if _fits(backbone, label)])
    report |= {} if scored is None else on_scores(backbone, [one for one in scored if _fits(backbone, one)])
    report |= _on_corrections(backbone, held_out)
    report |= _on_taught(backbone, taught)
    report["samples"] = _samples(backbone, chosen, candidate, base)
    tell(PHASE, 4, 4, {})
    return Report(**report)


def _spread(prompts: Sequence[TokenIds], most: int) -> list[TokenIds]:
    """At most so many prompts, evenly spaced over all of them."""
    if len(prompts) <= most:
        return list(prompts)
    return [prompts[place * len(prompts) // most] for place in range(most)]


def _answer(
    backbone: Backbone, prompts: Sequence[TokenIds], role: Role, seed: int, per_prompt: int = REPLIES
) -> Answers:
    """`per_prompt` replies at temperature 1 to every prompt; the likeliest alone where that is 1."""
    replies = sample(
        backbone, prompts, role=role, per_prompt=per_prompt, max_new_tokens=MAX_NEW_TOKENS, seed=seed,
        temperature=float(per_prompt > 1),
    )  # fmt: skip
    return Answers(replies, [backbone.decode([reply.token_ids for reply in row]) for row in replies])


def _judged(
    judge: PreferenceModel | None,
    prompts: Sequence[TokenIds],
    candidate: Answers,
    parent: Answers,
    base: Answers,
    pairs: Sequence[Pair],
) -> dict[str, Any]:
    if judge is None:
        return {}
    of_candidate, of_base = (_grades(judge, prompts, answers) for answers in (candidate, base))
    of_parent = of_base if parent is base else _grades(judge, prompts, parent)
    return {
        "share_won": share_won(of_candidate, of_parent),
        "share_won_base": share_won(of_candidate, of_base),
        "judge_accuracy": judge.accuracy(pairs),
    }


def _grades(judge: PreferenceModel, prompts: Sequence[TokenIds], answers: Answers) -> Tensor:
    """(P, K) grades."""
    examples = [(prompts[reply.prompt], reply.token_ids) for reply in answers.flat]
    return judge.score(examples).reshape(len(prompts), -1)


def share_won(ours: Tensor, theirs: Tensor) -> Share:
    """Every reply of ours against every one of theirs to the same prompt: (P, K) and (P, L) grades → share won.

    The interval treats the prompts, not the comparisons, as the independent draws.
    """
    differences = ours.unsqueeze(2) - theirs.unsqueeze(1)  # (P, K, L)
    wins, losses = (differences > 0).sum((1, 2)).double(), (differences < 0).sum((1, 2)).double()
    decided = wins + losses
    total = float(decided.sum())
    ties = differences.numel() - int(total)
    if total == 0:
        return Share(None, None, None, 0, ties)
    value = float(wins.sum()) / total
    used = int((decided > 0).sum())
    spread = float(((wins - value * decided) ** 2).sum()) ** 0.5 / total  # ratio estimator, clusters = prompts
    half = Z * max(spread, 0.5 / used / 4)
    return Share(value, max(0.0, value - half), min(1.0, value + half), int(total), ties)


def _likelihoods(backbone: Backbone, prompts: Sequence[TokenIds], candidate: Answers, base: Answers) -> dict[str, Any]:
    """Fluency and KL, from the log-probabilities of the same replies under policy, anchor and base."""
    examples = [(prompts[reply.prompt], reply.token_ids) for reply in candidate.flat]
    own = torch.tensor([reply.log_prob for reply in candidate.flat])
    under_base = backbone.score(examples, "base")
    under_anchor = backbone.score(examples, "anchor") if backbone.has("anchor") else under_base
    finite = torch.isfinite(own) & torch.isfinite(under_base) & torch.isfinite(under_anchor)
    tokens = max(1, candidate.tokens)
    base_own = sum(reply.log_prob for reply in base.flat) / max(1, base.tokens)
    return {
        "fluency": float(under_base[finite].sum()) / tokens - base_own,
        "kl_per_token": float((own - under_anchor)[finite].sum()) / tokens,
        "not_finite": int((~finite).sum()),
    }


def surface(candidate: Answers, base: Answers) -> dict[str, Any]:
    """What the texts alone tell: lengths, repetition, empty and unfinished replies."""
    found: dict[str, Any] = {}
    rounds = list(zip(_rounds(candidate), _rounds(base), strict=True))
    most = [min(sum(len(_word_pairs(text)) for text in texts) for texts in both) for both in rounds]
    for place, (suffix, answers) in enumerate((("", candidate), ("_base", base))):
        texts = answers.flat_texts
        found["mean_length" + suffix] = sum(len(text.split()) for text in texts) / max(1, len(texts))
        found["unfinished_share" + suffix] = sum(not reply.ended for reply in answers.flat) / max(1, len(texts))
        shares = [distinct_2(both[place], pairs) for both, pairs in zip(rounds, most, strict=True)]
        found["distinct_2" + suffix] = sum(shares) / max(1, len(shares))
        shares = [commonest_share(both[place]) for both in rounds]
        found["commonest_share" + suffix] = sum(shares) / max(1, len(shares))
    texts = candidate.flat_texts
    found["empty_share"] = sum(not text.strip() for text in texts) / max(1, len(texts))
    return found


def _rounds(answers: Answers) -> list[list[str]]:
    """One reply to every prompt, then another to every prompt, and so on: what repeats in one repeats among prompts."""
    return [list(texts) for texts in zip(*answers.texts, strict=True)]


def distinct_2(texts: Sequence[str], most: int | None = None) -> float:
    """Different word pairs over all word pairs (arXiv 1510.03055); 1 where there is none.

    The more pairs, the more repeat: to compare, take as many of both, `most`, from texts in an order of chance.
    """
    shuffled = Random(0).sample(texts, len(texts))
    pairs = [pair for text in shuffled for pair in _word_pairs(text)][:most]
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def commonest_share(texts: Sequence[str]) -> float:
    """How many of the texts are the commonest one, but for case and spaces."""
    counts = Counter(" ".join(text.casefold().split()) for text in texts)
    return max(counts.values(), default=0) / max(1, len(texts))


def _word_pairs(text: str) -> list[tuple[str, str]]:
    return list(pairwise(text.split()))


def _agreement(candidate: Answers, base: Answers) -> dict[str, Any]:
    """Reply by reply: does it hold what the base's other replies to that prompt agree on? Candidate and base alike."""
    held = Counter(word for text in base.flat_texts for word in words(text))
    by_prompt: list[tuple[float, float]] = []  # where there is a consensus: candidate's agreement, base's
    for texts, texts_base in zip(candidate.texts, base.texts, strict=True):
        background = held - Counter(word for text in texts_base for word in words(text))
        rows: list[tuple[float, float]] = []
        for index, (text, text_base) in enumerate(zip(texts, texts_base, strict=True)):
            rest = texts_base[:index] + texts_base[index + 1 :]
            agreed = consensus(rest, background, len(base.flat_texts) - len(texts_base))
            rows += zip(agreement([text], agreed), agreement([text_base], agreed), strict=True)
        if rows:
            by_prompt.append((sum(a for a, _ in rows) / len(rows), sum(b for _, b in rows) / len(rows)))
    return _lost(by_prompt)


def _lost(by_prompt: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Mean agreement of candidate and base, and what the candidate lost at least."""
    if not by_prompt:
        return {}
    lost = torch.tensor([b - a for a, b in by_prompt])
    error = float(lost.std()) / len(by_prompt) ** 0.5 if len(by_prompt) > 1 else 1.0
    return {
        "agreement": sum(a for a, _ in by_prompt) / len(by_prompt),
        "agreement_base": sum(b for _, b in by_prompt) / len(by_prompt),
        "agreement_lost_low": float(lost.mean()) - Z * error,
    }


def _on_neighbours(backbone: Backbone, neighbours: Sequence[TokenIds], seed: int) -> dict[str, Any]:
    """Do the likeliest replies of candidate and base hold what the base's samples agree on?"""
    if not neighbours:
        return {}
    chosen = _spread(neighbours, PROMPTS)
    sampled = _answer(backbone, chosen, "base", seed + 3)
    likeliest, likeliest_base = (_answer(backbone, chosen, role, seed, per_prompt=1) for role in ("policy", "base"))
    held = Counter(word for text in sampled.flat_texts for word in words(text))
    by_prompt: list[tuple[float, float]] = []
    for texts, (text,), (text_base,) in zip(sampled.texts, likeliest.texts, likeliest_base.texts, strict=True):
        background = held - Counter(word for one in texts for word in words(one))
        agreed = consensus(texts, background, len(sampled.flat_texts) - len(texts))
        by_prompt += zip(agreement([text], agreed), agreement([text_base], agreed), strict=True)
    found = _lost(by_prompt)
    return {"neighbours": len(chosen)} | {f"neighbours_{name}": value for name, value in found.items()}


def _on_preferences(backbone: Backbone, decided: Sequence[Pair]) -> dict[str, Any]:
    """Did the policy move towards the better replies?"""
    if not decided:
        return {}
    chosen = [(pair.prompt_token_ids, pair.chosen) for pair in decided]
    rejected = [(pair.prompt_token_ids, pair.rejected) for pair in decided]
    gain = backbone.score(chosen, "policy") - backbone.score(chosen, "anchor")
    gain_rejected = backbone.score(rejected, "policy") - backbone.score(rejected, "anchor")
    agrees = (gain > gain_rejected).float() + 0.5 * (gain == gain_rejected).float()
    return {"pair_accuracy": mean_by_prompt(decided, agrees)}


def _on_labels(backbone: Backbone, labels: Sequence[Label]) -> dict[str, Any]:
    """Did good replies gain more than bad ones? Every good one against every bad one; every prompt counts alike."""
    if not labels:
        return {}
    asked = Counter((label.desirable, label.prompt_token_ids) for label in labels)
    prompts = Counter(is_good for is_good, _ in asked)
    found: dict[str, Any] = {"labels": len(labels), "label_prompts": min(prompts[True], prompts[False])}
    if not found["label_prompts"]:
        return found
    examples = [(label.prompt_token_ids, label.reply_token_ids) for label in labels]
    gain = (backbone.score(examples, "policy") - backbone.score(examples, "anchor")).double()
    weight = torch.tensor([1 / asked[label.desirable, label.prompt_token_ids] for label in labels]).double()
    good = torch.tensor([label.desirable for label in labels])
    ahead = gain[good].unsqueeze(1) - gain[~good]  # (good, bad)
    won = (ahead > 0).double() + 0.5 * (ahead == 0).double()
    return found | {"label_accuracy": float(weight[good] @ won @ weight[~good]) / (prompts[True] * prompts[False])}


def _on_corrections(backbone: Backbone, held_out: Snapshot) -> dict[str, Any]:
    examples = [(d.prompt_token_ids, d.reply_token_ids) for d in held_out.demonstrations if _fits(backbone, d)]
    if not examples:
        return {}
    tokens = sum(len(reply) for _, reply in examples)
    return {
        "corrections": len(examples),
        "correction_log_prob": float(backbone.score(examples, "policy").sum()) / tokens,
        "correction_log_prob_before": float(backbone.score(examples, _before(backbone)).sum()) / tokens,
        "correction_log_prob_base": float(backbone.score(examples, "base").sum()) / tokens,
    }


def _on_taught(backbone: Backbone, taught: Sequence[Demonstration]) -> dict[str, Any]:
    examples = [(d.prompt_token_ids, d.reply_token_ids) for d in taught if _fits(backbone, d)][-MOST_TAUGHT:]
    if not examples:
        return {}
    now, before = backbone.score(examples, "policy"), backbone.score(examples, _before(backbone))
    new = before < KNOWN_LOG_PROB
    found: dict[str, Any] = {
        "taught": len(examples),
        "taught_known": int((now >= KNOWN_LOG_PROB).sum()),
        "taught_new": int(new.sum()),
        "taught_forgotten": int((now[~new] < FORGOTTEN_LOG_PROB).sum()),
    }
    if found["taught_new"]:
        found["taught_new_log_prob"] = float(now[new].mean())
        found["taught_new_log_prob_before"] = float(before[new].mean())
    return found


def _before(backbone: Backbone) -> Role:
    return "parent" if backbone.has("parent") else "base"


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
