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
from service.store.queries import adapters, conversations
from service.store.queries.conversations import Desired
from service.store.session import Tx

ALIAS = "hone"
BASE = adapters.BASE
SERVABLE = ("candidate", "canary", "live", "retired")


@dataclass(frozen=True)
class Route:
    """`alias` is the model that was asked for, `adapter` what answers it: a version or `base`."""

    alias: str
    adapter: str

    @property
    def model(self) -> str:
        """The model name that always means this adapter."""
        return f"{ALIAS}:{self.adapter}"


def route(tx: Tx, alias: str, conversation_id: str, caller: str, loaded: Collection[str]) -> Route:
    """What answers `alias` in a conversation. `loaded`: the adapters proven to be served; a canary waits for that.

    Raises ModelNotFound, and Conflict when the conversation is somebody else's.
    """
    desired = conversations.desired_in(tx, conversation_id, caller)
    if alias != ALIAS:
        return Route(alias, _named(tx, alias))
    if desired.canary is None or desired.canary not in loaded:
        return Route(alias, desired.live)
    return Route(alias, _with_canary(desired, desired.canary, conversation_id))


def resolve(tx: Session, alias: str) -> Route:
    """The same for a request that belongs to no conversation: `hone` is what is live. Raises ModelNotFound."""
    return Route(alias, adapters.serving(tx).live if alias == ALIAS else _named(tx, alias))


def _named(tx: Tx, alias: str) -> str:
    prefix, _, name = alias.partition(":")
    if prefix == ALIAS and (name == BASE or adapters.state_of(tx, name) in SERVABLE):
        return name
    raise ModelNotFound(f"There is no model {alias!r}.", "GET /v1/models lists them.", param="model")


def _with_canary(desired: Desired, canary: str, conversation_id: str) -> str:
    if desired.began_with is not None and desired.began_with in (desired.live, canary):
        return desired.began_with
    return canary if _draw(conversation_id, canary) < desired.canary_share else desired.live


def _draw(conversation_id: str, canary: str) -> float:
    """A number in [0, 1) that is always the same for one conversation and one canary."""
    digest = hashlib.sha256(f"{canary}\0{conversation_id}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
