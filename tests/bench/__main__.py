"""`python -m tests.bench NAME [--json]`, `--list`, or `--all [--write docs/benchmarks.md]`."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import tests.bench
from tests.bench.harness import REGISTRY, CannotMeasure
from tests.bench.page import Record, page, record, renewed, verdict


def load_benchmarks() -> None:
    for module in pkgutil.iter_modules(tests.bench.__path__):
        if module.name not in ("__main__", "harness") and not module.name.startswith("test_"):
            importlib.import_module(f"tests.bench.{module.name}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true", help="list the benchmarks")
    parser.add_argument("--all", action="store_true", help="run all of them")
    parser.add_argument("--json", action="store_true", help="print one JSON object a benchmark and nothing else")
    parser.add_argument("--write", type=Path, help="renew them in a Markdown page, and in the JSON beside it")
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
    kept = read(arguments.write) if arguments.write else []
    not_measured: dict[str, str] = {}
    for name in names:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        try:
            result = REGISTRY[name].run()
        except CannotMeasure as reason:
            print(f"{name} can't be measured: {reason}.", file=sys.stderr, flush=True)
            not_measured[name] = str(reason)
            continue
        if arguments.write:
            kept = renewed(kept, record(result, date.today().isoformat()), list(REGISTRY))
            write(arguments.write, kept, not_measured)
        if arguments.json:
            print(json.dumps(result), flush=True)
        else:
            shown = "{name}: {ours} against {peer} {unit} ({peer_name}), ratio {ratio}"
            print(shown.format(**result), result.get("note", ""), sep="\n", flush=True)
            if result["asked"]:
                print(verdict([result]), flush=True)
    if arguments.write:
        write(arguments.write, kept, not_measured)
    return 1 if not_measured and not arguments.all else 0


def read(page_path: Path) -> list[Record]:
    """What was measured before."""
    path = page_path.with_suffix(".json")
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []


def write(page_path: Path, kept: Sequence[Record], not_measured: Mapping[str, str]) -> None:
    """After each benchmark: who stops in the middle loses nothing."""
    page_path.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    page_path.write_text(
        page(kept, not_measured, {name: one.asked for name, one in REGISTRY.items()}), encoding="utf-8"
    )


if __name__ == "__main__":
    sys.exit(main())
