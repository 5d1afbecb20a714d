"""What a step brought and may wait, waits; nothing is lost, told twice or told in another order."""

import random

from service.embedded.messages import Update
from service.embedded.outbox import Outbox


def test_the_first_token_and_the_last_wait_for_nothing() -> None:
    outbox = Outbox(interval=1.0)
    first, second, last = Update(1, 5), Update(1, 6), Update(1, 7, finish="stop")
    assert outbox.exchange([first], now=10.0) == [first]
    assert outbox.exchange([second], now=10.1) == []
    assert outbox.exchange([], now=10.2) == []
    assert outbox.exchange([last], now=10.3) == [second, last]


def test_what_waits_goes_when_the_interval_is_over_even_if_nothing_came() -> None:
    outbox = Outbox(interval=1.0)
    outbox.exchange([Update(1, 5)], now=10.0)
    waiting = [Update(1, 6), Update(1, 7)]
    for update in waiting:
        assert outbox.exchange([update], now=10.5) == []
    assert outbox.exchange([], now=11.0) == waiting
    assert outbox.exchange([], now=20.0) == []


def test_the_haste_of_one_is_not_the_others() -> None:
    outbox = Outbox(interval=1.0)
    outbox.never_hold(2)
    outbox.exchange([Update(1, 5), Update(2, 5)], now=10.0)
    hasty = Update(2, 6)
    assert outbox.exchange([Update(1, 6), hasty], now=10.1) == [hasty]
    newcomer = Update(3, 8)
    assert outbox.exchange([Update(1, 7), newcomer], now=10.2) == [newcomer]


def test_nothing_more_is_told_of_what_is_forgotten() -> None:
    outbox = Outbox(interval=1.0)
    outbox.exchange([Update(1, 5), Update(2, 5)], now=10.0)
    kept = Update(2, 6)
    outbox.exchange([Update(1, 6), kept], now=10.1)
    outbox.forget(1)
    assert outbox.exchange([], now=11.0) == [kept]


def test_without_an_interval_nothing_waits() -> None:
    outbox = Outbox(interval=0.0)
    for token in (5, 6, 7):
        update = Update(1, token)
        assert outbox.exchange([update], now=10.0) == [update]


def test_every_token_is_told_of_once_and_in_its_order() -> None:
    draws, outbox = random.Random(0), Outbox(interval=0.3)
    left = {sequence: draws.randrange(1, 30) for sequence in range(20)}
    lengths, now = dict(left), 0.0
    for sequence in range(0, 20, 5):
        outbox.never_hold(sequence)
    told: dict[int, list[int]] = {sequence: [] for sequence in left}
    while left:
        now += draws.random() / 5
        step = []
        for sequence in draws.sample(sorted(left), draws.randrange(1, len(left) + 1)):
            left[sequence] -= 1
            step.append(Update(sequence, lengths[sequence] - left[sequence], finish=None if left[sequence] else "stop"))
            if not left[sequence]:
                del left[sequence]
        for update in outbox.exchange(step, now):
            told[update.sequence].append(update.token)
    assert told == {sequence: list(range(1, length + 1)) for sequence, length in lengths.items()}
