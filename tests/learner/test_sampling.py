"""Samples come from the model they claim to come from."""

from __future__ import annotations

import pytest
import torch

from learner.backbone import Backbone
from learner.sampling import AFFORDABLE_TOKENS, FEWEST, affordable, sample
from service.errors import TrainingFailed
from service.settings import LearnerSettings
from tests.learner.tiny_backbone import moved
from tests.learner.tiny_model import EOS, build_tiny_model, ids

PROMPTS = [ids("<bos> what is the capital of france ?"), ids("<bos> one"), ids("<bos> is it blue red ?")]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return moved(Backbone.load(build_tiny_model(tmp_path_factory.mktemp("tiny")), LearnerSettings(rank=4)))


def test_log_probabilities_are_those_of_the_policy(backbone: Backbone) -> None:
    replies = sample(backbone, PROMPTS, per_prompt=64, max_new_tokens=48, seed=1)
    examples = [(PROMPTS[reply.prompt], reply.token_ids) for row in replies for reply in row]
    expected = backbone.score(examples, "policy")
    actual = torch.tensor([reply.log_prob for row in replies for reply in row])
    torch.testing.assert_close(actual, expected, atol=1e-3, rtol=1e-3)
    assert len({len(reply) for _, reply in examples}) > 3  # rows left the batch at different times


def test_each_role_samples_from_itself(backbone: Backbone) -> None:
    replies = sample(backbone, PROMPTS, role="base", per_prompt=4, max_new_tokens=12, seed=2)
    examples = [(PROMPTS[reply.prompt], reply.token_ids) for row in replies for reply in row]
    actual = torch.tensor([reply.log_prob for row in replies for reply in row])
    torch.testing.assert_close(actual, backbone.score(examples, "base"), atol=1e-3, rtol=1e-3)


def test_a_reply_ends_with_its_only_end_token_or_at_the_limit(backbone: Backbone) -> None:
    for row in sample(backbone, PROMPTS, per_prompt=16, max_new_tokens=10, seed=3):
        for reply in row:
            assert EOS not in reply.token_ids[:-1]
            assert reply.ended == (reply.token_ids[-1] == EOS)
            assert reply.ended or len(reply.token_ids) == 10


def test_the_seed_decides(backbone: Backbone) -> None:
    assert sample(backbone, PROMPTS, seed=4) == sample(backbone, PROMPTS, seed=4)
    assert sample(backbone, PROMPTS, per_prompt=4, seed=4) != sample(backbone, PROMPTS, per_prompt=4, seed=5)


def test_greedy_ignores_the_seed_and_how_the_batch_is_cut(backbone: Backbone) -> None:
    whole = sample(backbone, PROMPTS, temperature=0, seed=1, max_new_tokens=12)
    parts = sample(backbone, PROMPTS, temperature=0, seed=2, max_new_tokens=12, batch_size=1)
    assert [[r.token_ids for r in row] for row in whole] == [[r.token_ids for r in row] for row in parts]


def test_it_is_told_how_many_replies_have_come_to_their_end(backbone: Backbone) -> None:
    heard = list[tuple[int, int]]()
    replies = sample(
        backbone, PROMPTS, per_prompt=16, max_new_tokens=48, seed=1, batch_size=16, tell=lambda *it: heard.append(it)
    )
    assert heard[0] == (0, 48) and heard[-1] == (48, 48) and heard == sorted(heard)
    assert {(16, 48), (32, 48)} < set(heard) and len(heard) > 10  # after each batch, and within
    assert replies == sample(backbone, PROMPTS, per_prompt=16, max_new_tokens=48, seed=1, batch_size=16)


def test_first_tokens_come_as_often_as_the_model_says(backbone: Backbone) -> None:
    (row,) = sample(backbone, PROMPTS[:1], per_prompt=4000, max_new_tokens=1, seed=6, batch_size=4000)
    counts = torch.bincount(torch.tensor([reply.token_ids[0] for reply in row]), minlength=50).float() / len(row)
    with torch.no_grad(), backbone.use("policy") as model:
        asked = torch.tensor(PROMPTS[:1], device=backbone.device)
        probabilities = torch.softmax(model(asked).logits[0, -1], -1).cpu()
    width = 5 * (probabilities * (1 - probabilities) / len(row)).sqrt() + 1e-3
    assert ((counts[: len(probabilities)] - probabilities).abs() < width).all()


def test_a_lower_temperature_is_surer_but_reports_the_plain_log_probability(backbone: Backbone) -> None:
    def surprise(temperature: float) -> float:
        rows = sample(backbone, PROMPTS, per_prompt=32, max_new_tokens=4, temperature=temperature, seed=7)
        replies = [reply for row in rows for reply in row]
        scores = backbone.score([(PROMPTS[r.prompt], r.token_ids) for r in replies], "policy")
        assert torch.tensor([r.log_prob for r in replies]).sub(scores).abs().max() < 1e-2
        return -sum(r.log_prob for r in replies) / sum(len(r.token_ids) for r in replies)

    assert surprise(0.3) < surprise(1.0)


def test_a_prompt_as_long_as_the_model_s_window_is_cut_on_the_left(backbone: Backbone) -> None:
    ((reply,),) = sample(backbone, [ids("one " * 200)], max_new_tokens=8, temperature=0)
    ((same,),) = sample(backbone, [ids("one " * 56)], max_new_tokens=8, temperature=0)
    assert reply.token_ids == same.token_ids


def test_no_prompts_no_replies(backbone: Backbone) -> None:
    assert sample(backbone, []) == []


def test_as_many_prompts_are_taken_as_may_be_paid_for_long_and_short_ones_alike() -> None:
    short, long = (1,) * (AFFORDABLE_TOKENS // 2), (2,) * (4 * AFFORDABLE_TOKENS)
    assert affordable([], 100) == []
    assert affordable([short] * 200, 100) == [short] * 200
    assert len(affordable([long] * 200, 100)) == 25
    mixed = affordable([long, short] * 200, 100)
    assert sum(map(len, mixed)) <= 100 * AFFORDABLE_TOKENS
    assert mixed.count(long) > 5 and mixed.count(short) > 20
    assert affordable([long, short] * FEWEST, 1) == [short] * FEWEST  # too few say little, whatever they cost
    assert affordable([long, short], 100) == [long, short]


class SmallMemory:
    """Takes no more than so many rows at once into a forward pass; counts those that it refused."""

    def __init__(self, backbone: Backbone, rows: int, after: int = 0) -> None:
        self._rows, self._after = rows, after
        self.refused, self.passes = list[int](), 0
        decoder = backbone.model.get_base_model().get_decoder()
        self.handle = decoder.register_forward_pre_hook(self._look, with_kwargs=True)

    def _look(self, _: torch.nn.Module, __: tuple[object, ...], given: dict[str, torch.Tensor]) -> None:
        self.passes += 1
        if len(given["input_ids"]) > self._rows and self.passes > self._after:
            self.refused.append(len(given["input_ids"]))
            raise torch.OutOfMemoryError("CUDA out of memory.")


MANY = [ids(f"<bos> {word} ?") for word in ("one", "two", "three", "four", "five", "six", "red", "blue")]


def fresh(backbone: Backbone) -> Backbone:
    """One that knows nothing yet of the memory."""
    for one in backbone.fitting.values():
        one.most = None
    return backbone


def test_sampling_that_does_not_fit_the_memory_is_halved_and_goes_on(
    backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    expected = sample(fresh(backbone), MANY, per_prompt=2, max_new_tokens=8, seed=3, batch_size=4)
    memory = SmallMemory(backbone, 4, after=1)  # the first pass, over the prompts alone, fits
    try:
        found = sample(backbone, MANY, per_prompt=2, max_new_tokens=8, seed=3)
        refused = list(memory.refused)
        assert found == sample(backbone, MANY, per_prompt=2, max_new_tokens=8, seed=3)
    finally:
        memory.handle.remove()
        fresh(backbone)
    assert found == expected  # those of as many at once, from the same random numbers
    assert refused[0] == 16 and memory.refused == refused  # what was found out is not forgotten
    assert "Out of memory with 16 replies to sample at once; from now on 8." in caplog.text
    assert "from now on 4." in caplog.text and "from now on 2." not in caplog.text


def test_the_replies_to_one_prompt_are_halved_too(backbone: Backbone) -> None:
    memory = SmallMemory(backbone, 3)
    try:
        (row,) = sample(fresh(backbone), MANY[:1], per_prompt=8, max_new_tokens=8, seed=3)
    finally:
        memory.handle.remove()
        fresh(backbone)
    examples = [(MANY[0], reply.token_ids) for reply in row]
    scores = torch.tensor([reply.log_prob for reply in row])
    torch.testing.assert_close(scores, backbone.score(examples, "policy"), atol=1e-3, rtol=1e-3)
    assert len(row) == 8 and len(set(examples)) > 3 and {reply.prompt for reply in row} == {0}


def test_a_reply_that_does_not_fit_alone_is_said_and_other_errors_come_through(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = SmallMemory(backbone, 0)
    try:
        with pytest.raises(TrainingFailed, match="There isn't enough memory for one of the replies to sample alone"):
            sample(fresh(backbone), MANY, seed=3)
    finally:
        memory.handle.remove()
        fresh(backbone)
    monkeypatch.setattr("learner.sampling._draw", lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        sample(backbone, MANY, seed=3)
