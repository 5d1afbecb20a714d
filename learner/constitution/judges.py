"""Who judges: the base itself, another adapter on it, or a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from itertools import takewhile

from learner import parallel
from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.batch import TokenIds, unheard
from learner.constitution.asking import Request, ask, render
from learner.constitution.endpoint import EndpointJudge
from learner.constitution.judging import HeardOdds, Judge
from learner.constitution.named_judge import is_address
from learner.constitution.waiting import SayWhy
from service.constitution import Constitution
from service.constitution.prompts import OPTIONS
from service.errors import HoneError, TrainingFailed
from service.settings import ConstitutionSettings
from service.settings.constitution import SELF

log = logging.getLogger("hone.learner")

THOUGHT_TOKENS = 192


class BackboneJudge:
    """The base, or an adapter that the backbone holds: verdicts by the log-probabilities of the options."""

    def __init__(self, backbone: Backbone, constitution: Constitution, role: Role = "base") -> None:
        self._backbone, self._role = backbone, role
        self._prefix = constitution.verdict_prefix
        encoded = [self._encode(self._prefix + option) for option in OPTIONS]
        shared = list(takewhile(lambda both: both[0] == both[1], zip(*encoded, strict=False)))
        if any(len(one) == len(shared) for one in encoded):
            raise TrainingFailed(f"The base model's tokenizer can't tell {OPTIONS[0]} from {OPTIONS[1]}.")
        self._before: TokenIds = tuple(token for token, _ in shared)
        self._options: list[TokenIds] = [(one[len(shared)],) for one in encoded]

    def odds(self, requests: Sequence[Request], reasoned: bool, heard: HeardOdds = unheard) -> list[float | None]:
        """As `Judge` says; None for a request that leaves the model's context no room."""
        asked = self._with_thoughts(requests) if reasoned else [(one, "") for one in self._prompts(requests)]
        fitting = [(index, prompt) for index, (prompt, _) in enumerate(asked) if prompt]
        examples = [(prompt, option) for _, prompt in fitting for option in self._options]
        scores = self._backbone.score(examples, self._role).reshape(-1, len(OPTIONS)).softmax(1)[:, 0].tolist()
        found: list[float | None] = [None] * len(requests)
        for (index, _), odds in zip(fitting, scores, strict=True):
            found[index] = odds
            if parallel.is_first():
                heard(index, odds, asked[index][1])
        return found

    def _prompts(self, requests: Sequence[Request]) -> list[TokenIds]:
        """Up to where the option is said; empty where there is no room."""
        whole = [render(self._backbone.tokenizer, request) + self._before for request in requests]
        return [prompt if len(prompt) < self._backbone.max_length else () for prompt in whole]

    def _with_thoughts(self, requests: Sequence[Request]) -> list[tuple[TokenIds, str]]:
        """With what the model thinks before its verdict, or with all that it says where it comes to none by itself,
        and beside that in words; empty where it says nothing, or there is no room."""
        thoughts = ask(self._backbone, requests, role=self._role, max_new_tokens=THOUGHT_TOKENS)
        found = list[tuple[TokenIds, str]]()
        for request, said in zip(requests, thoughts, strict=True):
            thought, verdict, rest = said.text.rpartition(self._prefix) if said else ("", "", "")
            if not verdict and rest.strip():
                thought = rest.strip() + "\n"
            prompt = render(self._backbone.tokenizer, request) + self._encode(thought) + self._before
            has_room = (verdict or thought) and len(prompt) < self._backbone.max_length
            found.append((prompt if has_room else (), thought.strip()))
        return found

    def _encode(self, text: str) -> TokenIds:
        return tuple(self._backbone.tokenizer.encode(text, add_special_tokens=False))


class FirstAsks:
    """A judge elsewhere, asked by the first of the processes that train, for all of them."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def odds(self, requests: Sequence[Request], reasoned: bool, heard: HeardOdds = unheard) -> list[float | None]:
        """As `Judge` says; what it raises comes in all processes, so that they stay at one place."""
        said = parallel.from_first(lambda: self._said(requests, reasoned, heard))
        if isinstance(said, HoneError):
            raise said
        return said

    def _said(self, requests: Sequence[Request], reasoned: bool, heard: HeardOdds) -> list[float | None] | HoneError:
        try:
            return self._judge.odds(requests, reasoned, heard)
        except HoneError as error:
            return error


def judge_of(
    settings: ConstitutionSettings, backbone: Backbone, constitution: Constitution, say: SayWhy = unheard
) -> Judge:
    """The one that `constitution.judge` names. A version must have been loaded as the backbone's role `judge`; `say`
    hears why one elsewhere is waited for."""
    if settings.judge == SELF:
        return BackboneJudge(backbone, constitution)
    if is_address(settings.judge):
        return FirstAsks(
            EndpointJudge(
                settings.judge,
                settings.judge_model,
                constitution,
                key=os.environ.get(settings.judge_key_variable, ""),
                timeout_seconds=settings.judge_timeout_seconds,
                retries=settings.judge_retries,
                say=say,
            )
        )
    return BackboneJudge(backbone, constitution, "judge")
