"""The constitutions that were in effect, what they made of replies, and the pairs that a snapshot takes of it."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from service.store.queries import constitutions, exchanges, revisions
from service.store.queries.exchanges import NewReply
from service.store.queries.revisions import Ended, NewRevision
from service.store.session import Store
from tests.fixtures.stores import add_chat

BUILT_IN = "0" * 64


def put(store: Store, content: str) -> tuple[str, bool]:
    """The name of what is in effect then, and whether it is new."""
    with store.begin() as tx:
        row, is_new = constitutions.put_in_effect(tx, f"# {content}", content, "name:op", "why", BUILT_IN)
        return row.name if row is not None else "c0", is_new


def revision(
    before: str, after: str | None, ended: Ended = "revised", finish: str = "stop", odds: float | None = None
) -> NewRevision:
    def reply(said: str) -> NewReply:
        return NewReply(said, finish, [len(said), 2], [-0.5, float("-inf")] if said == "draft" else [])

    made = reply(after) if after is not None else None
    return NewRevision(1, "c1", "1" * 64, "no-harm", f"Of {before}.", reply(before), made, ended, "", 0.5, odds)


def test_the_newest_is_in_effect_and_the_same_again_is_none(store: Store) -> None:
    assert put(store, BUILT_IN) == ("c0", False)
    assert put(store, "a") == ("c1", True)
    assert put(store, "a") == ("c1", False)
    assert put(store, "b") == ("c2", True)
    assert put(store, "a") == ("c3", True)  # an older one back in effect
    with store.read() as tx:
        newest = constitutions.in_effect(tx)
        assert newest is not None and (newest.name, newest.text, newest.note) == ("c3", "# a", "why")
        assert [row.name for row in constitutions.list_constitutions(tx)] == ["c3", "c2", "c1"]
        found = constitutions.get_constitution(tx, "c2")
        assert found is not None and found.sha256 == "b"


@pytest.mark.parametrize("name", ["c0", "c9", "c", "1", "c-1", "c1e1", "c99999999999999999999", "c²", ""])
def test_a_name_that_names_none_finds_none(store: Store, name: str) -> None:
    put(store, "a")
    with store.read() as tx:
        assert constitutions.get_constitution(tx, name) is None


def test_revisions_are_kept_in_order_and_make_a_pair_of_first_and_last(store: Store) -> None:
    exchange = add_chat(store)
    with store.begin() as tx:
        revisions.add_revisions(
            tx, exchange, [revision("draft", "better", odds=0.8), revision("better", "the best", odds=0.7)]
        )
        revisions.add_revisions(tx, exchange, [])
    with store.read() as tx:
        first, second = revisions.revisions_of(tx, exchange)
        assert (first.index, first.before, first.after, second.after) == (0, "draft", "better", "the best")
        assert first.before_logprobs == [-0.5, exchanges.LEAST_LOGPROB] and second.before_logprobs == []
        last = revisions.last_position(tx)
        (pair,) = revisions.revision_pairs(tx, last)
        assert list(revisions.revision_pairs(tx, first.position - 1)) == []
    assert (pair.position, pair.exchange_id, pair.adapter, pair.base) == (last, exchange, "base", "sprout")
    assert (pair.prompt_token_ids, pair.chosen_token_ids, pair.rejected_token_ids) == ([1, 2, 3], [8, 2], [5, 2])
    assert pair.messages == [{"role": "user", "content": "Hello"}]
    assert (pair.constitution, pair.principle, pair.critique) == ("c1", "no-harm", "Of better.")
    assert (pair.caller, pair.odds) == ("name:ada", 0.7)


def test_what_teaches_nothing_is_no_pair(store: Store) -> None:
    for steps in (
        [revision("draft", None, "nothing wrong")],
        [revision("draft", None, "out of time")],
        [revision("draft", " draft ")],
        [revision("draft", "worse", "no better", odds=0.2)],
        [revision("draft", "cut off in the", finish="length")],
    ):
        exchange = add_chat(store)
        with store.begin() as tx:
            revisions.add_revisions(tx, exchange, steps)
    kept = add_chat(store)
    with store.begin() as tx:
        revisions.add_revisions(tx, kept, [revision("draft", "better"), revision("better", None, "failed")])
    with store.read() as tx:
        (pair,) = revisions.revision_pairs(tx, revisions.last_position(tx))
    assert pair.exchange_id == kept and pair.odds is None


def test_pairs_of_exchanges_that_are_gone_are_left_out(sqlite_store: Store) -> None:
    gone, kept = add_chat(sqlite_store), add_chat(sqlite_store)
    with sqlite_store.begin() as tx:
        for exchange in (gone, kept):
            revisions.add_revisions(tx, exchange, [revision("draft", "better")])
    sqlite_store._driver.execute("PRAGMA foreign_keys=OFF")
    with sqlite_store.begin() as tx:
        tx.execute(text("DELETE FROM exchanges WHERE id = :id"), {"id": gone})
    with sqlite_store.read() as tx:
        found = list(revisions.revision_pairs(tx, revisions.last_position(tx)))
    assert [pair.exchange_id for pair in found] == [kept]
