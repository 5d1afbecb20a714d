"""What is answered by choosing the best of N replies is distributed as the best of N draws is, and no further from what
it is drawn from than log N - (N - 1) / N nats: summed up over all that can be drawn."""

from __future__ import annotations

from itertools import product
from math import log, prod

import pytest

from service.adapters.judge import Judge
from service.chat.best_of import BestOf

JUDGE = Judge.model_validate({"comparisons": 9, "accuracy": 1.0, "weights": {"length": {"characters": 1.0}}})


def answered(shares: dict[str, float], samples: int) -> dict[str, float]:
    """The share of each text among answers, where these are the shares among draws."""
    found = dict.fromkeys(shares, 0.0)
    for drawn in product(shares, repeat=samples):
        choices = [{"message": {"content": text}, "token_ids": [1], "finish_reason": "stop"} for text in drawn]
        BestOf(samples, 1, JUDGE).choose(answer := {"choices": choices})
        (chosen,) = answer["choices"]
        found[chosen["message"]["content"]] += prod(shares[text] for text in drawn)  # type: ignore[index]
    return found


def by_order(shares: dict[str, float], samples: int) -> dict[str, float]:
    """The same by order statistics: F(r)^N - F(below r)^N of all with the reward r, theirs in proportion."""
    found = {}
    for text, share in shares.items():
        below = sum(other for one, other in shares.items() if len(one) < len(text))
        equal = sum(other for one, other in shares.items() if len(one) == len(text))
        found[text] = share / equal * ((below + equal) ** samples - below**samples)
    return found


@pytest.mark.parametrize("samples", [1, 2, 4, 5])
@pytest.mark.parametrize(
    "shares",
    [{"a": 0.1, "bb": 0.4, "ccc": 0.2, "dddd": 0.3}, {"a": 0.25, "b": 0.25, "cc": 0.3, "dd": 0.2}],
    ids=["apart", "ties"],
)
def test_the_best_of_some_is_their_largest_order_statistic(shares: dict[str, float], samples: int) -> None:
    found = answered(shares, samples)
    assert found == pytest.approx(by_order(shares, samples))
    kl = sum(share * log(share / shares[text]) for text, share in found.items())
    assert kl <= log(samples) - (samples - 1) / samples + 1e-12
    assert kl == pytest.approx(0) if samples == 1 else kl > 0.05


def test_the_bound_is_come_near_where_no_two_replies_are_alike() -> None:
    """(Beirami et al., arXiv 2401.01879): it is reached where each draw is a reply of its own. Of 40 as likely ones:"""
    shares = {"a" * length: 1 / 40 for length in range(1, 41)}
    found = answered(shares, 2)
    kl = sum(share * log(share / shares[text]) for text, share in found.items())
    assert log(2) - 1 / 2 - 0.01 < kl < log(2) - 1 / 2
