"""`python -m tests.bench NAME [--json]`, `--list`, or `--all [--write docs/benchmarks.md]`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import platform
import sys
from datetime import date
from pathlib import Path

import tests.bench
from tests.bench.harness import REGISTRY, CannotMeasure

HEADER = """# Benchmarks

Each row is one benchmark of `tests/bench`, ours and the peer measured in turns in one run on one machine; the ratio is
turned so that above 1 is better than the peer. `make bench` measures them again and writes this page.

Machine: {machine}. Measured on {day}.

| benchmark | unit | ours | peer | peer is | ratio | asked |
| --- | --- | ---: | ---: | --- | ---: | ---: |
"""


def load_benchmarks() -> None:
    for module in pkgutil.iter_modules(tests.bench.__path__):
        if module.name not in ("__main__", "harness"):
            importlib.import_module(f"tests.bench.{module.name}")


def machine() -> str:
    """Processor, cores, memory, Python: what a reader needs to place the figures."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{processor}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def page(results: list[dict[str, str | float]]) -> str:
    rows = []
    for r in results:
        target = REGISTRY[str(r["name"])].target
        asked = f"{target:g}" if target is not None else ""
        rows.append(
            f"| `{r['name']}` | {r['unit']} | {r['ours']} | {r['peer']} | {r['peer_name']} | {r['ratio']} | {asked} |"
        )
    notes = [f"- `{r['name']}`: {r['note']}" for r in results if "note" in r]
    text = HEADER.format(machine=machine(), day=date.today().isoformat()) + "\n".join(rows) + "\n"
    return text + ("\n" + "\n".join(notes) + "\n" if notes else "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true", help="list the benchmarks")
    parser.add_argument("--all", action="store_true", help="run all of them")
    parser.add_argument("--json", action="store_true", help="print one JSON object a benchmark and nothing else")
    parser.add_argument("--write", type=Path, help="write the results as a Markdown page")
    arguments = parser.parse_args()
    load_benchmarks()
    if arguments.list:
        for one in REGISTRY.values():
            print(f"{one.name:28} {one.unit}, beside {one.peer_name}")
        return 0
    names = list(REGISTRY) if arguments.all else arguments.names
    if unknown := [name for name in names if name not in REGISTRY]:
        parser.error(f"unknown benchmark {', '.join(unknown)}; --list names them")
    if not names:
        parser.error("name a benchmark, or use --all or --list")
    results, is_missing = [], False
    for name in names:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        try:
            result = REGISTRY[name].run()
        except CannotMeasure as reason:
            print(f"{name} can't be measured: {reason}.", file=sys.stderr, flush=True)
            is_missing = True
            continue
        results.append(result)
        if arguments.json:
            print(json.dumps(result), flush=True)
        else:
            shown = "{name}: {ours} against {peer} {unit} ({peer_name}), ratio {ratio}"
            print(shown.format(**result), flush=True)
    if arguments.write:
        arguments.write.write_text(page(results), encoding="utf-8")
    return 1 if is_missing and not arguments.all else 0


if __name__ == "__main__":
    sys.exit(main())
