"""A prompt is computed once for all its replies, in training as in scoring, where they fit one minibatch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.backbone import Backbone
from learner.batch import Example
from learner.methods import ppo
from learner.methods.experience import grouped_batches
from learner.sampling import Reply
from service.settings import LearnerSettings, PpoSettings
from tests.learner.progress import Heard
from tests.learner.tiny_model import ids
from tests.learner.toy_rewards import PROMPTS, Counting

REPLIES = [ids(words, end=True) for words in ("one two three", "one", "perhaps", "no no no no no no")]


@given(st.lists(st.integers(1, 6), max_size=12), st.integers(1, 9), st.integers(0, 3))
def test_every_reply_comes_once_and_groups_stay_whole_where_they_fit(groups: list[int], size: int, seed: int) -> None:
    batches = list(grouped_batches(groups, size, Random(seed)))
    assert sorted(place for batch in batches for place in batch) == list(range(sum(groups)))
    assert all(0 < len(batch) <= size for batch in batches)
    group_of = [number for number, count in enumerate(groups) for _ in range(count)]
    for number, count in enumerate(groups):
        together = sum(any(group_of[place] == number for place in batch) for batch in batches)
        assert together == 1 if count <= size else together >= -(-count // size)
    assert batches == list(grouped_batches(groups, size, Random(seed)))


def test_an_iteration_by_default_takes_as_many_steps_as_its_replies_ask_for() -> None:
    settings = PpoSettings()
    batches = list(grouped_batches([settings.replies] * settings.prompts, settings.minibatch, Random(0)))
    assert [len(batch) for batch in batches] == [settings.minibatch] * 4
    assert batches != list(grouped_batches([settings.replies] * settings.prompts, settings.minibatch, Random(1)))


@contextmanager
def tokens_computed(backbone: Backbone, *, with_gradients: bool) -> Iterator[list[int]]:
    """Of each pass through the base."""
    computed = list[int]()

    def count(_: object, __: object, given: dict[str, Any]) -> None:
        if torch.is_grad_enabled() == with_gradients:
            computed.append(given["input_ids"].numel())

    decoder = backbone.model.get_base_model().get_decoder()
    hook = decoder.register_forward_pre_hook(count, with_kwargs=True)
    yield computed
    hook.remove()


def once(prompts: list[tuple[int, ...]]) -> int:
    """Tokens of these prompts, and of all replies to each but for their last, from which nothing is predicted."""
    return sum(len(prompt) + sum(len(reply) - 1 for reply in REPLIES) for prompt in prompts)


class Said:
    """Samples the same replies to every prompt."""

    max_length, left_out = 64, 0

    def sample(self, prompts: list[tuple[int, ...]], **_: object) -> list[list[Reply]]:
        return [[Reply(place, reply, -1.0, True) for reply in REPLIES] for place in range(len(prompts))]


@pytest.fixture
def backbone(folder: Path) -> Backbone:
    return Backbone.load(folder, LearnerSettings(rank=4, alpha=8.0))


@pytest.mark.parametrize(("minibatch", "steps"), [(8, 2), (5, 4), (16, 1)])
def test_a_pass_over_the_replies_computes_each_prompt_once(backbone: Backbone, minibatch: int, steps: int) -> None:
    settings = PpoSettings(
        advantages="rloo", iterations=1, prompts=4, replies=4, epochs=1, minibatch=minibatch, stop_kl=10.0,
        pretraining_coefficient=0.0, max_new_tokens=8,
    )  # fmt: skip
    heard = Heard()
    with tokens_computed(backbone, with_gradients=True) as computed:
        result = ppo.train(backbone, Counting(), PROMPTS, settings, heard, sampler=Said())  # type: ignore[arg-type]
    assert len(computed) == result.steps == steps == heard.steps[-1][2]
    assert sum(computed) == once(PROMPTS)


def test_scoring_computes_each_prompt_once(backbone: Backbone) -> None:
    examples: list[Example] = [(prompt, reply) for reply in REPLIES for prompt in PROMPTS]
    with tokens_computed(backbone, with_gradients=False) as computed:
        scores = backbone.score(examples, "policy", batch_size=8)
    assert len(computed) == 2 and sum(computed) == once(PROMPTS)
    for example, score in zip(examples, scores, strict=True):
        assert float(backbone.score([example], "policy")[0]) == pytest.approx(float(score), abs=1e-4)


@pytest.mark.parametrize("warmup", [1, 0])
def test_the_value_function_alone_learns_in_the_warm_up(backbone: Backbone, warmup: int) -> None:
    settings = PpoSettings(
        prompts=4, minibatch=16, max_new_tokens=8, stop_kl=10.0, iterations=2, value_warmup=warmup
    )  # fmt: skip
    policies: list[dict[str, torch.Tensor]] = []

    class Watching(Said):
        def sample(self, prompts: list[tuple[int, ...]], **options: object) -> list[list[Reply]]:
            policies.append(backbone.adapter_state())
            return super().sample(prompts, **options)

    ppo.train(backbone, Counting(), PROMPTS, settings, Heard(), sampler=Watching())  # type: ignore[arg-type]
    first, second = policies
    assert all(torch.equal(one, second[name]) for name, one in first.items()) == (warmup == 1)
    assert not all(torch.equal(one, second[name]) for name, one in backbone.adapter_state().items())
