"""The modules of the program: where they lie, and which of them may be heavy."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OURS = ("service", "learner", "ui")
MAY_BE_HEAVY = ("learner", "service.embedded")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_under(module: str, prefixes: tuple[str, ...]) -> bool:
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)


def sources() -> list[Path]:
    return sorted(path for part in OURS for path in (ROOT / part).rglob("*.py"))
