"""Which prompts engines go away over. Such an engine serves chats, too, so what ends it is not asked for ever.

Several requests are under way at once, and any of them may be why an engine went away, or none. All of these prompts
are suspects: each is asked by itself from then on (`learner.passing`), and is cleared by its answer. One over which an
engine goes away again is left out of the training, and of later attempts at it: a file says so.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from learner.batch import TokenIds
from learner.counted import counted
from learner.run_folder import write_whole
from service.errors import TrainingFailed

MOST_DEATHS = 2
"""Of engines, with a prompt under way, after which it is asked no more."""
MOST_LEFT_OUT = 0.1
"""Share of a training's prompts that may be left out so, one in any case: where it is more, the engine is to blame."""
SHOWN = 200
"""Characters of a prompt, its last ones."""

log = logging.getLogger("hone.learner")


class Suspects:
    """Of one training. `left_out`: prompts that are asked no more. `show`: a prompt for people, in the log. `kept`: the
    file that tells a later attempt of them, and what an earlier one wrote; None: nothing is kept."""

    def __init__(self, show: Callable[[TokenIds], str], kept: Path | None = None) -> None:
        self._show, self._kept = show, kept
        self.left_out, self._asked = _read(kept) if kept is not None else (set[TokenIds](), set[TokenIds]())
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
                self._write()
        if len(self.left_out) > max(1, int(MOST_LEFT_OUT * len(self._asked))):
            raise TrainingFailed(
                f"Engines went away again and again over what this training asks: over {len(self.left_out)} of "
                f"{len(self._asked)} prompts, each asked by itself.",
                "See the engine's log: it seems that it can't sample with this adapter. With learner.rollouts = "
                '"trainer" the trainer samples itself.',
            )

    def _write(self) -> None:
        if self._kept is None:
            return
        try:
            write_whole(self._kept, json.dumps({"left_out": sorted(self.left_out), "asked": sorted(self._asked)}))
        except OSError as error:
            log.warning("%s can't be written, so a later attempt asks these prompts again: %s", self._kept, error)


def _read(path: Path) -> tuple[set[TokenIds], set[TokenIds]]:
    """The prompts that are left out, and all that were asked; none where no attempt kept any."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        left_out, asked = ({tuple(map(int, prompt)) for prompt in kept[name]} for name in ("left_out", "asked"))
    except FileNotFoundError:
        return set(), set()
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s is of no use, so prompts that engines went away over are asked again: %s", path, error)
        return set(), set()
    if left_out:
        log.info(
            "Left out from the start, as engines went away over them in an earlier attempt: %s.",
            counted(len(left_out), "prompt"),
        )
    return left_out, asked
