"""docs/deploying.md: the commands, files, settings and options that it names are there."""

from __future__ import annotations

import re
import shlex

from service.settings import EngineSettings
from tests.deploy.reading import DEPLOY, ROOT, Dockerfile, parse_command, settings_of

PAGE = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")


def test_every_command_is_ours() -> None:
    said = re.findall(r"^    hone ([^#\n]+)", PAGE, re.MULTILINE)
    said += re.findall(r"run --rm service (.+)", PAGE)
    said += re.findall(r"-- hone (.+)", PAGE)
    said += re.findall(r"state hone (.+)", PAGE)
    assert len(said) >= 5
    for words in said:
        parse_command(shlex.split(words))


def test_every_file_and_target_is_there() -> None:
    paths = set(re.findall(r"deploy/[\w./-]+[\w]", PAGE)) - {"deploy/learner"}  # kubectl's name of the deployment
    assert len(paths) > 5
    for path in paths - {"deploy/.env", "deploy/kubernetes/secrets.env"}:
        assert (ROOT / path).exists(), path
    for target in Dockerfile().targets:
        assert f"`{target}`" in PAGE


def test_every_variable_and_setting_is_read() -> None:
    settings_of(dict.fromkeys(re.findall(r"HONE_[A-Z]+__\w+", PAGE), "1") | {"HONE_ENGINE__URLS": "http://a"})
    for key in re.findall(r"`engine\.(\w+)", PAGE):
        assert key in EngineSettings.model_fields
    script = (DEPLOY / "vllm" / "start.sh").read_text(encoding="utf-8")
    for variable in re.findall(r"`(\w+_PARALLEL_SIZE)=", PAGE):
        assert f"${{{variable}:-}}" in script
    for option in ("--enable-lora", "--max-loras", "--max-lora-rank", "--logprobs-mode raw_logprobs"):
        assert f"`{option}`" in PAGE and option in script
    for text in (
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True",
        """--override-generation-config '{"max_new_tokens": null}'""",
    ):
        assert text in PAGE and text in script
