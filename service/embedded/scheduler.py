"""Who runs in the coming step: first come, first served, within the cache's bound, and nobody is ever lost.

A sequence waits in line until the cache has room for its prompt and one more token. Rows 0..d-1 of the cache belong
to the sequences that are decoding, the next ones to those whose prompts are being computed, chunk by chunk. When
decoding sequences outgrow the cache, the youngest gives up its row and goes back to the head of the line; its tokens
are kept and computed again when it is its turn (vLLM's preemption by recomputation). The eldest is never put back, and
the cache holds any one sequence of the greatest length, so the line always moves.
"""

import random
from collections import deque
from dataclasses import dataclass, field

from service.embedded.kv_cache import KvCache
from service.embedded.messages import SamplingParams, TokenLogprob
from service.embedded.model import Adapter


@dataclass(eq=False)
class Sequence:
    """One reply in the making: `tokens` is the prompt and what was sampled so far."""

    number: int
    tokens: list[int]
    params: SamplingParams
    adapter: Adapter | None
    draws: random.Random
    arrival: int
    prompt_length: int = 0
    computed: int = 0  # tokens whose keys and values are in the cache
    prompt_logprobs: list[list[TokenLogprob]] = field(default_factory=list)
    prompt_logprobs_sent: bool = False
    broken: bool = False  # its numbers were not finite: it ends with the next token

    def __post_init__(self) -> None:
        self.prompt_length = len(self.tokens)

    @property
    def wants_prompt_logprobs(self) -> bool:
        return self.params.prompt_logprobs is not None and not self.prompt_logprobs_sent

    def finish_reason(self, max_length: int) -> str | None:
        """Why the newest token is the last: "stop", "length", or None when it is not."""
        if self.tokens[-1] in self.params.stop_token_ids:
            return "stop"
        full = len(self.tokens) - self.prompt_length >= self.params.max_tokens or len(self.tokens) >= max_length
        return "length" if full else None


class Scheduler:
    """The line, the rows, and who moves between them. `version` changes whenever the decoding rows do."""

    def __init__(self, cache: KvCache) -> None:
        self.cache = cache
        self.waiting: deque[Sequence] = deque()
        self.decoding: list[Sequence] = []
        self.prefilling: list[Sequence] = []
        self.version = 0
        self.preemptions = 0

    @property
    def running(self) -> int:
        return len(self.decoding) + len(self.prefilling)

    @property
    def cached_tokens(self) -> int:
        return sum(sequence.computed for sequence in self._rows())

    def row_of(self, sequence: Sequence) -> int:
        """The cache row of a sequence whose prompt is being computed."""
        return len(self.decoding) + self.prefilling.index(sequence)

    def admit(self) -> None:
        """Let sequences from the line in, in order, as long as there is room."""
        while self.waiting:
            length = max([len(self.waiting[0].tokens) + 1, *self._needs()])
            length = min(length, self.cache.max_length)
            if not self._reserve(self.running + 1, length):
                return
            self.prefilling.append(self.waiting.popleft())

    def make_room(self) -> None:
        """See to it that every decoding row has a place for its next token; the youngest rows give way."""
        while not self._reserve(self.running, max(self._needs(), default=0)):
            youngest = max(self._rows(), key=lambda sequence: sequence.arrival)
            self.remove(youngest)
            youngest.computed = 0
            youngest.prompt_logprobs.clear()
            self._queue_again(youngest)
            self.preemptions += 1

    def start_decoding(self, sequence: Sequence) -> None:
        """A prompt is computed: its row joins the decoding ones."""
        first, row = len(self.decoding), self.row_of(sequence)
        self.prefilling.remove(sequence)
        if row != first:
            raise RuntimeError("prompts are computed in the order of their rows")
        self.decoding.append(sequence)
        self.version += 1

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out wherever it is, and close the gap in the rows."""
        if sequence in self.decoding:
            self._fill(self.decoding.index(sequence), self.decoding, 0)
            if self.prefilling:  # the decoding rows end one earlier now: the last prompt moves down to meet them
                self._rotate_prefilling()
            self.version += 1
        elif sequence in self.prefilling:
            index = self.prefilling.index(sequence)
            for later in range(index + 1, len(self.prefilling)):
                moved = self.prefilling[later]
                self.cache.move_row(len(self.decoding) + later, len(self.decoding) + later - 1, moved.computed)
            del self.prefilling[index]
        else:
            self.waiting.remove(sequence)

    def _fill(self, index: int, rows: list[Sequence], first: int) -> None:
        """Move the last of `rows` into the place of number `index`."""
        last = rows.pop()
        if index < len(rows):
            self.cache.move_row(first + len(rows), first + index, last.computed)
            rows[index] = last

    def _rotate_prefilling(self) -> None:
        """Every prompt's row moves down by one, so that the first to be ready is next to the decoding rows."""
        for offset, sequence in enumerate(self.prefilling):
            target = len(self.decoding) + offset
            if sequence.computed:
                self.cache.move_row(target + 1, target, sequence.computed)

    def _queue_again(self, sequence: Sequence) -> None:
        place = next((i for i, other in enumerate(self.waiting) if other.arrival > sequence.arrival), len(self.waiting))
        self.waiting.insert(place, sequence)

    def _rows(self) -> list[Sequence]:
        return self.decoding + self.prefilling

    def _needs(self) -> list[int]:
        """Tokens that each row must have room for before the next step ends."""
        return [len(sequence.tokens) for sequence in self.decoding] + [
            min(len(sequence.tokens) + 1, self.cache.max_length) for sequence in self.prefilling
        ]

    def _reserve(self, rows: int, length: int) -> bool:
        return self.cache.reserve([sequence.computed for sequence in self._rows()], rows, length)
