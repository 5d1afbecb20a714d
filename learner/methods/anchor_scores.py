"""What the anchor thinks of examples that a training comes back to: computed once, and kept beside its checkpoints.

The anchor is frozen, so the log-probability that it gives to a reply that people judged is the same at every step, and
in a run that goes on after a kill. A file holds them under the hash of their tokens, and says of which anchor they are.

    anchor = AnchorScores(backbone, checkpoint / "anchor.safetensors", base_fingerprint(model))
    anchor.of([(prompt, reply), …])
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from learner import parallel
from learner.backbone import Backbone
from learner.batch import Example

log = logging.getLogger("hone.learner")

DIGEST_BYTES = 32


class AnchorScores:
    """Log-probabilities of replies under the backbone's anchor. Without a `path` they last as long as the object does.

    `anchor`: what decides them beside the tokens, such as the fingerprint of the base. A file of another anchor, or one
    that can't be read, is written anew.
    """

    def __init__(self, backbone: Backbone, path: Path | None = None, anchor: str = "") -> None:
        self._backbone, self._path, self._anchor = backbone, path, anchor
        self._known = parallel.from_first(self._read)

    def _read(self) -> dict[bytes, float]:
        if self._path is not None and self._path.exists():
            try:
                return _read(self._path, self._anchor)
            except (OSError, SafetensorError, KeyError, ValueError) as error:
                log.warning("%s is of no use and will be written anew: %s", self._path, error)
        return {}

    def of(self, examples: Sequence[Example]) -> Tensor:
        """(len(examples),), float32, on the CPU; only what isn't known yet is computed."""
        digests = [_digest(example) for example in examples]
        new = {digest: one for digest, one in zip(digests, examples, strict=True) if digest not in self._known}
        if new:
            scores: list[float] = self._backbone.score(list(new.values()), "anchor").tolist()
            self._known |= dict(zip(new, scores, strict=True))
            self._write()
        return torch.tensor([self._known[digest] for digest in digests], dtype=torch.float32)

    def _write(self) -> None:
        """Whole or not at all, but for a power cut, after which the file may be one that can't be read."""
        if self._path is None or not parallel.is_first():
            return
        digests = torch.frombuffer(bytearray(b"".join(self._known)), dtype=torch.uint8).reshape(-1, DIGEST_BYTES)
        scores = torch.tensor(list(self._known.values()), dtype=torch.float32)
        unfinished = self._path.with_suffix(".partial")
        try:
            save_file({"digests": digests, "scores": scores}, unfinished, metadata={"anchor": self._anchor})
            unfinished.replace(self._path)
        except (OSError, SafetensorError) as error:  # a full disk is the latter
            log.warning("%s can't be written, so a later attempt computes it again: %s", self._path, error)
            self._path = None


def _read(path: Path, anchor: str) -> dict[bytes, float]:
    """Raises OSError, SafetensorError, KeyError, and ValueError for what is not of this anchor."""
    with safe_open(path, framework="pt") as file:
        if (file.metadata() or {}).get("anchor") != anchor:
            raise ValueError("it is of another anchor.")
        digests, scores = file.get_tensor("digests"), file.get_tensor("scores")
    if digests.shape != (len(scores), DIGEST_BYTES) or digests.dtype != torch.uint8 or not scores.isfinite().all():
        raise ValueError("it holds something else.")
    return {bytes(digest): score for digest, score in zip(digests.tolist(), scores.tolist(), strict=True)}


def _digest(example: Example) -> bytes:
    prompt, reply = example
    return hashlib.sha256(f"{prompt} {reply}".encode()).digest()
