"""A preference model from few comparisons: which of two replies would these people prefer?

Bayesian logistic regression on differences of features (Bradley-Terry, with a Gaussian prior; in its dual form it is the
Gaussian-process preference learning of Chu and Ghahramani, ICML 2005). The features come in groups: what a person can
see (length, punctuation, first and last words, words, word pairs) and what the frozen backbone sees (its hidden
states). How much each group counts is chosen by the Laplace evidence of the comparisons themselves, so that a taste for
one word, for length or for a manner is found from a hundred pairs without being told which it is. A hundred pairs are
too few for a fine-tuned reward model; the whole fit takes about a second.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.backbone import Backbone
from learner.batch import Pair, TokenIds, by_length, collate

Example = tuple[TokenIds, TokenIds]  # prompt, reply
_SCALES = (0.0, 0.1, 0.5, 2.0, 8.0, 32.0)  # prior variances that a group may have
_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


@dataclass(frozen=True)
class Fit:
    """How well the model explains the comparisons."""

    evidence: float  # Laplace log evidence per pair, in nats; -log 2 = -0.693 is knowing nothing
    accuracy: float  # leave-one-out, over the pairs that are no ties
    pairs: int
    scales: dict[str, float]  # prior variance of each group of features


class PreferenceModel:
    """Scores replies; a difference of scores is the log-odds of being preferred."""

    def __init__(self, backbone: Backbone, groups: Sequence[Group], weights: dict[str, Tensor], fit: Fit) -> None:
        self._backbone, self._groups, self._weights, self.fit = backbone, groups, weights, fit

    def score(self, examples: Sequence[Example]) -> Tensor:
        """(len(examples),) float32: higher is liked better. Comparable between replies to the same prompt."""
        if not examples:
            return torch.zeros(0)
        total = torch.zeros(len(examples), dtype=torch.float64)
        raw = describe(self._backbone, examples)
        for group in self._groups:
            if group.name in self._weights:
                total += group.apply(raw) @ self._weights[group.name]
        return total.float()

    def accuracy(self, pairs: Sequence[Pair]) -> float | None:
        """Share of the decided pairs whose chosen reply scores higher; None where there is none."""
        decided = [pair for pair in pairs if not pair.tie]
        if not decided:
            return None
        scores = self.score([(pair.prompt_token_ids, pair.chosen) for pair in decided])
        other = self.score([(pair.prompt_token_ids, pair.rejected) for pair in decided])
        return float(((scores > other).float() + 0.5 * (scores == other).float()).mean())


@dataclass(frozen=True)
class Described:
    """Replies, as text and as the frozen backbone sees them."""

    texts: list[str]
    lengths: Tensor  # (N,) tokens
    hidden_mean: Tensor  # (N, H) float64, mean over the reply's tokens
    hidden_last: Tensor  # (N, H) at the reply's last token


@torch.no_grad()
def describe(backbone: Backbone, examples: Sequence[Example], batch_size: int = 64) -> Described:
    """Run the bare base over prompts and replies and keep what the features need."""
    width = int(backbone.model.config.hidden_size)
    mean, last = (torch.zeros(len(examples), width, dtype=torch.float64) for _ in range(2))
    for indices in by_length([len(prompt) + len(reply) for prompt, reply in examples], batch_size):
        batch = collate([examples[index] for index in indices], backbone.pad_id).to(backbone.device)
        with backbone.use("base") as model:
            hidden = model.get_base_model().base_model(
                input_ids=batch.token_ids, attention_mask=batch.attention_mask
            ).last_hidden_state.double()  # (B, T, H)  # fmt: skip
        mask = batch.reply_mask.unsqueeze(2)
        ends = batch.attention_mask.sum(1) - 1
        mean[indices] = ((hidden * mask).sum(1) / mask.sum(1).clamp(min=1)).cpu()
        last[indices] = hidden[torch.arange(len(indices)), ends].cpu()
    lengths = torch.tensor([len(reply) for _, reply in examples], dtype=torch.float64)
    return Described(backbone.decode([reply for _, reply in examples]), lengths, mean, last)


@dataclass(frozen=True)
class Group:
    """Features that share one prior variance; scaled so that a difference of two replies has mean square 1 in all."""

    name: str
    extract: Callable[[Described], Tensor]
    scale: Tensor  # (D,)

    def apply(self, raw: Described) -> Tensor:
        """(N, D) float64."""
        return self.extract(raw) * self.scale


def fit_preferences(backbone: Backbone, pairs: Sequence[Pair]) -> PreferenceModel:
    """Fit to comparisons; ties pull both scores together."""
    examples = [(p.prompt_token_ids, p.chosen) for p in pairs] + [(p.prompt_token_ids, p.rejected) for p in pairs]
    raw = describe(backbone, examples)
    target = torch.tensor([0.5 if pair.tie else 1.0 for pair in pairs], dtype=torch.float64)
    weight = torch.tensor([pair.weight * pair.margin if not pair.tie else pair.weight for pair in pairs]).double()
    groups = [_scaled(name, extract, raw) for name, extract in _extractors(raw.texts).items()]
    differences = {g.name: _differences(g.apply(raw)) for g in groups}
    kernels = {name: difference @ difference.T for name, difference in differences.items()}
    scales = _choose_scales(kernels, target, weight)
    kernel = _combined(kernels, scales)
    evidence, alpha, accuracy = _laplace(kernel, target, weight)
    weights = {name: scales[name] * (differences[name].T @ alpha) for name in kernels if scales[name] > 0}
    fit = Fit(evidence / max(1.0, float(weight.sum())), accuracy, len(pairs), scales)
    return PreferenceModel(backbone, groups, weights, fit)


def _differences(features: Tensor) -> Tensor:
    half = len(features) // 2
    return features[:half] - features[half:]


def _combined(kernels: dict[str, Tensor], scales: dict[str, float]) -> Tensor:
    return torch.stack([scales[name] * kernel for name, kernel in kernels.items()]).sum(0)


def _choose_scales(kernels: dict[str, Tensor], target: Tensor, weight: Tensor) -> dict[str, float]:
    """Coordinate ascent of the evidence over the groups' prior variances, from a little of everything."""
    scales = dict.fromkeys(kernels, 0.1)
    best = _laplace(_combined(kernels, scales), target, weight)[0]
    for _ in range(3):
        before = best
        for name in kernels:
            for value in _SCALES:
                trial = scales | {name: value}
                evidence = _laplace(_combined(kernels, trial), target, weight)[0]
                if evidence > best + 1e-6:
                    best, scales = evidence, trial
        if best - before < 0.1:
            break
    return scales


def _laplace(kernel: Tensor, target: Tensor, weight: Tensor, steps: int = 30) -> tuple[float, Tensor, float]:
    """Newton's method in the dual (Rasmussen and Williams, algorithm 3.1): log evidence, α with f = K α, and the
    leave-one-out accuracy over decided pairs (cavity means, their section 5.4.2 in the Gaussian approximation)."""
    count = len(target)
    f = torch.zeros(count, dtype=torch.float64)
    alpha = torch.zeros_like(f)
    identity = torch.eye(count, dtype=torch.float64)
    for _ in range(steps):
        p = torch.sigmoid(f)
        w = (weight * p * (1 - p)).clamp(min=1e-10)
        root = w.sqrt()
        lower = torch.linalg.cholesky(identity + root[:, None] * kernel * root[None, :])
        b = w * f + weight * (target - p)
        alpha = b - root * torch.cholesky_solve((root * (kernel @ b)).unsqueeze(1), lower).squeeze(1)
        new = kernel @ alpha
        moved = (new - f).abs().max() if count else torch.zeros(())
        f = new
        if moved < 1e-4:
            break
    likelihood = (weight * (target * torch.nn.functional.logsigmoid(f)
                            + (1 - target) * torch.nn.functional.logsigmoid(-f))).sum()  # fmt: skip
    evidence = likelihood - 0.5 * alpha @ f - lower.diagonal().log().sum()
    inverse = torch.cholesky_inverse(lower) * root[:, None] * root[None, :]  # (K + W⁻¹)⁻¹
    cavity = f - alpha / inverse.diagonal().clamp(min=1e-12)
    decided = target > 0.5
    accuracy = float((cavity[decided] > 0).double().mean()) if decided.any() else 0.5
    return float(evidence), alpha, accuracy


def _scaled(name: str, extract: Callable[[Described], Tensor], raw: Described) -> Group:
    """Each feature divided by the root of its mean squared difference (softly, so that rare ones do not explode)."""
    squares = _differences(extract(raw)).square().mean(0)
    used = squares > 1e-9
    scale = torch.where(used, (squares + 0.1 * squares[used].mean() if used.any() else squares).rsqrt(), 0.0)
    return Group(name, extract, scale / max(1.0, float((scale.square() * squares).sum())) ** 0.5)


def _extractors(texts: Sequence[str]) -> dict[str, Callable[[Described], Tensor]]:
    """The groups of features; vocabularies are those of the comparisons' own texts."""
    return {
        "length": _length,
        "marks": _vocabulary(texts, _marks),
        "ends": _vocabulary(texts, _ends),
        "words": _vocabulary(texts, lambda text: set(_tokens(text))),
        "word pairs": _vocabulary(texts, lambda text: set(zip(_tokens(text), _tokens(text)[1:], strict=False))),
        "hidden mean": lambda raw: raw.hidden_mean,
        "hidden last": lambda raw: raw.hidden_last,
    }


def _tokens(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _length(raw: Described) -> Tensor:
    words = torch.tensor([len(text.split()) for text in raw.texts], dtype=torch.float64)
    characters = torch.tensor([len(text) for text in raw.texts], dtype=torch.float64)
    columns = [raw.lengths, raw.lengths.log1p(), words, words.log1p(), characters, characters.log1p()]
    return torch.stack(columns, 1)


def _marks(text: str) -> Counter[str]:
    """How often each mark stands in the text, and whether it does; capitals and digits count as one mark each."""
    found = Counter(
        "A" if c.isupper() else "0" if c.isdigit() else c for c in text if not (c.islower() or c == " ")
    )  # fmt: skip
    return found + Counter({f"any {mark}": 1 for mark in found})


def _ends(text: str) -> set[str]:
    tokens = _tokens(text)
    return {f"first {t}" for t in tokens[:1]} | {f"second {t}" for t in tokens[1:2]} | {
        f"last {t}" for t in tokens[-1:]} | {f"before {t}" for t in tokens[-2:-1]}  # fmt: skip


def _vocabulary(texts: Sequence[str], parse: Callable[[str], object]) -> Callable[[Described], Tensor]:
    """Counts of what `parse` finds, over whatever at least two of the texts have."""
    counts: Counter[object] = Counter()
    for text in texts:
        counts.update(set(parse(text)))  # type: ignore[call-overload]  # a set or a Counter
    index = {item: place for place, item in enumerate(sorted((i for i, n in counts.items() if n > 1), key=str))}

    def extract(raw: Described) -> Tensor:
        features = torch.zeros(len(raw.texts), len(index), dtype=torch.float64)
        for row, text in enumerate(raw.texts):
            found = parse(text)
            for item in found:  # type: ignore[attr-defined]  # as above
                if item in index:
                    features[row, index[item]] = found[item] if isinstance(found, Counter) else 1.0
        return features

    return extract
