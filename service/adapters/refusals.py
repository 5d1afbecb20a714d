"""Why one engine doesn't serve an adapter: what was wrong when it was last tried, and when it may be tried again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from service.adapters.proof import Verdict
from service.errors import AdapterBroken, AdapterUnreachable, EngineRefused, EngineUnavailable

REFUSAL_SECONDS = 30.0
"""For so long an engine that doesn't serve an adapter isn't made to load it again, which holds up its requests."""


class ProofFailed(AdapterBroken):
    """The folder is sound and this engine has loaded it, but doesn't serve it as it was trained."""


class RefusedByEngine(AdapterBroken):
    """This engine won't have it as it is set up now. Set up otherwise it may, so that is no judgement for ever."""


OF_ONE_ENGINE = (ProofFailed, RefusedByEngine)
"""What is wrong with an adapter at one engine. Any other AdapterBroken is about its folder."""


class EngineNotSetUp(EngineUnavailable):
    """This engine can load or prove no adapters at all, or doesn't see their folder."""


def not_loaded(name: str, path: Path, error: EngineRefused, has_lora: bool | None) -> AdapterBroken | EngineUnavailable:
    """Why an engine doesn't load an adapter, by what it answered. `has_lora`: as it was started, if it says so."""
    if error.status == 409:
        return EngineUnavailable(f"The engine can't take {name} now: {error.message}", retry_after=1)
    if error.status == 404 or has_lora is False:
        return EngineNotSetUp(
            f"The engine can't load {name} from {path}: {error.message}",
            "It needs the adapters folder under the same path, and vLLM --enable-lora and "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True.",
        )
    return RefusedByEngine(
        f"The engine refused to load {name}: {error.message}",
        "Mend that at the engine, then ask for the adapter again.",
    )


def not_scored(name: str, error: EngineRefused) -> RefusedByEngine | EngineNotSetUp:
    """Why an engine that holds what it did doesn't score an adapter's probes, by what it answered."""
    if error.status == 404:
        return EngineNotSetUp(
            f"The engine can't score the probes of {name}: {error.message}",
            "It needs vLLM's /v1/completions, with prompt_logprobs.",
        )
    return RefusedByEngine(f"The engine refused to score the probes of {name}: {error.message}")


def not_proven(name: str, verdict: Verdict, alike: Sequence[str] = ()) -> AdapterBroken | EngineUnavailable:
    """Why an adapter isn't served. `alike`: the base, or the adapter, from which its probes don't tell it."""
    if verdict.engine_at_fault:
        return EngineUnavailable(
            f"{name} can't be proven. {verdict.words}", "Check engine.model, engine.dtype and vLLM's --logprobs-mode."
        )
    if verdict.cache_at_fault:
        return RefusedByEngine(
            f"{name} isn't served as it was trained. {verdict.words}", "Restart the engine, and promote it again."
        )
    if verdict.served:
        return RefusedByEngine(
            f"Nothing shows that the engine serves {name}: on its probes it can't be told from {' or '.join(alike)}, "
            "as it changes less than the engine's log-probabilities are off.",
            "Learn from more feedback, serve in float32 (engine.dtype), or set rollout.allow_untold to true, then "
            "promote it again.",
        )
    return ProofFailed(f"{name} isn't served as it was trained. {verdict.words}")


class Refusals:
    """Those of one engine, by adapter. Times are `time.monotonic`'s, in seconds."""

    def __init__(self) -> None:
        self._broken: dict[str, AdapterBroken] = {}
        self._tried_at: dict[str, float] = {}  # of those that are of this engine
        self._unreadable: dict[str, tuple[float, AdapterUnreachable]] = {}

    def why(self, name: str) -> AdapterBroken | None:
        """What is wrong with it: its folder, or what this engine says."""
        return self._broken.get(name)

    def unreadable(self, name: str) -> tuple[float, AdapterUnreachable] | None:
        """Since when its files can't be read, and why."""
        return self._unreadable.get(name)

    def lately(self, name: str) -> AdapterBroken | None:
        """Why this engine isn't made to load it again yet; None where it may be tried."""
        since = self._tried_at.get(name, float("-inf"))
        return self._broken.get(name) if time.monotonic() - since < REFUSAL_SECONDS else None

    @contextmanager
    def noting(self, name: str) -> Iterator[None]:
        """Remember what the block raises, if that is why it can't be served."""
        try:
            yield
        except AdapterBroken as error:
            self._unreadable.pop(name, None)
            self._broken[name] = error
            if isinstance(error, OF_ONE_ENGINE):
                self._tried_at[name] = time.monotonic()
            raise
        except AdapterUnreachable as error:
            since, _ = self._unreadable.get(name, (time.monotonic(), error))
            self._unreadable[name] = (since, error)
            raise

    def was_read(self, name: str) -> None:
        """Its files can be read."""
        self._unreadable.pop(name, None)

    def forgive(self, name: str) -> None:
        """Nothing is wrong with it any more, or it has been judged: it may be tried again at once."""
        self._broken.pop(name, None)

    def clear(self) -> None:
        """The engine may be another by now: what was wrong with all of them counts no more."""
        self._broken.clear()
        self._tried_at.clear()
        self._unreadable.clear()
