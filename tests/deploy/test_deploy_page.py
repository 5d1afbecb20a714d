"""docs/deploying.md: the commands, files, settings and options that it names are there; and what all pages install."""

from __future__ import annotations

import re
import shlex

import pytest

from service.adapters.engine import EngineFacts
from service.engine_checks import shortcomings, untold
from service.engine_program import LLAMA_LAYERS, VLLM_PLUGIN
from service.settings import EngineSettings
from tests.deploy.reading import DEPLOY, EXTRAS, ROOT, Dockerfile, parse_command, settings_of

PAGE = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
SCRIPT = (DEPLOY / "vllm" / "start.sh").read_text(encoding="utf-8")
OTHERS = ("VLLM_ALLOW_RUNTIME_LORA_UPDATING=True", """--override-generation-config '{"max_new_tokens": null}'""")


def test_every_command_is_ours() -> None:
    said = re.findall(r"^    hone ([^#\n]+)", PAGE, re.MULTILINE)
    said += re.findall(r"run --rm service (.+)", PAGE)
    said += re.findall(r"run --rm .+ learner (.+)", PAGE)
    said += re.findall(r"-- hone (.+)", PAGE)
    said += re.findall(r"state hone (.+)", PAGE)
    assert len(said) >= 5
    for words in said:
        parse_command(shlex.split(words))


def test_every_file_and_target_is_there() -> None:
    paths = set(re.findall(r"deploy/[\w./-]+[\w]", PAGE)) - {"deploy/learner", "deploy/service"}  # kubectl's names
    assert len(paths) > 5
    for path in paths - {"deploy/.env", "deploy/kubernetes/secrets.env"}:
        assert (ROOT / path).exists(), path
    for target in Dockerfile().targets:
        assert f"`{target}`" in PAGE


def test_every_variable_and_setting_is_read() -> None:
    said = dict.fromkeys(re.findall(r"HONE_[A-Z]+__\w+", PAGE), "1")
    texts = {"HONE_ENGINE__URLS": "http://a", "HONE_ADAPTERS__URL": "s3://a", "HONE_LEARNER__QUANTISE": "nf4"}
    settings_of(said | texts)
    for key in re.findall(r"`engine\.(\w+)", PAGE):
        assert key in EngineSettings.model_fields
    for variable in re.findall(r"`(\w+_PARALLEL_SIZE)=", PAGE):
        assert f"${{{variable}:-}}" in SCRIPT


@pytest.mark.parametrize("page", ["deploying.md", "operating.md"])
def test_a_vllm_that_somebody_else_starts_is_said_to_need_what_the_script_gives_it(page: str) -> None:
    said = " ".join((ROOT / "docs" / page).read_text(encoding="utf-8").split())
    for option in ("--enable-lora", "--max-loras", "--max-lora-rank", "--logprobs-mode raw_logprobs", *OTHERS):
        assert f"`{option}" in said and option in SCRIPT, option


@pytest.mark.parametrize("page", ["deploying.md", "operating.md"])
def test_a_vllm_without_a_gpu_is_said_to_need_what_hone_up_puts_on_its_path(page: str) -> None:
    said = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert f"`{VLLM_PLUGIN.relative_to(ROOT)}`" in said and f"--lora-target-modules {' '.join(LLAMA_LAYERS)}" in said


def test_what_the_doctor_is_said_to_see_it_sees() -> None:
    """Of a vLLM without any of it; what is said to be hidden, the doctor asks people to look at themselves."""
    bare = EngineFacts("base", "vLLM 0.32.0", has_lora=False, loads_adapters=False, slots=1, rank=1, raw_logprobs=False)
    settings = settings_of({"HONE_ENGINE__MODEL": "base"})
    seen = " ".join(one.mend for one in shortcomings(bare, settings))
    hidden = str(untold(bare, settings))
    rows = re.findall(r"^\| `([^`]+)`.*\| (yes[^|]*|no) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 6
    for option, is_seen in rows:
        there, elsewhere = (hidden, seen) if is_seen == "no" else (seen, hidden)
        assert option in there and option not in elsewhere, option


def test_nothing_is_installed_by_our_name_which_is_somebody_elses_at_the_package_index() -> None:
    asked = []
    for page in (ROOT / "README.md", ROOT / "Dockerfile", *(ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"pip install [^\n`]*\bhone\b", text), page.name
        asked += re.findall(r"'\.\[(\w+)\]'", text)
    assert {"learner", "nf4", "vllm", "s3", "gcs"} <= set(asked) <= EXTRAS
