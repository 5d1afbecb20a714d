"""All replicas together: which of them serve, and what their refusals say about an adapter.

What goes wrong is somebody's. A broken folder, or an adapter that no engine serves as it was trained, is the adapter's
fault. What every engine refuses as it is set up now may be served once they are set up otherwise. Files that can't be
read now, and an engine that does otherwise than its fellows, is away, or is not set up to load adapters, say nothing
about the adapter; nor do refusals while a fellow is away, which may serve it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from service.adapters.engine import AdapterEngine
from service.adapters.refusals import OF_ONE_ENGINE, RefusedByEngine
from service.adapters.replica import Replica
from service.errors import AdapterBroken, AdapterUnreachable, EngineUnavailable
from service.store.queries.adapters import BASE
from service.store.tables import Serving

UNREADABLE_SECONDS = 15.0
"""For so long an adapter is waited for while its files can't be read."""
AWAY_SECONDS = 600.0
"""For so long what is live is waited for while the engines that are there refuse it and others are away: a large model
takes its time to load."""

_log = logging.getLogger(__name__)
AnyReplica = Replica[AdapterEngine]


def called_otherwise(base: str, url: str, other: str) -> str:
    """What is wrong with an engine that calls its model `base`, while requests ask the one at `url` for `other`."""
    return (
        f"It serves another model, or the same by another name: {base}; {url} serves {other}. Serve one base model "
        "everywhere, under one name (--served-model-name)."
    )


class Fleet:
    """The replicas, and judgements that rest on what several of them say."""

    def __init__(self, replicas: Sequence[AnyReplica]) -> None:
        self.replicas = tuple(replicas)
        self.leaving: tuple[AnyReplica, ...] = ()  # taken out, with requests under way
        self.live = BASE  # as it is desired
        self._refused: tuple[str, float] | None = None  # what is live, by all there while others are away, since when

    @property
    def serving(self) -> list[AnyReplica]:
        """Those that get requests."""
        return [replica for replica in self.replicas if replica.serves]

    @property
    def reached(self) -> list[AnyReplica]:
        """Those that are there, as far as known."""
        return [replica for replica in self.replicas if replica.is_reached]

    @property
    def loaded(self) -> frozenset[str]:
        """The adapters that every replica that gets requests has been proven to serve, as far as known."""
        loaded = [replica.loaded for replica in self.serving]
        return frozenset.intersection(*loaded) if loaded else frozenset()

    @property
    def absences(self) -> str:
        """Which replicas get no requests, and why."""
        absent = [(replica.url, str(replica.problem)) for replica in self.replicas if not replica.serves]
        return " ".join(said if url in said else f"{url} gets no requests: {said}" for url, said in absent)

    def admit(self, replica: AnyReplica) -> bool:
        """Let it have requests; False where it isn't reached, or lacks what is live by now.

        Raises EngineUnavailable where it serves another model than its fellows.
        """
        if not replica.is_reached or self.live in replica.lacks():
            return False
        for fellow in self.check_model(replica):
            fellow.eject(str(fellow.other_model))
        replica.serves, replica.problem = True, None
        _log.info("%s gets requests.", replica.url)
        return True

    def check_model(self, replica: AnyReplica) -> list[AnyReplica]:
        """The fellows that give way to it: they serve another model than is asked for, and nothing has proven them.

        Raises EngineUnavailable where it serves another model than a fellow that gets requests.
        """
        others = [fellow for fellow in self.serving if fellow.base != replica.base]
        for fellow in others:
            if self.live != BASE or fellow.other_model is None or replica.other_model is not None:
                raise EngineUnavailable(replica.other_model or called_otherwise(replica.base, fellow.url, fellow.base))
        return others

    def take_in(self, replica: AnyReplica) -> None:
        """It gets requests once it is admitted."""
        self.forget(replica)
        self.replicas += (replica,)

    def take_out(self, replica: AnyReplica) -> None:
        """It is asked and judged no more; until `forget` it is told of."""
        self.replicas = tuple(one for one in self.replicas if one is not replica)
        self.leaving += (replica,)

    def forget(self, replica: AnyReplica) -> None:
        """Nothing is under way there any more, or it is back."""
        self.leaving = tuple(one for one in self.leaving if one is not replica)

    def want(self, desired: Serving) -> None:
        """What each replica must hold, and what it may have to make room for."""
        self.live = desired.live
        needed = tuple(filter(None, (desired.live, desired.canary)))
        for replica in self.replicas:
            replica.want(needed, desired.requested, desired.previous)

    def is_served(self, name: str) -> bool:
        """Whether some replica was proven to serve it, as far as known."""
        return any(name in replica.loaded for replica in self.replicas)

    def verdict(self, name: str, replicas: Sequence[AnyReplica]) -> AdapterBroken | None:
        """What is wrong with an adapter: its folder, or that none of these replicas serves it.

        Of several reasons one that is no judgement for ever counts: set up otherwise, that engine might have served it.
        """
        refusals = [error for replica in replicas if (error := replica.refusals.why(name)) is not None]
        broken = [error for error in refusals if not isinstance(error, OF_ONE_ENGINE)]
        if broken:
            return broken[0]
        if not refusals or len(refusals) < len(replicas):
            return None
        return next((error for error in refusals if isinstance(error, RefusedByEngine)), refusals[0])

    def may_be_served_elsewhere(self, verdict: AdapterBroken) -> bool:
        """Whether it rests on what engines say, and others, which may say otherwise, are away."""
        return isinstance(verdict, OF_ONE_ENGINE) and len(self.reached) < len(self.replicas)

    def why_lost(self) -> AdapterBroken | AdapterUnreachable | None:
        """Why no replica can be made to serve what is live, if that is certain or has lasted."""
        if self.live == BASE or self.is_served(self.live):
            self._refused = None
            return None
        return self._lasting_verdict() or self._loss()

    def forgive(self, name: str) -> None:
        """It has been judged; whoever asks for it again wants it tried again."""
        for replica in self.replicas:
            replica.refusals.forgive(name)

    def _lasting_verdict(self) -> AdapterBroken | None:
        """What is wrong with it; while engines are away that may serve it, only once that has lasted."""
        live = self.live
        verdict = self.verdict(live, self.reached)
        if verdict is None or not self.may_be_served_elsewhere(verdict):
            return verdict
        if self._refused is None or self._refused[0] != live:
            self._refused = live, time.monotonic()
            _log.warning("%s is live and waits for the engines that are away. %s", live, verdict)
        return verdict if time.monotonic() - self._refused[1] >= AWAY_SECONDS else None

    def _loss(self) -> AdapterUnreachable | None:
        """Why none of those that are there can be given it, if that has lasted: nothing else is wrong with it."""
        told = (replica.refusals.unreadable(self.live) for replica in self.reached)
        unreadable = [one for one in told if one is not None]
        if not unreadable or len(unreadable) < len(self.reached):
            return None
        since, error = min(unreadable, key=lambda one: one[0])
        return error if time.monotonic() - since >= UNREADABLE_SECONDS else None
