"""Keys and values of sequences that have ended, for prompts that begin as they did (vLLM's automatic prefix caching).

They lie in rows of the KV cache that no running sequence needs, from the last one downwards, and are forgotten when one
does: they take no memory beyond the cache's bound and hold nobody up. A conversation's next turn, a critique of a reply
and a question asked again in another order all begin with what was computed before.
"""

from dataclasses import dataclass

from service.embedded.kv_cache import KvCache
from service.embedded.model import Adapter

MOST_KEPT = 16  # ended sequences


@dataclass(eq=False)
class KeptRow:
    """What one ended sequence left: `tokens` are those whose keys and values its row holds."""

    tokens: list[int]
    adapter: Adapter | None
    used: int  # when, counted in uses of any of them


class PrefixCache:
    """The kept rows. `most`: of them at once; 0 keeps nothing."""

    def __init__(self, cache: KvCache, most: int = MOST_KEPT) -> None:
        self._cache = cache
        self._most = most
        self._kept: dict[int, KeptRow] = {}  # by row
        self._layout = cache.layout
        self._uses = 0

    def make_way(self, running: int) -> None:
        """Forget what is in the first `running` rows, or where the rows were before they were laid out anew."""
        if self._layout != self._cache.layout:
            self._kept.clear()
            self._layout = self._cache.layout
        for row in [row for row in self._kept if row < running]:
            del self._kept[row]

    def longest(self, tokens: list[int], adapter: Adapter | None) -> tuple[int, int | None]:
        """How many of `tokens` the row holds that holds most of them from the first on, and which row that is."""
        best, found = 0, None
        for row, kept in self._kept.items():
            if kept.adapter is adapter:
                shared = common_prefix(tokens, kept.tokens)
                if shared > best:
                    best, found = shared, row
        if found is not None:
            self._use(self._kept[found])
        return best, found

    def keep(self, row: int, tokens: list[int], adapter: Adapter | None, running: int) -> None:
        """Move the row of a sequence that ends, with the keys and values of `tokens`, beyond the `running` ones.

        Where that is a copy, what it has in common with the kept row that it went on from stays where it is.
        """
        self.make_way(running)
        shared, target = self.longest(tokens, adapter)
        if target is not None and shared == len(tokens):
            return
        if target is None or shared < len(self._kept[target].tokens):
            shared, target = 0, self._free_row(running)
        if target is not None:
            self._cache.move_row(row, target, len(tokens), shared)
            self._kept[target] = KeptRow(tokens, adapter, 0)
            self._use(self._kept[target])

    def forget(self, adapter: Adapter) -> None:
        """Let go of what was computed with an adapter, and so of the adapter."""
        self._kept = {row: kept for row, kept in self._kept.items() if kept.adapter is not adapter}

    def _free_row(self, running: int) -> int | None:
        """The last row that is free; else the one that was used longest ago; None where all are running."""
        last = self._cache.rows - 1
        if len(self._kept) < min(self._most, self._cache.rows - running):
            return next(row for row in range(last, running - 1, -1) if row not in self._kept)
        return min(self._kept, key=lambda row: self._kept[row].used, default=None)

    def _use(self, kept: KeptRow) -> None:
        self._uses += 1
        kept.used = self._uses


def common_prefix(one: list[int], other: list[int]) -> int:
    """How many tokens two lists begin with in common."""
    same, bound = 0, min(len(one), len(other))  # bisection: slices are compared much faster than single tokens
    while same < bound:
        middle = (same + bound + 1) // 2
        if one[same:middle] == other[same:middle]:
            same = middle
        else:
            bound = middle - 1
    return same
