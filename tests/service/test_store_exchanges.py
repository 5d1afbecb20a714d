"""Exchanges, conversations and keys."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from service.errors import BadInput, Conflict, NotFound
from service.store.clock import now
from service.store.identifiers import new_id
from service.store.prepared import Tx
from service.store.queries import conversations, exchanges, keys
from service.store.session import Store
from service.store.tables import Key
from tests.fixtures.stores import add_chat

Begin = Callable[[Store], AbstractContextManager[Tx]]
BEGINNINGS = pytest.mark.parametrize("begin", [Store.begin, Store.begin_plain])


@BEGINNINGS
def test_an_exchange_comes_back_token_by_token(store: Store, begin: Begin) -> None:
    new = exchanges.NewExchange(
        id=new_id("chatcmpl"),
        caller="name:ada",
        conversation_id="conv-1",
        model="hone:v3",
        adapter="v3",
        base="sprout",
        messages=[{"role": "user", "content": "What is 2 + 2? \u2603\x00\ud800"}],
        sampling={"temperature": 0.7, "stop": None},
        prompt_token_ids=(1, 2, 3),
        replies=[
            exchanges.NewReply("4 \U0001f600", "stop", (7, 8), (-0.1, -math.inf)),
            exchanges.NewReply("", None, (), ()),
        ],
        complete=False,
        base_sha256="f" * 64,
        best_of=4,
    )
    with begin(store) as tx:
        exchanges.add_exchange(tx, new)
    with store.read() as tx:
        found = exchanges.get_exchange(tx, new.id)
    assert found is not None
    assert (found.caller, found.model, found.adapter, found.base) == ("name:ada", "hone:v3", "v3", "sprout")
    assert (found.base_sha256, found.best_of) == ("f" * 64, 4)
    assert (found.messages, found.sampling) == (list(new.messages), new.sampling)
    assert (found.prompt_token_ids, found.complete) == ([1, 2, 3], False)
    assert abs((now() - found.created_at).total_seconds()) < 60
    first, second = found.replies
    assert (first.index, first.text, first.token_ids, first.finish_reason) == (0, "4 \U0001f600", [7, 8], "stop")
    assert first.logprobs == [-0.1, exchanges.LEAST_LOGPROB]
    assert (second.index, second.text, second.finish_reason, second.logprobs) == (1, "", None, [])


def test_what_people_ask_about_now_is_found_newest_first(store: Store) -> None:
    made = [add_chat(store, caller=caller) for caller in ("name:ada", "name:eve", "name:ada")]
    with store.read() as tx:
        assert [exchange.id for exchange in exchanges.recent_prompts(tx, 2)] == [made[2], made[1]]


def test_many_exchanges_are_found_by_their_ids(store: Store) -> None:
    made = [add_chat(store) for _ in range(3)]
    unknown = [f"chatcmpl-{number}" for number in range(1200)]
    with store.read() as tx:
        assert exchanges.get_exchanges(tx, [*unknown, *made, made[0]]).keys() == set(made)


@BEGINNINGS
def test_a_conversation_sticks_to_its_adapter_until_it_is_moved(store: Store, begin: Begin) -> None:
    with begin(store) as tx:
        assert conversations.desired_in(tx, "conv-1", "name:ada").began_with is None
        conversations.remember_conversation(tx, "conv-1", "name:ada", "v1")
    with begin(store) as tx:
        assert conversations.desired_in(tx, "conv-1", "name:ada").began_with == "v1"
        conversations.remember_conversation(tx, "conv-1", "name:ada", "v2")
    with begin(store) as tx:
        assert conversations.desired_in(tx, "conv-1", "name:ada").began_with == "v2"
        with pytest.raises(Conflict, match="conversation_id is taken"):
            conversations.remember_conversation(tx, "conv-1", "name:eve", "v1")
        with pytest.raises(Conflict, match="conversation_id is taken"):
            conversations.desired_in(tx, "conv-1", "name:eve")


@BEGINNINGS
def test_what_fails_half_way_leaves_nothing_and_the_next_may_write(store: Store, begin: Begin) -> None:
    with pytest.raises(ZeroDivisionError), begin(store) as tx:
        conversations.remember_conversation(tx, "conv-1", "name:ada", "v1")
        raise ZeroDivisionError
    with pytest.raises(Conflict), begin(store) as tx:
        assert conversations.desired_in(tx, "conv-1", "name:ada").began_with is None
        conversations.remember_conversation(tx, "conv-1", "name:ada", "v1")
        conversations.remember_conversation(tx, "conv-1", "name:eve", "v1")
    with begin(store) as tx:
        assert conversations.desired_in(tx, "conv-1", "name:eve").began_with is None


def test_a_key_is_found_by_its_secret_alone_and_kept_as_a_hash(store: Store) -> None:
    with store.begin() as tx:
        ada, eve = keys.create_key(tx, "user", " ada "), keys.create_key(tx, "operator", "eve")
    with store.read() as tx:
        found, other = keys.find_key(tx, ada), keys.find_key(tx, eve)
        rows = keys.list_keys(tx)
    assert found is not None and (found.name, found.role) == ("ada", "user")
    assert other is not None and (other.name, other.role) == ("eve", "operator")
    assert not any(ada in value or ada.split("_", 2)[2] in value for row in rows for value in _texts(row))


def _texts(key: Key) -> list[str]:
    return [key.prefix, key.secret_hash, key.name, key.role]


def test_what_is_no_key_in_force_is_not_found(store: Store) -> None:
    with store.begin() as tx:
        plain = keys.create_key(tx, "user", "ada")
        prefix = plain.split("_")[1]
        for wrong in (
            "",
            "hone",
            "hone_",
            f"hone_{prefix}_",
            plain[:-1],
            plain + "x",
            plain.upper(),
            "sk_a_b",
            "é_ü_ß",
        ):
            assert keys.find_key(tx, wrong) is None, wrong
        keys.revoke_key(tx, prefix)
        assert keys.find_key(tx, plain) is None
        first = keys.revoke_key(tx, prefix).revoked_at
        assert keys.revoke_key(tx, prefix).revoked_at == first
        with pytest.raises(NotFound, match="no key 'nope'"):
            keys.revoke_key(tx, "nope")
        with pytest.raises(BadInput, match="needs a name"):
            keys.create_key(tx, "user", "  ")
