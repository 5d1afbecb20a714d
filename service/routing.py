"""Which adapter answers: alias → adapter, the canary's share, and conversations that keep their voice.

`hone` is the live adapter, `hone:vN` that version, `hone:base` no adapter. With a canary, a conversation falls to it or
not by a hash of its id, and then keeps what it began with for as long as that is live or the canary; a promotion moves
everybody on. One short read per request decides, so that a flip holds from the next request on, in every process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy.orm import Session

from service.errors import ModelNotFound
from service.store.prepared import Tx
from service.store.queries import adapters, conversations, serving
from service.store.queries.conversations import Desired

ALIAS = "hone"
BASE = adapters.BASE
SERVABLE = ("candidate", "canary", "live", "retired")


@dataclass(frozen=True)
class Route:
    """`alias` is the model that was asked for, `adapter` what answers it: a version or `base`.

    `is_remembered`: the store has the conversation with this adapter already.
    """

    alias: str
    adapter: str
    is_remembered: bool = False

    @property
    def model(self) -> str:
        """The model name that always means this adapter."""
        return f"{ALIAS}:{self.adapter}"


def route(tx: Tx, alias: str, conversation_id: str, caller: str, loaded: Collection[str]) -> Route:
    """What answers `alias` in a conversation. `loaded`: the adapters proven to be served; a canary waits for that.

    Raises ModelNotFound, and Conflict when the conversation is somebody else's.
    """
    desired = conversations.desired_in(tx, conversation_id, caller)
    adapter = _adapter(desired, conversation_id, loaded) if alias == ALIAS else _named(tx, alias)
    return Route(alias, adapter, is_remembered=adapter == desired.began_with)


def resolve(tx: Session, alias: str) -> Route:
    """The same for a request that belongs to no conversation: `hone` is what is live. Raises ModelNotFound."""
    return Route(alias, serving.desired_state(tx).live if alias == ALIAS else _named(tx, alias))


def _named(tx: Tx, alias: str) -> str:
    prefix, _, name = alias.partition(":")
    if prefix == ALIAS and (name == BASE or adapters.state_of(tx, name) in SERVABLE):
        return name
    raise ModelNotFound(f"There is no model {alias!r}.", "GET /v1/models lists them.", param="model")


def _adapter(desired: Desired, conversation_id: str, loaded: Collection[str]) -> str:
    live, canary = desired.live, desired.canary
    if canary is None or canary not in loaded:
        return live
    if desired.began_with is not None and desired.began_with in (live, canary):
        return desired.began_with
    return canary if _draw(conversation_id, canary) < desired.canary_share else live


def _draw(conversation_id: str, canary: str) -> float:
    """A number in [0, 1) that is always the same for one conversation and one canary."""
    digest = hashlib.sha256(f"{canary}\0{conversation_id}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
