"""The engine's step: let sequences in, compute prompts in chunks, one token for every decoding row, sample, report.

No threads and no I/O here: `worker` calls `step` for ever, tests call it by hand.
"""

import math
import random
from collections.abc import Iterator

import torch
from torch import Tensor

from service.embedded.kv_cache import KvCache
from service.embedded.messages import AddSequence, Load, Update
from service.embedded.model import Adapter, DecodeBatch, Model, Stretch
from service.embedded.prefix_cache import MOST_KEPT, PrefixCache, common_prefix
from service.embedded.sampling import Sampled, Sampler, prompt_logprobs
from service.embedded.scheduler import Scheduler, Sequence

BUSY_CHUNK = 64  # prompt tokens computed per step while others decode: bounds how long they are held up
IDLE_CHUNK = 512
WORTH_COPYING = 16  # shared prompt tokens from which copying a row beats computing them again


class Engine:
    """One model, its cache, its adapters, and all sequences under way."""

    def __init__(self, model: Model, cache: KvCache, seed: int = 0, kept_rows: int = MOST_KEPT) -> None:
        """`kept_rows`: of ended sequences, for prompts that begin alike, as far as running ones leave room."""
        self.model = model
        self.cache = cache
        self.adapters: dict[str, Adapter] = {}
        self._scheduler = Scheduler(cache)
        self._prefixes = PrefixCache(cache, kept_rows)
        self._sequences: dict[int, Sequence] = {}
        self._seeds = random.Random(seed)
        self._arrivals = 0
        self._batch: DecodeBatch | None = None  # good for as long as the same rows decode in the same layout
        self._newest = torch.empty(0)  # the tokens of the last step, on the model's device
        self._sampler: Sampler | None = None
        self._sampler_rows: list[Sequence] = []
        self._version = -1
        self._prefix_queries = self._prefix_hits = 0  # prompt tokens begun with, and those of them that a row held

    @property
    def idle(self) -> bool:
        return not self._sequences

    @property
    def load(self) -> Load:
        scheduler = self._scheduler
        return Load(
            scheduler.running, len(scheduler.waiting), scheduler.cached_tokens, scheduler.preemptions,
            self._prefix_queries, self._prefix_hits,
        )  # fmt: skip

    def attach(self, adapter: Adapter) -> None:
        self.adapters[adapter.name] = adapter

    def detach(self, name: str) -> None:
        """Forget an adapter's name; sequences that began with it keep it to their end."""
        adapter = self.adapters.pop(name, None)
        if adapter is not None:
            self._prefixes.forget(adapter)

    def add(self, request: AddSequence) -> None:
        """Put a sequence in line. Its adapter must be loaded and its length within the cache's `max_length`."""
        adapter = self.adapters[request.adapter] if request.adapter is not None else None
        seed = request.params.seed if request.params.seed is not None else self._seeds.getrandbits(64)
        self._arrivals += 1
        sequence = Sequence(
            request.sequence, list(request.prompt), request.params, adapter, random.Random(seed), self._arrivals
        )
        self._sequences[sequence.number] = sequence
        self._scheduler.waiting.append(sequence)

    def abort(self, number: int) -> None:
        """Drop a sequence; its row is free for the next step. Unknown numbers have ended already."""
        sequence = self._sequences.pop(number, None)
        if sequence is not None:
            self._leave(sequence)

    @torch.inference_mode()
    def step(self) -> list[Update]:
        """Advance everybody who has a row; one `Update` for each token sampled."""
        scheduler = self._scheduler
        scheduler.make_room()
        scheduler.admit()
        self._prefixes.make_way(scheduler.running)
        rows = list(scheduler.decoding)
        budget = BUSY_CHUNK if rows else IDLE_CHUNK
        stretches = list(self._stretches(budget))
        decoded, of_prompts = self._compute(rows, stretches)
        logits = [] if decoded is None else [decoded]
        while stretches:
            for sequence, last in self._finish_prompts(stretches, of_prompts):
                rows.append(sequence)
                logits.append(last)
            budget -= sum(len(stretch.tokens) for stretch in stretches)
            stretches = list(self._stretches(budget))  # of those that waited for what they have in common
            of_prompts = self.model.prefill(self.cache, stretches) if stretches else []
        if not rows:
            return []
        every_row = torch.cat(logits) if len(logits) > 1 else logits[0]
        sampled = self._sample(rows, every_row)
        if not sampled.finite:
            self._give_up_broken(rows, every_row)
        self._newest = sampled.tokens
        return self._account(rows, sampled)

    def _compute(self, rows: list[Sequence], stretches: list[Stretch]) -> tuple[Tensor | None, list[Tensor]]:
        """The logits of the decoding rows, None where there are none, and those of each stretch."""
        if not rows:
            return None, self.model.prefill(self.cache, stretches) if stretches else []
        batch = self._batch_of(rows)
        decoded, of_prompts = (
            self.model.decode_beside(batch, stretches) if stretches else (self.model.decode(batch), [])
        )
        for sequence in rows:
            sequence.computed += 1
        return decoded, of_prompts

    def _batch_of(self, rows: list[Sequence]) -> DecodeBatch:
        batch = self._batch
        if batch is None or self._version != self._scheduler.version or batch.capacity != self.cache.capacity:
            tokens = [sequence.tokens[-1] for sequence in rows]
            positions = [len(sequence.tokens) - 1 for sequence in rows]
            batch = DecodeBatch(self.cache, tokens, positions, [sequence.adapter for sequence in rows])
            self._batch, self._version = batch, self._scheduler.version
        else:
            batch.advance(self._newest)
        return batch

    def _finish_prompts(self, stretches: list[Stretch], of_prompts: list[Tensor]) -> Iterator[tuple[Sequence, Tensor]]:
        """Note that the stretches, of the eldest prompts, are computed; yield whoever is done, with its last logits."""
        sequences = self._scheduler.prefilling[: len(stretches)]
        for sequence, stretch, logits in zip(sequences, stretches, of_prompts, strict=True):
            sequence.computed += len(stretch.tokens)
            if stretch.every:
                self._note_prompt(sequence, stretch.start, logits)
            if sequence.computed == len(sequence.tokens):
                self._scheduler.start_decoding(sequence)
                yield sequence, logits[-1:]
            else:
                self._give_up_broken([sequence], logits[-1:], stretch.row)

    def _stretches(self, budget: int) -> Iterator[Stretch]:
        """Up to `budget` of the next tokens of one prompt after the other, the eldest first, up to one that had better
        wait for what it has in common."""
        sequences = self._scheduler.prefilling
        for index, sequence in enumerate(sequences):
            row = len(self._scheduler.decoding) + index
            if budget <= 0 or (sequence.computed == 0 and self._reuse_prefix(sequence, row, sequences[:index])):
                return
            chunk = sequence.tokens[sequence.computed : sequence.computed + budget]
            budget -= len(chunk)
            tokens = torch.tensor(chunk, device=self.model.device)
            yield Stretch(row, sequence.computed, tokens, sequence.adapter, sequence.wants_prompt_logprobs)

    def _reuse_prefix(self, sequence: Sequence, row: int, coming: list[Sequence]) -> bool:
        """Copy the keys and values of a prompt's beginning from a row that has computed the same tokens.

        True, having done nothing, when one that is `coming` will have more of them.
        """
        if sequence.wants_prompt_logprobs:
            return False
        tokens = sequence.tokens[:-1]
        best, donor = self._prefixes.longest(tokens, sequence.adapter)
        for other_row, other in enumerate(self._scheduler.decoding):
            if other.adapter is sequence.adapter:
                shared = common_prefix(tokens, other.tokens[: other.computed])
                if shared > best:
                    best, donor = shared, other_row
        least = max(best, WORTH_COPYING - 1)
        if any(other.adapter is sequence.adapter and common_prefix(tokens, other.tokens) > least for other in coming):
            return True
        if donor is not None and best >= WORTH_COPYING:
            self.cache.copy_row(donor, row, best)
            sequence.computed = best
        self._prefix_queries += len(sequence.tokens)
        self._prefix_hits += sequence.computed
        return False

    def _note_prompt(self, sequence: Sequence, start: int, logits: Tensor) -> None:
        following = sequence.tokens[start + 1 : start + 1 + len(logits)]
        entries = prompt_logprobs(logits[: len(following)], following, sequence.params.prompt_logprobs or 0)
        sequence.prompt_logprobs.extend(entries)

    def _give_up_broken(self, sequences: list[Sequence], logits: Tensor, first_row: int = 0) -> None:
        """Mark those whose `logits` are not finite (an adapter with huge weights), and keep that from their cache rows,
        which begin with `first_row`: nobody else may suffer from it."""
        for row, total in enumerate(logits.sum(dim=-1).tolist()):
            if not math.isfinite(total):
                sequences[row].broken = True
                self.cache.clear_row(first_row + row)

    def _sample(self, rows: list[Sequence], logits: Tensor) -> Sampled:
        if self._sampler is None or rows != self._sampler_rows:
            params = [sequence.params for sequence in rows]
            draws = [sequence.draws for sequence in rows]
            self._sampler = Sampler(params, draws, self.model.device, self.model.crew)
            self._sampler_rows = rows
        return self._sampler(logits)

    def _account(self, rows: list[Sequence], sampled: Sampled) -> list[Update]:
        """Give every row its token, and take out those that have ended."""
        updates = []
        for index, (sequence, token) in enumerate(zip(rows, sampled.tokens.tolist(), strict=True)):
            sequence.tokens.append(token)
            finish = "error" if sequence.broken else sequence.finish_reason(self.cache.max_length)
            update = Update(sequence.number, token, finish=finish)
            if sequence.params.logprobs is not None and sampled.logprobs is not None:
                update.logprob = sampled.logprobs[index]
                update.top = sampled.top[index] if sampled.top else None
            if sequence.wants_prompt_logprobs:
                update.prompt_logprobs = [None, *sequence.prompt_logprobs]
                sequence.prompt_logprobs_sent = True
            updates.append(update)
        for update in updates:
            if update.finish is not None:
                self._leave(self._sequences.pop(update.sequence))
        return updates

    def _leave(self, sequence: Sequence) -> None:
        """Take a sequence out; what it computed is kept for as long as nobody needs its place."""
        scheduler, adapter = self._scheduler, sequence.adapter
        served = adapter is None or self.adapters.get(adapter.name) is adapter
        if sequence in scheduler.decoding and served and not sequence.broken:
            row, tokens = scheduler.decoding.index(sequence), sequence.tokens[: sequence.computed]
            self._prefixes.keep(row, tokens, adapter, scheduler.running)
        scheduler.remove(sequence)
