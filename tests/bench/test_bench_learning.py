"""The benchmarks of learning do what they say: our steps train, TRL's do, and what a step takes is counted right."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from learner.backbone import Backbone
from tests.bench import learning
from tests.bench.harness import CannotMeasure
from tests.bench.learning import flop, random_model, tokens
from tests.bench.learning_ours import STEPS, load, rate
from tests.bench.learning_trl import TRAINERS
from tests.bench.learning_work import Method, Work

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 2048,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
LAYERS = 2 * (16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 24)  # weights of queries, keys and values, outputs, MLP
OUTPUT = 16 * 2048


@pytest.fixture(scope="module")
def small() -> Iterator[Work]:
    with random_model(SMALL, "ppo", 2) as work:
        yield replace(work, prompt_tokens=20, reply_tokens=6)


def test_both_sides_get_the_same_examples_of_the_lengths_that_are_asked_for(small: Work) -> None:
    examples = small.examples()
    assert examples == Work.from_json(small.to_json()).examples()
    assert {tuple(len(part) for part in example) for example in examples} == {(20, 6, 6)}
    assert len({tuple(prompt) for prompt, _, _ in examples}) == small.count


def test_a_token_takes_4_n_to_train_on_and_2_n_to_read_and_only_replies_are_scored(small: Work) -> None:
    sft, dpo, reward = (replace(small, method=method) for method in ("sft", "dpo", "reward"))
    assert (tokens(sft), tokens(dpo)) == (26, 32)  # a pair has its prompt once
    assert flop(sft) == 4 * (26 * LAYERS + 6 * OUTPUT)
    assert flop(dpo) == (4 + 2) * (32 * LAYERS + 12 * OUTPUT)
    assert flop(reward) == 4 * 32 * LAYERS


@pytest.mark.parametrize("method", STEPS)
def test_our_side_takes_the_steps_of_every_method(method: Method, small: Work) -> None:
    assert load(replace(small, method=method))(2) > 0
    assert rate(small) > 0


class Made(Exception):
    """Ends a benchmark that has made its optimizer."""


@pytest.mark.parametrize("method", STEPS)
def test_our_optimizer_is_told_whether_the_base_is_in_4_bits_as_in_a_training(
    method: Method, small: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(own: list[nn.Parameter], rate: float, *, in_4_bits: bool = False) -> None:
        assert in_4_bits
        raise Made

    monkeypatch.setattr("learner.methods.optimizer.make_adamw", make)
    monkeypatch.setattr(Backbone, "in_4_bits", True)
    with pytest.raises(Made):
        load(replace(small, method=method))


def test_a_process_answers_until_its_input_ends_and_says_why_it_has_ended(
    small: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "THREADS", 1)
    with learning.ours(replace(small, method="sft")) as ask:
        assert ask("run 1") > 0
        assert ask("peak") > 2**26
    with pytest.raises(RuntimeError, match="nowhere"), learning.ours(replace(small, model="/nowhere")) as ask:
        ask("run 1")


def test_without_trl_nothing_can_be_measured(small: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "TRL", tmp_path)
    with pytest.raises(CannotMeasure, match="make trl"), learning.trls(small):
        pass


TAKE_STEPS = """
import sys
from dataclasses import replace
from tests.bench.learning_trl import load
from tests.bench.learning_work import Work
for method in sys.argv[2:]:
    assert load(replace(Work.from_json(sys.argv[1]), method=method))(2) > 0, method
print(*sys.argv[2:], file=sys.stderr)
"""


@pytest.mark.reference
@pytest.mark.parametrize(
    ("methods", "environment"),
    [(tuple(TRAINERS), {}), (("ppo",), {"PYTHONPATH": str(learning.TRL_1_12), "TRL_EXPERIMENTAL_SILENCE": "1"})],
)
def test_trls_side_takes_the_steps_of_every_method(
    methods: tuple[str, ...], environment: Mapping[str, str], small: Work
) -> None:
    if not (learning.TRL / "installed").exists():
        pytest.skip("TRL is not installed in .venv-trl: run `make trl`")
    python = str(learning.TRL / "bin" / "python")
    ended = subprocess.run(
        [python, "-W", "ignore", "-c", TAKE_STEPS, small.to_json(), *methods], cwd=learning.ROOT, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}, capture_output=True,
        check=False, timeout=240,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert ended.stderr.splitlines()[-1].split() == list(methods)
