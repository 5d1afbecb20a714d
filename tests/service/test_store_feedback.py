"""Feedback: checked, stored once, changed, withdrawn, and read by the learner in the order of acknowledgement."""

from __future__ import annotations

import json
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import BadInput, Conflict, NotFound
from service.store.identifiers import new_id
from service.store.queries import feedback as queries
from service.store.session import Store
from service.wire import (
    FEEDBACK,
    Comparison,
    Correction,
    Critique,
    Feedback,
    Label,
    Ranking,
    ReplyRef,
    Score,
    StoredFeedback,
    Thumb,
)
from tests.fixtures.stores import add_chat
from tests.fixtures.threads import at_once

ADA, EVE = "name:ada", "name:eve"


def give(store: Store, judgement: Feedback, caller: str = ADA, key: str | None = None) -> StoredFeedback:
    with store.begin() as tx:
        return queries.add_feedback_once(tx, caller, judgement, key)[0]


def _all_kinds(exchange_id: str) -> list[Feedback]:
    a, b, c = (ReplyRef(exchange_id=exchange_id, index=index) for index in range(3))
    return [
        Thumb(exchange_id=exchange_id, good=True, comment="nice"),
        Score(exchange_id=exchange_id, index=1, score=7),
        Label(exchange_id=exchange_id, labels=("wrong", "off-topic")),
        Critique(exchange_id=exchange_id, text="Too long, \u2603 and 'quoted'"),
        Correction(exchange_id=exchange_id, text="Good day!"),
        Comparison(a=a, b=b, verdict="both_bad", strength=3),
        Ranking(order=((b,), (a,)), failed=(c,)),
    ]


def test_every_kind_comes_back_as_it_was_sent(store: Store) -> None:
    exchange_id = add_chat(store, replies=("A", "B", "C"))
    sent = _all_kinds(exchange_id)
    stored = [give(store, judgement) for judgement in sent]
    with store.read() as tx:
        listed = queries.list_feedback(tx, ADA)
        assert queries.get_feedback(tx, ADA, stored[0].id) == stored[0]
        stats = queries.stats(tx)
    assert [one.feedback for one in reversed(listed)] == sent
    assert stats.total == 7 and set(stats.by_kind.values()) == {1} and len(stats.by_kind) == 7
    assert (stats.people, stats.withdrawn, stats.since_last_run) == (1, 0, 6)  # all but the label


def test_an_exchange_of_somebody_else_looks_like_none_at_all(store: Store) -> None:
    exchange_id = add_chat(store, caller=EVE)
    with pytest.raises(NotFound) as other:
        give(store, Thumb(exchange_id=exchange_id, good=True))
    with pytest.raises(NotFound) as unknown:
        give(store, Thumb(exchange_id="chatcmpl-x", good=True))
    assert str(other.value).replace(exchange_id, "X") == str(unknown.value).replace("chatcmpl-x", "X")


def test_a_reply_that_is_not_there_is_refused(store: Store) -> None:
    exchange_id = add_chat(store)
    with pytest.raises(BadInput, match="has no reply 1; it has 1"):
        give(store, Thumb(exchange_id=exchange_id, index=1, good=True))


def test_a_correction_that_changes_nothing_is_refused(store: Store) -> None:
    exchange_id = add_chat(store, replies=("Hi!",))
    with pytest.raises(BadInput, match="equals the reply"):
        give(store, Correction(exchange_id=exchange_id, text=" Hi!\n"))


def test_replies_to_different_messages_can_not_be_compared(store: Store) -> None:
    one, same, other = add_chat(store), add_chat(store), add_chat(store, prompt="Bye")
    a, b, c = (ReplyRef(exchange_id=exchange_id) for exchange_id in (one, same, other))
    give(store, Comparison(a=a, b=b, verdict="tie"))
    with pytest.raises(BadInput, match="different messages"):
        give(store, Comparison(a=a, b=c, verdict="a"))
    with pytest.raises(BadInput, match="different messages"):
        give(store, Ranking(order=((a, b), (c,))))


def test_one_of_several_exchanges_that_is_not_ones_own_is_enough_to_refuse(store: Store) -> None:
    mine, hers = add_chat(store), add_chat(store, caller=EVE)
    with pytest.raises(NotFound):
        give(store, Comparison(a=ReplyRef(exchange_id=mine), b=ReplyRef(exchange_id=hers), verdict="a"))


def test_changing_replaces_the_judgement_and_makes_it_news(store: Store) -> None:
    exchange_id = add_chat(store)
    first = give(store, Thumb(exchange_id=exchange_id, good=True))
    give(store, Thumb(exchange_id=exchange_id, good=True))
    with store.begin() as tx:
        seen = queries.last_position(tx)
        changed = queries.change_feedback(tx, ADA, first.id, Thumb(exchange_id=exchange_id, good=False))
        assert queries.count_since(tx, seen) == 1
        unchanged = queries.change_feedback(tx, ADA, first.id, Thumb(exchange_id=exchange_id, good=False))
        assert queries.count_since(tx, seen) == 1
    assert unchanged == changed
    assert changed.id == first.id and changed.created_at == first.created_at
    assert changed.feedback == Thumb(exchange_id=exchange_id, good=False)
    third = give(store, Thumb(exchange_id=exchange_id, good=False))
    with store.read() as tx:
        order = [row.id for row in queries.active_feedback(tx, queries.last_position(tx))]
        old = [row.id for row in queries.active_feedback(tx, seen)]
    assert order[-2:] == [first.id, third.id] and first.id not in old


def test_a_judgement_stays_of_its_kind_and_about_its_conversation(store: Store) -> None:
    exchange_id, elsewhere = add_chat(store), add_chat(store)
    given_ = give(store, Thumb(exchange_id=exchange_id, good=True))
    with store.begin() as tx:
        with pytest.raises(BadInput, match="is a thumb and can't become a score"):
            queries.change_feedback(tx, ADA, given_.id, Score(exchange_id=exchange_id, score=2))
        with pytest.raises(BadInput, match="another conversation"):
            queries.change_feedback(tx, ADA, given_.id, Thumb(exchange_id=elsewhere, good=True))


def test_withdrawn_feedback_is_learned_from_no_more(store: Store) -> None:
    exchange_id = add_chat(store)
    given_ = give(store, Thumb(exchange_id=exchange_id, good=True))
    with store.begin() as tx:
        withdrawn = queries.withdraw_feedback(tx, ADA, given_.id)
        assert queries.withdraw_feedback(tx, ADA, given_.id) == withdrawn
    with store.begin() as tx:
        assert queries.active_feedback(tx, queries.last_position(tx)) == []
        assert queries.count_since(tx, 0) == 0
        assert queries.stats(tx).withdrawn == 1
        assert queries.get_feedback(tx, ADA, given_.id).withdrawn
        with pytest.raises(Conflict, match="was withdrawn"):
            queries.change_feedback(tx, ADA, given_.id, Thumb(exchange_id=exchange_id, good=False))


def test_nobody_sees_or_touches_what_others_gave(store: Store) -> None:
    exchange_id = add_chat(store)
    mine = give(store, Thumb(exchange_id=exchange_id, good=True))
    with store.begin() as tx:
        assert queries.list_feedback(tx, EVE) == []
        for touch in (queries.get_feedback, queries.withdraw_feedback):
            with pytest.raises(NotFound):
                touch(tx, EVE, mine.id)
        with pytest.raises(NotFound):
            queries.change_feedback(tx, EVE, mine.id, Thumb(exchange_id=exchange_id, good=False))


def test_feedback_is_listed_newest_first_page_by_page(store: Store) -> None:
    exchange_id = add_chat(store)
    made = [give(store, Thumb(exchange_id=exchange_id, good=True)).id for _ in range(5)]
    with store.read() as tx:
        first = [one.id for one in queries.list_feedback(tx, ADA, limit=2)]
        rest = [one.id for one in queries.list_feedback(tx, ADA, after=first[-1])]
    assert first + rest == made[::-1]


def test_the_same_send_twice_is_stored_once(store: Store) -> None:
    exchange_id = add_chat(store)
    once = give(store, Thumb(exchange_id=exchange_id, good=True), key="k")
    again = give(store, Thumb(exchange_id=exchange_id, good=True), key="k")
    assert once == again
    with pytest.raises(Conflict, match="another body"):
        give(store, Thumb(exchange_id=exchange_id, good=False), key="k")
    hers = add_chat(store, caller=EVE)
    assert give(store, Thumb(exchange_id=hers, good=True), EVE, key="k").id != once.id
    with store.read() as tx:
        assert queries.stats(tx).total == 2


def test_the_same_send_at_the_same_moment_is_stored_once(store: Store) -> None:
    exchange_id = add_chat(store)
    answers: list[StoredFeedback] = []

    def send() -> None:
        answers.append(give(store, Thumb(exchange_id=exchange_id, good=True), key="k"))

    at_once(*[send] * 6)
    assert len(answers) == 6 and len({answer.id for answer in answers}) == 1


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_an_idempotency_key_of_no_sensible_length_is_refused(sqlite_store: Store, key: str) -> None:
    exchange_id = add_chat(sqlite_store)
    with pytest.raises(BadInput, match="1 to 255"):
        give(sqlite_store, Thumb(exchange_id=exchange_id, good=True), key=key)


def test_a_refused_send_leaves_its_idempotency_key_free(store: Store) -> None:
    exchange_id = add_chat(store, replies=("Hi!",))
    with pytest.raises(BadInput):
        give(store, Correction(exchange_id=exchange_id, text="Hi!"), key="k")
    give(store, Correction(exchange_id=exchange_id, text="Hello!"), key="k")


def test_positions_follow_the_order_in_which_feedback_becomes_visible(store: Store) -> None:
    """Whoever has seen position p has seen everything up to p, whatever is written at the same time."""
    exchange_id = add_chat(store)
    stop = threading.Event()
    behind: list[str] = []

    def watch() -> None:
        seen: set[int] = set()
        while not stop.is_set():
            with store.read() as tx:
                found = {row.position for row in queries.active_feedback(tx, 1 << 30)}
            if seen and any(position < max(seen) for position in found - seen):
                behind.append(f"{sorted(found - seen)} came after {max(seen)}")
            seen |= found

    watcher = threading.Thread(target=watch)
    watcher.start()
    thumb = Thumb(exchange_id=exchange_id, good=True)
    writers = [threading.Thread(target=lambda: [give(store, thumb) for _ in range(8)]) for _ in range(5)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    stop.set()
    watcher.join()
    assert behind == []


_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=40).filter(str.strip)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(sends=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([ADA, EVE]), _TEXT), min_size=1, max_size=12))
def test_idempotency_keys_behave_as_a_dictionary_per_caller(store: Store, sends: list[tuple[str, str, str]]) -> None:
    exchanges = {caller: add_chat(store, caller=caller, replies=("\u2603",)) for caller in (ADA, EVE)}
    keys = {letter: new_id("key") for letter in "abc"}
    known: dict[tuple[str, str], StoredFeedback] = {}
    for letter, caller, words in sends:
        judgement = Critique(exchange_id=exchanges[caller], text=words)
        before = known.get((caller, letter))
        if before is not None and before.feedback != judgement:
            with pytest.raises(Conflict):
                give(store, judgement, caller, keys[letter])
        else:
            stored = give(store, judgement, caller, keys[letter])
            assert before is None or stored == before
            known[caller, letter] = stored
    with store.read() as tx:
        for (caller, _), stored in known.items():
            found = queries.get_feedback(tx, caller, stored.id)
            assert json.loads(FEEDBACK.dump_json(found.feedback)) == json.loads(FEEDBACK.dump_json(stored.feedback))
