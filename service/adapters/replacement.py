"""What had to be replaced as live, for operators: why, and how it comes back, by how its folder is now."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.orm import Session

from service.adapters.files import check_sizes
from service.adapters.weights import RESTORE
from service.errors import AdapterBroken, AdapterUnreachable
from service.store.queries import adapters, serving


def replacement(tx: Session, adapters_folder: Path) -> str | None:
    """In words; None when nothing was replaced. Cheap: of the files only names and sizes are looked at."""
    lost = serving.replaced(tx)
    if not lost:
        return None
    mended = {name for name, reason in lost.items() if RESTORE in reason and _is_back(tx, adapters_folder, name)}
    reasons = (f"The files of {name} are there again." if name in mended else lost[name] for name in lost)
    first = next(iter(lost))
    again = f"`hone adapters promote {first}`"
    how = f"{again} brings it back." if first in mended else f"When that is mended: {again}."
    return f"{serving.desired_state(tx).live} is live in place of {' and '.join(lost)}. {' '.join(reasons)} {how}"


def _is_back(tx: Session, adapters_folder: Path, name: str) -> bool:
    adapter = adapters.get_adapter(tx, name)
    try:
        check_sizes(adapters_folder / name, adapter.manifest_hash if adapter else None)
    except (AdapterBroken, AdapterUnreachable):
        return False
    return True
