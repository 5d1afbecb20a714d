"""The slots of one engine: which adapters it holds, which of them are proven and in use, and which may go.

Nothing here speaks to the engine: the replica does, and says what came of it. Only names of versions (`v12`) are ever
unloaded; what else somebody loads into the same engine takes its slot and is theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import count

from service.errors import EngineUnavailable
from service.store.queries.adapters import BASE, number_of


class SlotsInUse(EngineUnavailable):
    """Every slot is in use, or kept for what operators ask for."""


class Slots:
    """What the engine holds, as it said last, and has been proven to serve since it was loaded: names and paths."""

    def __init__(self, most: int) -> None:
        """`most`: how many adapters the engine may be made to hold, by the settings."""
        self.told: int | None = None  # how many it holds at most, as it says itself
        self.wanted: frozenset[str] = frozenset()  # never unloaded to make room
        self.previous = BASE  # unloaded to make room only when nothing else can go
        self.held: dict[str, str] = {}
        self.proven: dict[str, str] = {}
        self._most = most
        self._users: Counter[str] = Counter()
        self._last_used: dict[str, int] = {}
        self._uses = count()

    @property
    def size(self) -> int:
        """How many adapters it may hold: what the settings say, and never more than the engine does."""
        return min(self._most, self.told or self._most)

    def see(self, held: dict[str, str]) -> frozenset[str]:
        """What the engine holds now; returns what is proven no more, as it is gone or was loaded from elsewhere."""
        self.held = held
        gone = frozenset(name for name, path in self.proven.items() if held.get(name) != path)
        for name in gone:
            del self.proven[name]
        return gone

    def prove(self, name: str) -> None:
        """It is held, and served as it was trained."""
        self.proven[name] = self.held[name]

    def note_use(self, name: str) -> None:
        """Of all it is the one that was used last."""
        self._last_used[name] = next(self._uses)

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """It doesn't go for as long as the block lasts."""
        self._users[name] += 1
        self.note_use(name)
        try:
            yield
        finally:
            self._users[name] -= 1

    def admit(self, name: str) -> None:
        """Raises EngineUnavailable where one more user of it would bind a slot that is kept for operators.

        What is in use is so already; what was live before, and the base, are never refused.
        """
        if not (self._users[name] or name in (BASE, self.previous)):
            self.check_left(name)

    def check_left(self, name: str) -> None:
        """Raises EngineUnavailable unless, with this one in use, too, operators can have loaded what they want."""
        if not self._is_left(name):
            raise self._full("in use, or kept for what operators ask for")

    def next_to_go(self, name: str) -> str | None:
        """What is to be unloaded so that `name` fits, one at a time; None once it does.

        What was used longest ago goes first, and what was live before last. Raises EngineUnavailable when all are used.
        """
        if len(self.held) < self.size:
            return None
        spare = [other for other in self._spare() if other != name]
        if not spare:
            raise self._full("in use")
        return min(spare, key=lambda other: (other == self.previous, self._age(other)))

    def too_many(self, keep: int, first: Collection[str]) -> Iterable[str]:
        """What is neither wanted nor in use, but for `keep`: those in `first`, then the last used.

        Fewer are kept where the engine has fewer slots, which may be known only since it holds them. One that somebody
        has taken hold of by its turn is passed over.
        """
        spare = sorted(self._spare(), key=lambda name: (name in first, self._age(name)), reverse=True)
        room = max(0, self.size - len(self.held) + len(spare))
        return (name for name in spare[min(keep, room) :] if not self._users[name])

    def _spare(self) -> list[str]:
        ours = (name for name in self.held if number_of(name) is not None)
        return [name for name in ours if name not in self.wanted and not self._users[name]]

    def _age(self, name: str) -> tuple[int, int]:
        """Grows with the last use; what was not used since this service started goes by its number."""
        return self._last_used.get(name, -1), number_of(name) or 0

    def _is_left(self, name: str) -> bool:
        """Whether with this one in use, too, operators can still have loaded what they want, and one more.

        That one more slot, free or of something that can be unloaded at once, is not kept from the first of all that
        only users ask for: with the fewest slots (live, canary and one) a version is served on demand all the same, and
        what operators ask for while it is waits for it to end.
        """
        if name in self.wanted:
            return True
        bound = set(self.held) - set(self._spare()) - {name}
        to_come = sum(other != BASE and other not in self.held for other in self.wanted)
        is_first = not any(self._users[other] for other in bound - self.wanted)
        return len(bound) + 1 + (to_come if is_first else max(to_come, 1)) <= self.size

    def _full(self, how: str) -> SlotsInUse:
        mend = "raise engine.max_loras" if self.told in (None, self.size) else "start it with a larger --max-loras"
        return SlotsInUse(
            f"All {self.size} adapters that the engine can hold are {how}.",
            f"Try again in a moment, or {mend}.",
            retry_after=1,
        )
