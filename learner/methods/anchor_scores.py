"""What the anchor thinks of examples that a training comes back to: computed once, and kept for other runs too.

The anchor is frozen, so the log-probability that it gives to a reply that people judged is the same at every step, and
in a run that goes on after a kill. A file beside its checkpoints holds them under the hash of their tokens. Another
file is shared by all runs on one snapshot: there the hash is also of what an example was scored together with, since
that decides the last bits; so a run gets the very numbers that it would have computed.

    anchor = AnchorScores(backbone, checkpoint / "anchor.safetensors", base_fingerprint(model))
    anchor.of([(prompt, reply), …])
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from learner import parallel
from learner.backbone import Backbone
from learner.batch import Example
from learner.methods.kept_scores import KeptScores


class AnchorScores:
    """Log-probabilities of replies under the backbone's anchor. Without a `path` they last as long as the object does.

    `anchor`: what decides them beside the tokens, such as the fingerprint of the base. A file of another anchor, or one
    that can't be read, is written anew. `shared`: what other runs computed. `found`: how many examples' numbers it had.
    """

    def __init__(
        self, backbone: Backbone, path: Path | None = None, anchor: str = "", shared: KeptScores | None = None
    ) -> None:
        self._backbone, self._own, self._shared = backbone, KeptScores(path, anchor), shared or KeptScores()
        self.found = 0

    def of(self, examples: Sequence[Example]) -> Tensor:
        """(len(examples),), float32, on the CPU; only what isn't known yet is computed."""
        digests = [_digest(example) for example in examples]
        new = {digest: one for digest, one in zip(digests, examples, strict=True) if digest not in self._own.known}
        if new:
            self._own.add(dict(zip(new, self._scores(new), strict=True)))
        return torch.tensor([self._own.known[digest] for digest in digests], dtype=torch.float32)

    def _scores(self, new: dict[bytes, Example]) -> list[float]:
        together = hashlib.sha256(b"".join(new)).digest()
        names = [hashlib.sha256(digest + together).digest() for digest in new]
        if all(name in self._shared.known for name in names):
            self.found += len(names)
            return [self._shared.known[name] for name in names]
        scores: list[float] = self._backbone.score(list(new.values()), "anchor").tolist()
        self._shared.add(dict(zip(names, scores, strict=True)))
        return scores


def shared_scores(backbone: Backbone, folder: Path, anchor: str, snapshot: str) -> KeptScores:
    """What all runs on this snapshot share, as far as they compute alike to the last bit: on the same kind of processor
    or GPU, with as many threads and processes."""
    on_gpu = backbone.device.type == "cuda"
    chip = torch.cuda.get_device_name(backbone.device) if on_gpu else torch.backends.cpu.get_cpu_capability()
    sums = (torch.__version__, chip, torch.get_num_threads(), parallel.world())
    return KeptScores.shared(folder, (anchor, snapshot, *sums))


def _digest(example: Example) -> bytes:
    prompt, reply = example
    return hashlib.sha256(f"{prompt} {reply}".encode()).digest()
