"""What the service logs of a vLLM that it reaches, and reaches again after a restart."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import CapturingLogger

from service import engine_log
from service.store.session import Store
from tests.fixtures.serving import serve
from tests.fixtures.waiting import until
from tests.service.conftest import service_over, settings_at
from tests.service.fleet import ask
from tests.service.power import powered
from tests.service.pretend_vllm import PretendVllm


def test_a_vllm_that_comes_back_in_another_log_probability_mode_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base is live, so nothing is proven there."""
    log = CapturingLogger()
    monkeypatch.setattr(engine_log, "log", log)
    vllm, settings = PretendVllm(), settings_at(tmp_path / "home")

    def tried() -> list[str]:
        """What came out each time, as it is logged."""
        said = [call.kwargs["facts"] for call in log.calls if call.method_name == "info"]
        return [words.partition("log-probabilities ")[2] for words in said if "log-probabilities" in words]

    def faults() -> list[str]:
        return [call.kwargs["mend"] for call in log.calls if call.method_name == "warning"]

    with (
        closing(Store.open(settings.store_url)) as store,
        serve(vllm.app) as engine_url,
        powered(engine_url) as power,
        service_over(settings, store, [power.url]) as service,
    ):

        def is_ready() -> bool:
            [replica] = service.get("/health").json()["replicas"]
            return bool(replica["healthy"])

        until(is_ready)
        assert service.post("/v1/chat/completions", ask("talk")).status_code == 200
        until(lambda: tried() == ["the model's own"])
        assert faults() == []
        power.off()
        until(lambda: not is_ready())
        vllm.mode = "processed_logprobs"
        vllm.bodies.clear()
        vllm.completions.clear()
        power.on()
        until(is_ready)
        assert service.post("/v1/chat/completions", ask("talk")).status_code == 200
        until(lambda: len(faults()) == 1)
        assert tried() == ["the model's own", "NOT the model's own"]
        assert faults() == ["Start vLLM with --logprobs-mode raw_logprobs."]
        assert len(vllm.completions) == 2  # once: a sample and its score
