"""Numbers under the digest of what they are of, in a file that is never taken for another's.

The file says what its numbers depend on beside that, and carries a digest of all that it holds: one of something else,
one that was cut short or has a bit flipped is told of in the log and written anew. One that can't be written costs only
that the numbers are computed again.

    kept = KeptScores(folder / "anchor.safetensors", "base one")
    kept.add({digest: -3.2})
    kept.known[digest]
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from learner import parallel

log = logging.getLogger("hone.learner")

DIGEST_BYTES = 32
MOST_FILES, MOST_SHARED = 16, 50_000
"""Of files that runs share, the ones used last; and of numbers in each (a file of 2 MB), the newest."""


class KeptScores:
    """See the module's docstring. Without a `path` they last as long as the object does. Where several processes
    train, the first alone reads and writes. `most`: how many are kept, the newest."""

    def __init__(self, path: Path | None = None, of: str = "", most: int = sys.maxsize) -> None:
        self._path, self._of, self._most = path, of, most
        self.known: dict[bytes, float] = parallel.from_first(self._read)

    @classmethod
    def shared(cls, folder: Path, facts: object) -> KeptScores:
        """What every run finds in the folder to which the same `facts` belong, by what `repr` says of them. Files that
        were not used for longest are removed."""
        of = hashlib.sha256(repr(facts).encode()).hexdigest()
        path = folder / f"{of}.safetensors"
        if parallel.is_first():
            with suppress(OSError):  # then it can't be written either, which is told of
                folder.mkdir(parents=True, exist_ok=True)
                if path.exists():
                    os.utime(path)
                others = sorted(set(folder.iterdir()) - {path}, key=lambda file: file.stat().st_mtime, reverse=True)
                for file in others[MOST_FILES - 1 :]:
                    file.unlink()
        return cls(path, of, MOST_SHARED)

    def add(self, new: Mapping[bytes, float]) -> None:
        """Keep these too. The file is there whole or not at all, but for a power cut, after which it may be one that
        can't be read."""
        self.known |= new
        for oldest in list(self.known)[: max(0, len(self.known) - self._most)]:
            del self.known[oldest]
        if self._path is None or not parallel.is_first():
            return
        digests = torch.frombuffer(bytearray(b"".join(self.known)), dtype=torch.uint8).reshape(-1, DIGEST_BYTES)
        scores = torch.tensor(list(self.known.values()), dtype=torch.float32)
        unfinished = self._path.with_suffix(".partial")
        metadata = {"anchor": self._of, "sha256": _digest(digests, scores)}
        try:
            save_file({"digests": digests, "scores": scores}, unfinished, metadata)
            unfinished.replace(self._path)
        except (OSError, SafetensorError) as error:  # a full disk is the latter
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            log.warning("%s can't be written, so what it holds is computed again: %s", self._path, error)
            self._path = None

    def _read(self) -> dict[bytes, float]:
        if self._path is not None and self._path.exists():
            try:
                return _read(self._path, self._of)
            except (OSError, SafetensorError, KeyError, ValueError) as error:
                log.warning("%s is of no use and will be written anew: %s", self._path, error)
        return {}


def _read(path: Path, of: str) -> dict[bytes, float]:
    """Raises OSError, SafetensorError, KeyError, and ValueError for what is of something else, or is damaged."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata["anchor"] != of:
            raise ValueError("it is of another anchor.")
        digests, scores = file.get_tensor("digests"), file.get_tensor("scores")
    if metadata["sha256"] != _digest(digests, scores):
        raise ValueError("it is damaged.")
    if digests.shape != (len(scores), DIGEST_BYTES) or digests.dtype != torch.uint8 or not scores.isfinite().all():
        raise ValueError("it holds something else.")
    return {bytes(digest): score for digest, score in zip(digests.tolist(), scores.tolist(), strict=True)}


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
