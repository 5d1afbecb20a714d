"""Candidates that a running service may promote, and which adapter is live."""

from pathlib import Path

from service.adapters.registry import Registry
from tests.fixtures.adapters import provenance, write_source
from tests.service.conftest import Running


def publish(running: Running, folder: Path, gain: float = 0.25) -> str:
    """A candidate that the fake engine serves as it was trained: half the base's log-probability (see fake_engine)."""
    probe = provenance().probes[0].model_copy(update={"logprobs": (-gain,) * 3, "base_logprobs": (-0.5,) * 3})
    made = provenance().model_copy(update={"probes": (probe,)})
    return Registry(running.store, running.settings.adapters_folder).publish(
        write_source(folder), made, {"fluency": 0.0}, "It passed."
    )


def live(running: Running) -> str:
    return str(running.operator.get("/v1/serving").json()["live"])
