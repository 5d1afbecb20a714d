"""Which prompts engines go away over. Such an engine serves chats, too, so what ends it is not asked for ever.

Several requests are under way at once, and any of them may be why an engine went away, or none. All of these prompts
are suspects: each is asked by itself from then on (`learner.passing`), and is cleared by its answer. One over which an
engine goes away again is left out of the training.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable

from learner.batch import TokenIds
from service.errors import TrainingFailed

MOST_DEATHS = 2
"""Of engines, with a prompt under way, after which it is asked no more."""
MOST_LEFT_OUT = 0.1
"""Share of a training's prompts that may be left out so, one in any case: where it is more, the engine is to blame."""
SHOWN = 200
"""Characters of a prompt, its last ones."""

log = logging.getLogger("hone.learner")


class Suspects:
    """Of one training. `left_out`: prompts that are asked no more. `show`: a prompt for people, in the log."""

    def __init__(self, show: Callable[[TokenIds], str]) -> None:
        self._show = show
        self.left_out: set[TokenIds] = set()
        self._asked: set[TokenIds] = set()
        self._deaths: Counter[TokenIds] = Counter()

    def __contains__(self, prompt: TokenIds) -> bool:
        return self._deaths[prompt] > 0

    def ask(self, prompts: Iterable[TokenIds]) -> None:
        """They belong to the training."""
        self._asked.update(prompts)

    def clear(self, prompt: TokenIds) -> None:
        """It was answered."""
        self._deaths.pop(prompt, None)

    def went_away_over(self, prompts: Iterable[TokenIds]) -> None:
        """An engine did, with these under way. Raises TrainingFailed when it makes too many that are left out."""
        for prompt in prompts:
            self._deaths[prompt] += 1
            if self._deaths[prompt] >= MOST_DEATHS:
                self.clear(prompt)
                self.left_out.add(prompt)
                shown = self._show(prompt)[-SHOWN:]
                log.warning("A prompt is left out, over which engines went away %d times: …%s", MOST_DEATHS, shown)
        if len(self.left_out) > max(1, int(MOST_LEFT_OUT * len(self._asked))):
            raise TrainingFailed(
                f"Engines went away again and again over what this training asks: over {len(self.left_out)} of "
                f"{len(self._asked)} prompts, each asked by itself.",
                "See the engine's log: it seems that it can't sample with this adapter. With learner.rollouts = "
                '"trainer" the trainer samples itself.',
            )
