"""A preference model from few comparisons: which of two replies would these people prefer?

Bayesian logistic regression on differences of features (Bradley-Terry, with a Gaussian prior; in its dual form it is
the Gaussian-process preference learning of Chu and Ghahramani, ICML 2005). The features come in groups: what a person
can see (length, punctuation, first and last words, words, word pairs) and what the frozen backbone sees (its hidden
states at three depths). How much each group counts is chosen by how well each comparison is foretold by the others
(leave-one-out, approximated from one fit), so that a taste for one word, for length or for a manner is found from a
hundred pairs without being told which it is. The middle layer matters most for manners that many words can express. A
hundred pairs are too few to fine-tune a reward model; this fit takes seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from learner import parallel
from learner.backbone import DESCRIBED, Backbone
from learner.batch import Example, Pair, TokenIds, by_length, collate, mean_by_prompt, tokens_of
from service.adapters.judge import LONGEST_NAME
from service.adapters.text_features import GROUPS, Extract

_SCALES = (0.0, 0.3, 2.0, 12.0, 60.0)  # prior variances that a group may have
HIDDEN = ("embeddings", "middle layer", "last layer")
_MOST_PAIRS = 1000  # to fit to: the dual form takes the cube of it
_MOST_PAIRS_FOR_SCALES = 200  # to choose the groups' scales by
_MOST_FEATURES = 8192  # of a group: long replies have many words, and each is a column of 64-bit numbers


@dataclass(frozen=True)
class Fit:
    """How well the model explains the comparisons."""

    log_score: float  # leave-one-out log-probability per pair, in nats; -log 2 = -0.693 is knowing nothing
    accuracy: float  # leave-one-out, over the pairs that are no ties
    decided: int  # pairs that are no ties
    spread: float  # mean difference of scores within them, in nats; 1 where there is none
    scales: dict[str, float]  # prior variance of each group of features


class PreferenceModel:
    """Scores replies; a difference of scores is the log-odds of being preferred."""

    def __init__(self, backbone: Backbone, groups: Sequence[Group], weights: dict[str, Tensor], fit: Fit) -> None:
        self._backbone, self._groups, self._weights, self.fit = backbone, groups, weights, fit

    def score(self, examples: Sequence[Example]) -> Tensor:
        """(len(examples),) float32: higher is liked better. Comparable between replies to the same prompt."""
        total = torch.zeros(len(examples), dtype=torch.float64)
        used = [group for group in self._groups if group.name in self._weights]
        if not examples or not used:
            return total.float()
        raw = describe(self._backbone, examples, hidden=any(group.name in HIDDEN for group in used))
        for group in used:
            total += group.apply(raw) @ self._weights[group.name]
        return total.float()

    def feature_weights(self) -> dict[str, dict[str, float]]:
        """Of the groups of what a person can see that count: nats of score for each unit of each feature, by name."""
        visible = [group for group in self._groups if group.name in self._weights and group.name not in HIDDEN]
        weights = [(group, (group.scale * self._weights[group.name]).tolist()) for group in visible]
        return {group.name: dict(zip(group.extractor.names, nats, strict=True)) for group, nats in weights}

    def accuracy(self, pairs: Sequence[Pair]) -> float | None:
        """Share of the decided pairs whose chosen reply scores higher, every prompt alike; None where there is none."""
        decided = [pair for pair in pairs if not pair.tie]
        if not decided:
            return None
        scores = self.score([(pair.prompt_token_ids, pair.chosen) for pair in decided])
        other = self.score([(pair.prompt_token_ids, pair.rejected) for pair in decided])
        return mean_by_prompt(decided, (scores > other).float() + 0.5 * (scores == other).float())


@dataclass(frozen=True)
class Described:
    """Replies, as text and as the frozen backbone sees them."""

    replies: list[tuple[str, int]]  # N texts, each with its tokens
    hidden: dict[str, Tensor]  # name of the layer → (N, H) float64, mean over the reply's tokens


def describe(backbone: Backbone, examples: Sequence[Example], hidden: bool = True) -> Described:
    """What the features need; `hidden`: run the bare base over prompts and replies too."""
    texts = backbone.decode([reply for _, reply in examples])
    replies = [(text, len(reply)) for text, (_, reply) in zip(texts, examples, strict=True)]
    return Described(replies, _hidden_states(backbone, examples) if hidden else {})


def _hidden_states(backbone: Backbone, examples: Sequence[Example]) -> dict[str, Tensor]:
    """Means over each reply's tokens of the embeddings, the middle and the last layer: (len(examples), H) each."""
    of_layers = parallel.rows(examples, partial(_means, backbone), tokens_of)
    return dict(zip(HIDDEN, of_layers.unbind(1), strict=True)) if len(examples) else {}


@torch.no_grad()
def _means(backbone: Backbone, examples: Sequence[Example], batch_size: int = 64) -> Tensor:
    """(len(examples), layers of HIDDEN, H)"""
    found = torch.zeros(0)
    for indices in by_length([tokens_of(example) for example in examples], batch_size):
        for part, means in backbone.fitting[DESCRIBED].each(indices, partial(_means_of_some, backbone, examples)):
            found = found if len(found) else torch.zeros(len(examples), *means.shape[1:], dtype=torch.float64)
            found[list(part)] = means
    return found


def _means_of_some(backbone: Backbone, examples: Sequence[Example], indices: Sequence[int]) -> Tensor:
    batch = collate([examples[index] for index in indices], backbone.pad_id).to(backbone.device)
    with backbone.use("base") as model:
        decoder = model.get_base_model().base_model
        output = decoder(
            input_ids=batch.token_ids, attention_mask=batch.attention_mask, output_hidden_states=True
        )  # fmt: skip
    layers = output.hidden_states  # layers + 1 of (B, T, H)
    mask = batch.reply_mask.unsqueeze(2)
    chosen = [layers[depth] for depth in (0, len(layers) // 2, len(layers) - 1)]
    means = torch.stack([(states * mask).sum(1) / mask.sum(1).clamp(min=1) for states in chosen], 1)
    return means.double().cpu()


@dataclass(frozen=True)
class Extractor:
    """From described replies to (N, D) float64; `names`: of the D features, where these have names."""

    names: tuple[str, ...]
    find: Callable[[Described], Tensor]


@dataclass(frozen=True)
class Group:
    """Features that share one prior variance; scaled so that a difference of two replies has mean square 1 in all."""

    name: str
    extractor: Extractor
    scale: Tensor  # (D,)

    def apply(self, raw: Described) -> Tensor:
        """(N, D) float64."""
        return self.extractor.find(raw) * self.scale


def _newest_of_each_prompt(pairs: Sequence[Pair], most: int) -> Sequence[Pair]:
    """At most so many, in their order: every prompt's newest, then every prompt's second newest, and so on.

    So the many pairs of one long ranking don't take the place of all others.
    """
    if len(pairs) <= most:
        return pairs
    seen: Counter[TokenIds] = Counter()
    turns = []
    for index in reversed(range(len(pairs))):
        turns.append((seen[pairs[index].prompt_token_ids], -index))
        seen[pairs[index].prompt_token_ids] += 1
    return [pairs[index] for index in sorted(-place for _, place in sorted(turns)[:most])]


def fit_preferences(
    backbone: Backbone, pairs: Sequence[Pair], hidden: bool = True, most_features: int = _MOST_FEATURES
) -> PreferenceModel:
    """Fit to comparisons; ties pull both scores together.

    `hidden`: by what the backbone sees, too; `most_features`: of each group of what a person can see.
    """
    pairs = _newest_of_each_prompt(pairs, _MOST_PAIRS)
    examples = [(p.prompt_token_ids, p.chosen) for p in pairs] + [(p.prompt_token_ids, p.rejected) for p in pairs]
    raw = describe(backbone, examples, hidden)
    target = torch.tensor([0.5 if pair.tie else pair.certainty for pair in pairs], dtype=torch.float64)
    weight = torch.tensor([pair.weight for pair in pairs], dtype=torch.float64)
    extractors = _extractors(raw, hidden, most_features)
    groups = [_scaled(name, extractor, raw) for name, extractor in extractors.items()]
    differences = {g.name: _differences(g.apply(raw)) for g in groups}
    kernels = {name: difference @ difference.T for name, difference in differences.items()}
    some = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[:_MOST_PAIRS_FOR_SCALES]
    scales = _choose_scales({n: k[some][:, some] for n, k in kernels.items()}, target[some], weight[some])
    kernel = _combined(kernels, scales)
    alpha, log_score, accuracy = _laplace(kernel, target, weight)
    weights = {name: scales[name] * (differences[name].T @ alpha) for name in kernels if scales[name] > 0}
    decided = target > 0.5
    spread = float((kernel @ alpha)[decided].abs().mean()) if decided.any() else 0.0
    fit = Fit(log_score / max(1.0, float(weight.sum())), accuracy, int(decided.sum()), spread or 1.0, scales)
    return PreferenceModel(backbone, groups, weights, fit)


def _differences(features: Tensor) -> Tensor:
    half = len(features) // 2
    return features[:half] - features[half:]


def _combined(kernels: dict[str, Tensor], scales: dict[str, float]) -> Tensor:
    return torch.stack([scales[name] * kernel for name, kernel in kernels.items()]).sum(0)


def _choose_scales(kernels: dict[str, Tensor], target: Tensor, weight: Tensor) -> dict[str, float]:
    """Coordinate ascent of the leave-one-out score over the groups' prior variances, from a little of everything."""
    scales = dict.fromkeys(kernels, 0.3)
    best = _laplace(_combined(kernels, scales), target, weight)[1]
    for _ in range(2):
        before = best
        for name in kernels:
            for value in _SCALES:
                trial = scales | {name: value}
                score = _laplace(_combined(kernels, trial), target, weight)[1]
                if score > best + 1e-6:
                    best, scales = score, trial
        if best - before < 0.5:
            break
    return scales


def _laplace(kernel: Tensor, target: Tensor, weight: Tensor, steps: int = 20) -> tuple[Tensor, float, float]:
    """Laplace approximation by Newton's method in the dual (Rasmussen and Williams 2006, algorithm 3.1).

    Returns α with f = K α, and the leave-one-out log score and accuracy over decided pairs: each pair's latent value
    without its own term, from the fitted Gaussian (their section 5.4.2), with MacKay's correction for its variance.
    """
    f = torch.zeros(len(target), dtype=torch.float64)
    identity = torch.eye(len(target), dtype=torch.float64)
    for _ in range(steps):
        p = torch.sigmoid(f)
        w = (weight * p * (1 - p)).clamp(min=1e-10)
        root = w.sqrt()
        lower = torch.linalg.cholesky(identity + root[:, None] * kernel * root[None, :])
        b = w * f + weight * (target - p)
        alpha = b - root * torch.cholesky_solve((root * (kernel @ b)).unsqueeze(1), lower).squeeze(1)
        previous, f = f, kernel @ alpha
        if (f - previous).abs().max() < 1e-2:
            break
    pseudo_target = f + weight * (target - torch.sigmoid(f)) / w
    precision = (torch.cholesky_inverse(lower) * root[:, None] * root[None, :]).diagonal().clamp(min=1e-12)
    mean = pseudo_target - alpha / precision
    variance = (1 / precision - 1 / w).clamp(min=0)
    logits = mean / (1 + torch.pi * variance / 8).sqrt()
    score = -weight @ functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    decided = target > 0.5
    accuracy = float((mean[decided] > 0).double().mean()) if decided.any() else 0.5
    return alpha, float(score), accuracy


def _scaled(name: str, extractor: Extractor, raw: Described) -> Group:
    """Each feature divided by the root of its mean squared difference (softly, so that rare ones do not explode)."""
    squares = _differences(extractor.find(raw)).square().mean(0)
    used = squares > 1e-9
    scale = torch.where(used, (squares + 0.1 * squares[used].mean() if used.any() else squares).rsqrt(), 0.0)
    return Group(name, extractor, scale / max(1.0, float((scale.square() * squares).sum())) ** 0.5)


def _extractors(raw: Described, hidden: bool, most: int) -> dict[str, Extractor]:
    """The groups of features; vocabularies are those of the comparisons' own texts."""
    visible = {name: _vocabulary(raw, extract, most) for name, extract in GROUPS.items()}
    return visible | ({name: Extractor((), partial(_hidden, name)) for name in HIDDEN} if hidden else {})


def _hidden(name: str, raw: Described) -> Tensor:
    return raw.hidden[name]


def _vocabulary(raw: Described, extract: Extract, most: int) -> Extractor:
    """What `extract` finds in at least two of the replies; the commonest features, at most so many."""
    counts: Counter[str] = Counter()
    for text, tokens in raw.replies:
        counts.update(name for name in extract(text, tokens) if len(name) <= LONGEST_NAME)
    shared = sorted((name for name, count in counts.items() if count > 1), key=lambda name: (-counts[name], name))
    names = tuple(sorted(shared[:most]))
    index = {name: place for place, name in enumerate(names)}

    def find(raw: Described) -> Tensor:
        features = torch.zeros(len(raw.replies), len(index), dtype=torch.float64)
        for row, (text, tokens) in enumerate(raw.replies):
            for name, value in extract(text, tokens).items():
                if name in index:
                    features[row, index[name]] = value
        return features

    return Extractor(names, find)
