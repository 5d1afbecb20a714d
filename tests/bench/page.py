"""docs/benchmarks.md: what was measured, on which machine, and which of the figures that are asked are missed."""

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

Each row is one benchmark of `tests/bench`, ours and the peer measured in turns in one run on one machine; the ratio is
turned so that above 1 is better than the peer. `make bench` measures them again and writes this page.

Machine: {machine}. Measured on {day}.

{verdict}
| benchmark | unit | ours | peer | peer is | ratio | asked at least |
| --- | --- | ---: | ---: | --- | ---: | ---: |
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

Card: {card}. Measured on {day}; kept by `make bench` where there is no GPU.

| benchmark | unit | ours | peer | peer is | ratio |
| --- | --- | ---: | ---: | --- | ---: |
"""
MISSED = "**missed**"


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


def page(all_results: Sequence[Mapping[str, Any]], not_measured: Mapping[str, str], day: str, before: str = "") -> str:
    """`not_measured`: why, by benchmark. `before`: the page so far, whose figures of a GPU stay where none are new."""
    results = [r for r in all_results if not r["name"].startswith(ON_GPU)]
    on_gpu = [r for r in all_results if r["name"].startswith(ON_GPU)]
    not_measured = {name: why for name, why in not_measured.items() if on_gpu or not name.startswith(ON_GPU)}
    rows = [
        f"| `{r['name']}` | {r['unit']} | {r['ours']} | {r['peer']} | {r['peer_name']} | {r['ratio']} | {_least(r)} |"
        for r in results
    ]
    text = HEADER.format(machine=machine(), day=day, verdict=verdict(results)) + _lines(rows)
    limits = [
        f"| `{r['name']}` | {one['figure']} | {one['measured']} | {_marked(one)} |"
        for r in results
        for one in r["asked"]
        if one["figure"] != RATIO
    ]
    if limits:
        text += LIMITS + _lines(limits)
    notes = [f"- `{r['name']}`: {r['note']}" for r in results if "note" in r]
    notes += [f"- `{name}` could not be measured: {reason}." for name, reason in not_measured.items()]
    text += "\n" + _lines(notes) if notes else ""
    if on_gpu:
        return text + gpu_section(on_gpu, card(), day)
    heading = GPU.split("Card", maxsplit=1)[0]
    return text + (heading + before.split(heading, maxsplit=1)[1] if heading in before else "")


def gpu_section(results: Sequence[Mapping[str, Any]], name: str, day: str) -> str:
    """What was measured on that card."""
    rows = [
        f"| `{r['name']}` | {r['unit']} | {r['ours']} | {r['peer']} | {r['peer_name']} | {r['ratio']} |"
        for r in results
    ]
    notes = [f"- `{r['name']}`: {r['note']}" for r in results]
    return GPU.format(card=name, day=day) + _lines(rows) + "\n" + _lines(notes)


def verdict(results: Sequence[Mapping[str, Any]]) -> str:
    """Which of the figures that are asked are missed."""
    asked = [(result["name"], one) for result in results for one in result["asked"]]
    missed = [
        f"- `{name}`, {one['figure']}: {one['measured']}, asked {'at least' if one['figure'] == RATIO else 'at most'} "
        f"{one['asked']:g}"
        for name, one in asked
        if not one["is_met"]
    ]
    if not missed:
        return f"All {len(asked)} figures that are asked are reached.\n"
    return f"Of {len(asked)} figures that are asked {len(missed)} are {MISSED}:\n\n" + _lines(missed)


def _least(result: Mapping[str, Any]) -> str:
    return next((_marked(one) for one in result["asked"] if one["figure"] == RATIO), "")


def _marked(one: Mapping[str, Any]) -> str:
    return f"{one['asked']:g}" + ("" if one["is_met"] else f" {MISSED}")


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
