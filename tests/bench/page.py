"""docs/benchmarks.md: what was measured, when, on which machine, and which of the figures that are asked are missed.

What was measured is kept in docs/benchmarks.json, so that a benchmark can be measured anew without all the others.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.harness import RATIO

HEADER = """# Benchmarks

<!-- Written by `make bench`. Measure again, or change tests/bench, not this page. -->

Each row is one benchmark of `tests/bench`, ours and the peer measured in turns in one run on one machine, the last that
was made there; the ratio is turned so that above 1 is better than the peer. `make bench` measures all again and writes
this page, `python -m tests.bench NAME --write docs/benchmarks.md` measures one again.

{machines}
{verdict}
| benchmark | unit | ours | peer | peer is | ratio | asked at least | measured |
| --- | --- | ---: | ---: | --- | ---: | ---: | --- |
"""
LIMITS = """
Figures that are asked by themselves, beside no peer:

| benchmark | figure | measured | asked at most |
| --- | --- | ---: | ---: |
"""
ON_GPU = "gpu-"
"""How the names of the benchmarks begin that need one."""
GPU = """
## On a GPU

| benchmark | unit | ours | peer | peer is | ratio | measured |
| --- | --- | ---: | ---: | --- | ---: | --- |
"""
MISSED = "**missed**"

Record = Mapping[str, Any]
"""The result of a benchmark, with the `day` and the `machine` of its measurement."""


def machine() -> str:
    """Processor, cores, memory, Python: what a reader needs to place the figures."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{processor}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def card() -> str:
    """The GPU's name."""
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def record(result: Mapping[str, Any], day: str) -> Record:
    """What is kept of a measurement of today, here."""
    return {**result, "day": day, "machine": card() if result["name"].startswith(ON_GPU) else machine()}


def renewed(before: Sequence[Record], new: Record, order: Sequence[str]) -> list[Record]:
    """All that is kept, with the new in place of what was measured of the same on the same machine; those that are gone
    are not."""
    kept = {(one["name"], one["machine"]): one for one in before} | {(new["name"], new["machine"]): new}
    return [one for name in order for (known, _), one in sorted(kept.items()) if known == name]


def page(
    records: Sequence[Record], not_measured: Mapping[str, str], asked: Mapping[str, Sequence[str]] | None = None
) -> str:
    """`not_measured`: why, by benchmark, where nothing is kept of it either. `asked`: of every benchmark there is, the
    figures that are asked: the page says which of both it knows nothing of."""
    asked = asked or {}
    here = [one for one in records if not one["name"].startswith(ON_GPU)]
    on_gpu = [one for one in records if one["name"].startswith(ON_GPU)]
    known = {one["name"] for one in records}
    letters = {name: chr(ord("A") + place) for place, name in enumerate(dict.fromkeys(one["machine"] for one in here))}
    machines = _lines([f"- {letter}: {name}" for name, letter in letters.items()])
    rows = [f"{_row(one)} {_least(one)} | {one['day']}, {letters[one['machine']]} |" for one in here]
    text = HEADER.format(
        machines=f"Machines:\n\n{machines}", verdict=verdict(here, letters) + _unknown(here, asked)
    ) + _lines(rows)
    limits = [
        f"| {_called(one, letters)} | {limit['figure']} | {limit['measured']} | {_marked(limit)} |"
        for one in here
        for limit in one["asked"]
        if limit["figure"] != RATIO
    ]
    if limits:
        text += LIMITS + _lines(limits)
    notes = [f"- {_called(one, letters)}: {one['note']}" for one in here if "note" in one]
    missing = {name: why for name, why in not_measured.items() if name not in known and not name.startswith(ON_GPU)}
    notes += [f"- `{name}` could not be measured: {reason}." for name, reason in missing.items()]
    never = [name for name in asked if name not in known and name not in missing]
    notes += _never([name for name in never if not name.startswith(ON_GPU)])
    text += "\n" + _lines(notes) if notes else ""
    if on_gpu:
        text += GPU + _lines([f"{_row(one)} {one['day']}, {one['machine']} |" for one in on_gpu])
        notes = [f"- `{one['name']}`: {one['note']}" for one in on_gpu if "note" in one]
        text += "\n" + _lines(notes + _never([name for name in never if name.startswith(ON_GPU)]))
    return text


def _never(names: Sequence[str]) -> list[str]:
    return [f"- Not measured yet: {', '.join(f'`{name}`' for name in names)}."] if names else []


def _row(one: Record) -> str:
    """Its first six cells."""
    cells = (f"`{one['name']}`", one["unit"], one["ours"], one["peer"], one["peer_name"], one["ratio"])
    return "| " + " | ".join(map(str, cells)) + " |"


def _called(one: Mapping[str, Any], letters: Mapping[str, str]) -> str:
    """The benchmark's name, and where it was measured if there are several machines."""
    return f"`{one['name']}`" + (f" on {letters[one['machine']]}" if len(letters) > 1 else "")


def verdict(results: Sequence[Mapping[str, Any]], letters: Mapping[str, str] | None = None) -> str:
    """Which of the figures that are asked are missed. `letters`: of the machines."""
    asked = [(_called(result, letters or {}), one) for result in results for one in result["asked"]]
    missed = [
        f"- {name}, {one['figure']}: {one['measured']}, asked {'at least' if one['figure'] == RATIO else 'at most'} "
        f"{one['asked']:g}"
        for name, one in asked
        if not one["is_met"]
    ]
    if not missed:
        return f"All {len(asked)} figures that are asked are reached.\n"
    return f"Of {len(asked)} figures that are asked {len(missed)} are {MISSED}:\n\n" + _lines(missed)


def _unknown(results: Sequence[Record], asked: Mapping[str, Sequence[str]]) -> str:
    """Figures that a benchmark is asked for by now, and was not when it was measured."""
    known = {(one["name"], figure["figure"]) for one in results for figure in one["asked"]}
    lines = [
        f"- `{name}`, {figure}\n"
        for name in dict.fromkeys(one["name"] for one in results)
        for figure in asked.get(name, ())
        if (name, figure) not in known
    ]
    return "\nAsked, and not measured yet:\n\n" + "".join(lines) if lines else ""


def _least(result: Mapping[str, Any]) -> str:
    return next((_marked(one) for one in result["asked"] if one["figure"] == RATIO), "")


def _marked(one: Mapping[str, Any]) -> str:
    return f"{one['asked']:g}" + ("" if one["is_met"] else f" {MISSED}")


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
