"""What curation makes of a home's feedback."""

from __future__ import annotations

from learner.curate import Curated, curate
from learner.snapshot import collect
from service.settings import LearnerSettings
from service.store.queries import feedback
from service.wire import Thumb
from tests.learner.store_fixtures import Home, tokenize


def curated(home: Home, max_length: int | None = None, base: str | None = None, **settings: object) -> Curated:
    with home.store.read() as tx:
        frozen = collect(tx, feedback.last_position(tx), tokenize, base)
    return curate(frozen, LearnerSettings(**settings), max_length)


def preferences(found: Curated) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    return {(pair.chosen, pair.rejected) for pair in found.train.pairs if not pair.tie}


def thumb(home: Home, reply: str, good: bool, caller: str = "name:ann", **chat: object) -> str:
    exchange = home.chat(reply, caller=caller, **chat)  # type: ignore[arg-type]
    return home.judge(Thumb(exchange_id=exchange, good=good), caller)
