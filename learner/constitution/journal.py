"""What a run's model and judge have said so far, kept as they say it: after a kill only what is missing is asked for.

Beside the file of a run's examples (`learner.constitution.examples`), until that is whole. The first line says what
decides the answers; then each answer is a line of JSON: what was asked, as a hash, and what was said. A last line that
is torn, as a kill leaves it, counts as never said. Answers to the same question may stand in for each other: what is
asked several times is kept as often. A run that fails leaves its journal behind, as when its judge is gone: the next
whose answers the same things decide begins with it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from learner import parallel
from learner.batch import unheard
from learner.constitution.asking import HeardSaid, Request, Said
from learner.constitution.judging import HeardOdds, Judge
from learner.counted import counted
from learner.run_folder import write_whole

log = logging.getLogger("hone.learner")

T = TypeVar("T")

FORMAT_VERSION = 2


class Journal:
    """Of one run, the same in all of its processes. `of`: what decides the answers; those to others are forgotten."""

    def __init__(self, path: Path, of: Mapping[str, Any]) -> None:
        self._path, self._is_kept = path, True
        self._known = {key: deque(said) for key, said in parallel.from_first(lambda: _begun(path, of)).items()}

    def once(self, about: object, make: Callable[[], T], read: Callable[[Any], T]) -> T:
        """What `make` makes, or made in an earlier attempt; `read` makes it of JSON's values."""
        kept = self._take(key := _hash(about))
        if kept is not None:
            return read(kept)
        made = make()
        if parallel.is_first():
            self._keep(key, made)
        return made

    def said(
        self,
        about: object,
        requests: Sequence[Request],
        ask: Callable[[Sequence[Request], HeardSaid], list[Said | None]],
    ) -> list[Said | None]:
        """An answer to each, of `ask` where none is kept. `about`: how they are asked."""
        return self._answers(about, requests, ask, Said.read)

    def odds(
        self,
        about: object,
        requests: Sequence[Request],
        ask: Callable[[Sequence[Request], HeardOdds], list[float | None]],
        heard: HeardOdds = unheard,
    ) -> list[float | None]:
        """The same of verdicts, with the thoughts before them. One that came to nothing is asked for again. `heard`
        hears of all, those that are kept, too."""

        def asked(
            missing: Sequence[Request], keep: Callable[[int, tuple[float, str]], None]
        ) -> list[tuple[float, str] | None]:
            thoughts = [""] * len(missing)

            def each(place: int, odds: float, thought: str) -> None:
                thoughts[place] = thought
                keep(place, (odds, thought))

            found = ask(missing, each)
            return [None if odds is None else (odds, thought) for odds, thought in zip(found, thoughts, strict=True)]

        found = self._answers(about, requests, asked, lambda kept: (float(kept[0]), str(kept[1])))
        if parallel.is_first():
            for place, one in enumerate(found):
                if one is not None:
                    heard(place, *one)
        return [None if one is None else one[0] for one in found]

    def _answers(
        self,
        about: object,
        requests: Sequence[Request],
        ask: Callable[[Sequence[Request], Callable[[int, T], None]], list[T | None]],
        read: Callable[[Any], T],
    ) -> list[T | None]:
        keys = [_hash([about, request]) for request in requests]
        kept = [self._take(key) for key in keys]
        found = [None if one is None else read(one) for one in kept]
        missing = [place for place, one in enumerate(kept) if one is None]

        def heard(place: int, answer: T) -> None:
            self._keep(keys[missing[place]], answer)

        if missing:
            answers = ask([requests[place] for place in missing], heard)
            for place, answer in zip(missing, answers, strict=True):
                found[place] = answer
        return found

    def _take(self, key: str) -> Any:
        """The next answer that is kept; None for none."""
        kept = self._known.get(key)
        return kept.popleft() if kept else None

    def _keep(self, key: str, answer: object) -> None:
        """At once, in one piece: other processes write to the same file. What can't be written the run does without."""
        if not self._is_kept:
            return
        line = json.dumps({"asked": key, "said": answer}, ensure_ascii=False, default=asdict) + "\n"
        try:
            with self._path.open("ab", buffering=0) as file:
                file.write(line.encode())
        except OSError as error:
            self._is_kept = False
            log.warning(
                "%s can't be written (%s), so a run that is killed asks again.", self._path.name, error.strerror
            )


class RememberedJudge:
    """A judge whose verdicts are kept."""

    def __init__(self, judge: Judge, journal: Journal) -> None:
        self._judge, self._journal = judge, journal

    def odds(self, requests: Sequence[Request], reasoned: bool, heard: HeardOdds = unheard) -> list[float | None]:
        """As `Judge` says."""
        return self._journal.odds(
            ["odds", reasoned], requests, lambda missing, keep: self._judge.odds(missing, reasoned, keep), heard
        )


def _begun(path: Path, of: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The answers by question, of a file that lines can be added to; a new one where it is of something else."""
    head = json.dumps({"format_version": FORMAT_VERSION, "of": _hash(of)}).encode()
    if not path.exists():
        _take_over(path, head)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    first, *lines = content[: content.rfind(b"\n") + 1].splitlines() or [b""]
    found = defaultdict[str, list[Any]](list)
    if first != head:
        write_whole(path, head.decode() + "\n")
        return found
    for line in lines:
        try:
            record = json.loads(line)
            found[record["asked"]].append(record["said"])
        except (ValueError, KeyError, TypeError):  # torn by a process that others outlived
            continue
    with path.open("r+b") as file:
        file.truncate(content.rfind(b"\n") + 1)
    kept = sum(map(len, found.values()))
    log.info("%s kept of an earlier attempt.", counted(kept, "answer is", "answers are"))
    return found


def _take_over(path: Path, head: bytes) -> None:
    """The latest journal of another run with that head, if there is one, is this run's."""
    left = (other for other in path.parent.parent.glob(f"*/{path.name}") if other.is_file())
    for other in sorted(left, key=lambda file: file.stat().st_mtime, reverse=True):
        with other.open("rb") as file:
            if file.readline().rstrip() == head:
                other.replace(path)
                return


def _hash(about: object) -> str:
    plain = json.dumps(about, sort_keys=True, ensure_ascii=False, default=asdict)
    return hashlib.sha256(plain.encode()).hexdigest()
