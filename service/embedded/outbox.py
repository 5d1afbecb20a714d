"""What waits in the worker to be told to the front: a fast engine shouldn't spend both on telling of every token.

A sequence's first token, its last, and every token of a sequence that asked for it, go at once; others wait until
`interval` seconds have passed since all were told of.
"""

from service.embedded.messages import Update


class Outbox:
    """Updates in order, by what may still wait."""

    def __init__(self, interval: float) -> None:
        """`interval`: in seconds; 0: nothing waits."""
        self._interval = interval
        self._waiting: list[Update] = []
        self._patient: set[int] = set()  # sequences that have begun, and of which the next tokens may wait
        self._impatient: set[int] = set()
        self._due = 0.0

    def never_hold(self, sequence: int) -> None:
        """Tell of every token of a sequence at once."""
        self._impatient.add(sequence)

    def forget(self, sequence: int) -> None:
        """Tell no more of a sequence: nobody asks any longer."""
        self._patient.discard(sequence)
        self._impatient.discard(sequence)
        self._waiting = [update for update in self._waiting if update.sequence != sequence]

    def exchange(self, updates: list[Update], now: float) -> list[Update]:
        """Put in what a step has brought; take out what may wait no longer. `now`: in seconds, on any one clock."""
        self._waiting += updates
        if now >= self._due:
            self._due = now + self._interval
            going, self._waiting = self._waiting, []
        else:
            urgent = {update.sequence for update in updates if self._is_urgent(update)}
            if not urgent:
                return []
            going = [update for update in self._waiting if update.sequence in urgent]
            self._waiting = [update for update in self._waiting if update.sequence not in urgent]
        for update in going:
            if update.finish is not None:
                self._patient.discard(update.sequence)
                self._impatient.discard(update.sequence)
            elif update.sequence not in self._impatient:
                self._patient.add(update.sequence)
        return going

    def _is_urgent(self, update: Update) -> bool:
        return update.finish is not None or update.sequence not in self._patient
