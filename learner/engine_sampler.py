"""Replies of the policy sampled by the engine that serves chats, over HTTP.

For each round the policy is written as an adapter where the engine can read it, and asked for replies by token ids
(`learner.passing`); then it is gone again. Of some replies the trainer computes the log-probabilities, too, to see that
the policy is what answered.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from learner.backbone import SCORED, Backbone
from learner.batch import Example, TokenIds, collate
from learner.passing import Round
from learner.rollout_engines import Engines
from learner.sampler import Tell
from learner.sampling import Reply, longest_prompt
from learner.suspects import Suspects
from service.errors import TrainingFailed
from service.store.queries.adapters import number_of

CHECKED = 16
"""Replies of a round, the shortest, that the trainer scores, too."""
TELLABLE = 0.12
"""Nats, over all tokens of these, that the policy has to be away from the base for an engine in bfloat16, whose
log-probabilities are off by some 0.02 each, to be told from one that answers with the base."""


class EngineSampler:
    """A `learner.sampler.Sampler`; one for each attempt at a run. `suspects`: a file of `learner.suspects`."""

    def __init__(self, backbone: Backbone, engines: Engines, run_id: str, suspects: Path | None = None) -> None:
        self._backbone, self._engines = backbone, engines
        self._prefix = f"passing-{run_id or 'run'}-{secrets.token_hex(4)}"  # the same run may be tried again
        self._rounds = 0
        self._suspects = Suspects(lambda prompt: backbone.decode([prompt])[0], suspects)

    @property
    def max_length(self) -> int:
        return min(self._backbone.max_length, self._engines.context or self._backbone.max_length)

    @property
    def left_out(self) -> int:
        return len(self._suspects.left_out)

    def sample(
        self, prompts: Sequence[TokenIds], *, per_prompt: int, max_new_tokens: int, seed: int, tell: Tell
    ) -> list[list[Reply]]:
        """As the protocol says; the same seed gives the same replies where the engine's do.

        Raises EngineUnavailable when no engine has answered for `wait_seconds`, and TrainingFailed when the engine
        refuses the adapter, answers with something else than the policy, or goes away over too many prompts.
        """
        self._rounds += 1
        name = f"{self._prefix}-{self._rounds}"
        assert number_of(name) is None
        asked = self._requests(name, prompts, per_prompt, max_new_tokens, seed)
        path = self._write(name)
        try:
            require = partial(self._engines.require, max_length=self.max_length, rank=self._backbone.rank)
            rows = asyncio.run(Round(self._engines, name, path, require, asked, self._suspects, tell).replies())
        finally:
            shutil.rmtree(path, ignore_errors=True)
        if rows and not any(rows):
            raise TrainingFailed(
                "There is nothing to learn from: engines went away over every prompt of a round, asked by itself.",
                'See the engine\'s log; with learner.rollouts = "trainer" the trainer samples itself.',
            )
        replies = [[self._reply(row, choice) for choice in choices] for row, choices in enumerate(rows)]
        self._check(prompts, [reply for row in replies for reply in row])
        return replies

    def _requests(
        self, name: str, prompts: Sequence[TokenIds], per_prompt: int, max_new_tokens: int, seed: int
    ) -> list[dict[str, Any]]:
        """One for each prompt. What models and engines have defaults for is said, so that these don't apply."""
        room, rng = longest_prompt(self, max_new_tokens), Random(seed)
        same = {
            "model": name,
            "n": per_prompt,
            "max_tokens": self.max_length - room,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": list(self._backbone.eos_ids),
            "logprobs": 0,
            "return_token_ids": True,
        }
        return [{**same, "prompt": list(prompt[-room:]), "seed": rng.getrandbits(31)} for prompt in prompts]

    def _write(self, name: str) -> Path:
        """The policy as it is, whole or not at all."""
        unfinished, path = self._engines.folder / f"{name}.partial", self._engines.folder / name
        self._backbone.save_adapter(unfinished)
        for file in unfinished.iterdir():
            file.chmod(0o644)  # the engine may be somebody else
        return unfinished.rename(path)

    def _reply(self, row: int, choice: Mapping[str, Any]) -> Reply:
        """Raises TrainingFailed for one without token ids, or without the log-probability of each."""
        token_ids = tuple(choice.get("token_ids") or ())
        log_probs = tuple((choice.get("logprobs") or {}).get("token_logprobs") or ())
        if not token_ids or len(token_ids) != len(log_probs) or None in log_probs:
            raise TrainingFailed(
                "The engine gives no token ids with log-probabilities, which learning from its replies needs.",
                'Use a newer vLLM (it has to know `return_token_ids`), or set learner.rollouts = "trainer".',
            )
        return Reply(row, token_ids, sum(log_probs), token_ids[-1] in self._backbone.eos_ids, log_probs)

    @torch.no_grad()
    def _check(self, prompts: Sequence[TokenIds], replies: Sequence[Reply]) -> None:
        """An adapter can load without an error and change nothing, or be answered by another's weights."""
        some = sorted(replies, key=lambda reply: len(reply.token_ids) + len(prompts[reply.prompt]))[:CHECKED]
        examples = [(prompts[reply.prompt], reply.token_ids) for reply in some]
        scored = [found for _, found in self._backbone.fitting[SCORED].each(examples, self._scored)]
        trainer, base = (torch.cat(parts) for parts in zip(*scored, strict=True))
        engine = torch.tensor([value for reply in some for value in reply.log_probs or ()])
        moved = trainer - base
        if float(moved.norm()) > TELLABLE and float((engine - base) @ moved) < 0.5 * float(moved @ moved):
            raise TrainingFailed(
                "The engine loaded the policy's adapter, but answers like the bare base.",
                'See its log; with learner.rollouts = "trainer" the trainer samples itself.',
            )
        gap = float((trainer - engine).abs().mean())
        if not gap <= self._engines.tolerance:
            raise TrainingFailed(
                "The engine answers with something else than the policy: its log-probabilities differ from the "
                f"trainer's by {gap:.3f} nats per token, above learner.rollout_tolerance "
                f"({self._engines.tolerance:g}).",
                "Check that it serves the same base model, in a precision near the trainer's.",
            )

    def _scored(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the replies' tokens under policy and base: (tokens,) both, on the CPU."""
        batch = collate(examples, self._backbone.pad_id)
        policy, base = (self._backbone.log_probs(batch, role).cpu()[batch.reply_mask] for role in ("policy", "base"))
        return policy, base
