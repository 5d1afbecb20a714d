"""Where an adapter comes from, as its manifest says it for ever."""

from __future__ import annotations

import json
from typing import Any

from learner.constitution.in_effect import lineage
from learner.curate import Curated
from learner.run_folder import RunFolder
from learner.snapshot import FrozenFeedback
from service.adapters.manifest import CONFIG, BaseModelIdentity, Manifest, Provenance
from service.settings import Settings
from service.store.tables import Run


def provenance_of(
    run: Run,
    frozen: FrozenFeedback,
    lessons: Curated,
    probes: list[dict[str, Any]],
    settings: Settings,
    base_sha256: str,
    folder: RunFolder,
    anchor: Manifest | None = None,
) -> Provenance:
    """Of the adapter that stands in the run's `folder`, trained from `lessons`, which were chosen from `frozen`.

    `anchor`: the adapter that it was held to; None: the base.
    """
    config = json.loads((folder.adapter / CONFIG).read_text(encoding="utf-8"))
    version, written = lessons.constitution, lessons.counts.get("written")
    base = BaseModelIdentity(
        name=settings.engine.model,
        sha256=base_sha256,
        quantisation="nf4" if settings.learner.quantise == "nf4" else None,
    )
    return Provenance.model_validate(
        {
            "parent": run.parent,
            "run_id": run.id,
            "base": base,
            "rank": config["r"],
            "alpha": config["lora_alpha"],
            "target_modules": tuple(sorted(config["target_modules"])),
            "method": run.method,
            "snapshot_hash": frozen.hash,
            "constitution": lineage(version, written["sha256"]) if version and written else None,
            "anchor": {"name": anchor.name, "manifest_sha256": anchor.hash()} if anchor is not None else None,
            "probes": probes,
        }
    )
