"""What an engine is asked to prove an adapter: what it says of the probes when it computes them anew, and how it goes
on in ordinary requests, which its prefix cache may answer.

vLLM doesn't read its prefix cache to score, so scores alone never meet what that holds of another adapter, or from
before a reload. A probe's prompt and its reply up to where training changed it much are therefore gone on with, too,
under the base and whatever else is loaded, then under the adapter. A cache that doesn't tell them apart answers with
what it computed under another; the score of the token that it gave, computed anew, says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.adapters.engine import AdapterEngine, Text, score_all
from service.adapters.manifest import Manifest, Probe
from service.adapters.proof import Logprobs, Verdict, judge, mean_gap, not_as_computed_anew
from service.side_by_side import side_by_side


class Probing:
    """The probes of one adapter, at one engine. Both that ask it raise EngineUnavailable and EngineRefused."""

    def __init__(self, engine: AdapterEngine, base: str, manifest: Manifest) -> None:
        """`base`: the name of the bare base there."""
        self._engine, self._base, self._name, self._salt = engine, base, manifest.name, manifest.hash()
        self._probes = manifest.probes
        self._texts: list[Text] = [(probe.prompt_token_ids, probe.token_ids) for probe in manifest.probes]
        self._begun = [(*one.prompt_token_ids, *one.token_ids[: _most_changed(one)]) for one in manifest.probes]
        self._before: dict[str, Logprobs] = {}

    async def ask_others(self, others: Sequence[str]) -> None:
        """Before it is loaded: what the base and the other adapters say, and have that in the prefix cache."""
        self._before = {model: await self._score(model, self._texts) for model in (self._base, *others)}
        for model in self._before:
            await self._go_on(model)

    async def ask(self, tolerance: float) -> Verdict:
        """Once it is loaded: whether the engine serves it.

        Until its scores are right nothing is cached under its own salt: the engine may hold other weights of that name.
        """
        self._engine.salt_cache(self._name, f"{self._salt} unproven")
        own = await self._score(self._name, self._texts)
        others = {model: said for model, said in self._before.items() if model != self._base}
        verdict = judge(self._probes, own, self._before[self._base], others, tolerance)
        if not verdict.served:
            return verdict
        self._engine.salt_cache(self._name, self._salt)
        if (gap := await self._cache_gap(self._name)) <= tolerance:
            return verdict
        return not_as_computed_anew(gap, await self._cache_gap(self._base), tolerance)

    async def _score(self, model: str, texts: Sequence[Text]) -> Logprobs:
        return await score_all(self._engine, model, texts)

    async def _cache_gap(self, model: str) -> float:
        """Mean gap between what an ordinary request says of what follows, and the score of that; in nats per token."""
        told = await self._go_on(model)
        followed = [(tokens, (token,)) for tokens, (token, _) in zip(self._begun, told, strict=True)]
        return mean_gap([[said] for _, said in told], await self._score(model, followed))

    async def _go_on(self, model: str) -> list[tuple[int, float]]:
        """For each probe, the token that follows under `model`, and its log-probability, as in any reply."""
        return await side_by_side(self._engine.next_token(model, tokens) for tokens in self._begun)


def _most_changed(probe: Probe) -> int:
    """The place in the second half of its reply that training changed most: vLLM's cache holds whole blocks of tokens,
    so that of a short beginning nothing is in it."""
    changes = [abs(own - base) for own, base in zip(probe.logprobs, probe.base_logprobs, strict=True)]
    half = len(changes) // 2
    return changes.index(max(changes[half:]), half)
