"""One call trains an adapter by any method on texts: what docs/learning.md shows, and what is said of bad data."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

from learner import on_texts
from learner.backbone import Backbone
from learner.constitution.asking import question
from learner.curate import Curated
from learner.loading import ADAPTER_WEIGHTS
from learner.methods import kto, preference, sft
from learner.on_texts import LearnedTexts, learn
from learner.text_examples import TextExample, as_snapshot
from learner.trained import Trained
from service.constitution.versions import built_in_version
from service.errors import BadInput, SettingsError, TrainingFailed
from service.settings import SPROUT, LearnerSettings, Settings
from tests.learner.progress import Told
from tests.learner.tiny_model import build_tiny_model

PAGE = (Path(__file__).parents[2] / "docs" / "learning.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CALLS = [block for block in BLOCKS if "on_texts import learn\n" in block]
SHOWN = [block for block in CALLS if "-cai" not in block]
PAIRS = [{"prompt": f"what is {word} ?", "chosen": "yes .", "rejected": "no , it is no ."} for word in ("one", "red")]
FEW = {"iterations": 1, "prompts": 2, "replies": 2, "minibatch": 4, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"), context=512)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("answers", "rollouts"):
        monkeypatch.setattr(f"learner.methods.{module}.MAX_NEW_TOKENS", 6)
    for name in ("FEWEST_STEPS", "SETTLING_STEPS"):
        monkeypatch.setattr(sft, name, 2)
    monkeypatch.setattr(kto, "FEWEST_STEPS", 2)
    for name, few in {"ITERATIONS": 1, "MOST_ITERATIONS": 1, "PROMPTS": 4, "CHECKED_PROMPTS": 4}.items():
        monkeypatch.setattr(preference, name, few)


def moved(adapter: Path) -> bool:
    weights = load_file(adapter / ADAPTER_WEIGHTS)
    return any(bool(tensor.any()) for name, tensor in weights.items() if "lora_B" in name)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("lines", SHOWN, ids=["corrections", "pairs", "labels", "rankings", "scores", "file", "folder"])
def test_the_documented_lines_train_an_adapter(
    lines: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len([line for line in lines.splitlines() if line]) <= 5
    monkeypatch.setattr("service.settings.SPROUT", model)  # which is not in the folder that it is called from
    rows = [*PAIRS, {"prompt": "what is paris ?", "reply": "it is red ."}]
    (tmp_path / "examples.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(compile(lines, "docs/learning.md", "exec"), {"__name__": "by_hand"})
    (out,) = tmp_path.glob("my-*")
    assert moved(out)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("method", "settings", "phases"),
    [
        ("dpo", {"learner": {"dpo_on": "pairs"}}, ["dpo"]),
        ("kto", {}, ["kto"]),
        ("ppo", {"ppo": {**FEW, "value_warmup": 0}}, ["reward", "ppo"]),
        ("reinforce", {"ppo": FEW}, ["reward", "reinforce"]),
        ("grpo", {"ppo": FEW}, ["reward", "grpo"]),
        ("raft", {"raft": {**FEW, "replies": 8, "max_new_tokens": 24}}, ["reward", "raft"]),
    ],
)
def test_a_method_is_chosen_by_its_name(
    method: str, settings: dict[str, Any], phases: list[str], model: Path, tmp_path: Path
) -> None:
    told = Told()
    learn(method, model, PAIRS, tmp_path / "out", settings, progress=told)
    assert told.phases == phases and moved(tmp_path / "out")


def test_texts_become_what_the_model_reads_and_what_is_known_of_them_stays() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SPROUT)
    talk = [{"role": role, "content": text} for role, text in (("user", "Hi."), ("assistant", "Yes?"), ("user", "No."))]
    rows = [
        {"prompt": "Hello!", "reply": "Hi."}, {"prompt": "Hello!", "reply": "What?", "good": False},
        {"prompt": talk, "chosen": "Bye.", "rejected": "", "strength": 2.0}, {"prompt": "Hello!", "chosen": "A",
        "rejected": "B", "tie": True}, {"prompt": "Who?"},
    ]  # fmt: skip
    found, left_out = as_snapshot([TextExample.model_validate(row) for row in rows], str(SPROUT))
    hello, end = question(tokenizer, "Hello!"), tokenizer.eos_token_id
    (taught,), (label,), (pair, tie) = found.demonstrations, found.labels, found.pairs
    assert taught.prompt_token_ids == hello and taught.reply_token_ids == (*tokenizer("Hi.").input_ids, end)
    assert (label.prompt_token_ids, label.desirable) == (hello, False)
    assert (pair.rejected, pair.margin, pair.tie, tie.tie) == ((end,), 2.0, False, True)
    assert list(pair.prompt_token_ids) == tokenizer.apply_chat_template(talk, add_generation_prompt=True)["input_ids"]
    assert left_out == 0 and found.prompts == (hello, pair.prompt_token_ids, question(tokenizer, "Who?"))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"reply": "Hi."}, "Example 1: prompt: Field required"),
        ({"prompt": "Hello!", "chosen": "Hi."}, "Example 1: beside prompt it has reply, or reply and good, or chosen"),
        ({"prompt": "Hello!", "replies": ["Hi."]}, "Example 1: replies: Extra inputs are not permitted"),
        ("Hello!", "Example 1: Input should be a valid dictionary"),
        (
            {"prompt": "Hello!", "chosen": "Hi.", "rejected": "Hey.", "tie": True},
            "nothing in the data that kto learns from",
        ),
        ({"prompt": "Hello!", "chosen": "Hi.", "rejected": "Hi."}, "Example 1: .* chosen and rejected are the same"),
        ({"prompt": "Hello!", "chosen": "A", "rejected": "A", "tie": True}, "chosen and rejected are the same"),
        ({"prompt": "Hello!", "reply": " "}, "Example 1: the reply is empty, and the model would learn to say nothing"),
        ({"prompt": "Hello!", "chosen": "", "rejected": "No."}, "Example 1: the reply is empty"),
        ({"prompt": "Hello!", "reply": "Hi.", "good": "yes"}, "Example 1: good: Input should be a valid boolean"),
        ({"prompt": "Hello!", "reply": "Hi.", "good": True}, "Every reply is called good, .* with good = false"),
        ({"prompt": "Hello!", "reply": "Hi.", "good": False}, "Every reply is called bad, .* with good = true"),
        ({"prompt": "Hello!", "reply": "Hi.", "tie": True}, "Example 1: tie belongs to a pair"),
        ({"prompt": "Hello!", "strength": 2.0}, "Example 1: strength belongs to a pair"),
        ({"prompt": "Hello!", "reply": "Hi.", "score": 11}, "Example 1: score: .* less than or equal to 10"),
        ({"prompt": "Hello!", "reply": "Hi.", "score": True}, "Example 1: score: Input should be a valid integer"),
        ({"prompt": "Hello!", "score": 3}, "Example 1: beside prompt it has reply, .* or reply and score, or order"),
        ({"prompt": "Hello!", "reply": "Hi.", "good": True, "score": 3}, "Example 1: beside prompt it has reply"),
        ({"prompt": "Hello!", "reply": "", "score": 9}, "Example 1: the reply is empty"),
        ({"prompt": "Hello!", "failed": ["Hi.", "What?"]}, "Example 1: beside prompt it has reply"),
        ({"prompt": "Hello!", "order": "Hi."}, "Example 1: order: Input should be a valid tuple"),
        ({"prompt": "Hello!", "order": ["Hi."]}, "Example 1: a ranking is of 2 to 64 replies"),
        ({"prompt": "Hello!", "order": ["Hi.", []]}, "Example 1: a group of the order is empty"),
        ({"prompt": "Hello!", "order": ["Hi.", "A"], "failed": ["Hi."]}, "Example 1: a reply stands .* twice"),
        ({"prompt": "Hello!", "order": [["Hi.", " "], "A"]}, "Example 1: the reply is empty"),
        ({"prompt": [{"role": "user"}]}, "Example 1: prompt: message 1 needs a role and a content, both text"),
        ({"prompt": []}, "Example 1: prompt: .* at least 1 item"),
        ({"prompt": 3}, "Example 1: prompt: it is text, or a list of messages"),
    ],
)
def test_data_that_can_not_be_learned_from_is_told(row: Any, said: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=said):
        learn("kto", model, [row], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_json_and_no_setting_and_a_folder_that_is_there_are_told(model: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_text('{"prompt": "Hello!"}\n{"prompt"\n', encoding="utf-8")
    with pytest.raises(BadInput, match="data, line 2, is no JSON"):
        learn("sft", model, tmp_path / "data", tmp_path / "out")
    with pytest.raises(SettingsError, match=r"learner\.rang"):
        learn("dpo", model, PAIRS, tmp_path / "out", {"learner": {"rang": 4}})
    with pytest.raises(BadInput, match=r"The method rloo .* replies must be at least 2"):
        learn("rloo", model, PAIRS, tmp_path / "out", {"ppo": {"replies": 1}})
    with pytest.raises(BadInput, match=r"The method ppo .* raise iterations, or lower value_warmup"):
        learn("ppo", model, PAIRS, tmp_path / "out", {"ppo": {"iterations": 1}})
    with pytest.raises(BadInput, match="data, line 2: beside prompt it has reply"):
        (tmp_path / "data").write_text('\n{"prompt": "Hello!", "good": true}\n', encoding="utf-8")
        learn("sft", model, tmp_path / "data", tmp_path / "out")
    with pytest.raises(BadInput, match=r"There is no file .*dat"):
        learn("sft", model, tmp_path / "dat", tmp_path / "out")
    with pytest.raises(BadInput, match="There is no method 'rlo'"):
        learn("rlo", model, PAIRS, tmp_path / "out")
    with pytest.raises(BadInput, match="There is something at"):
        learn("dpo", model, PAIRS, tmp_path)
    for empty in ("", " "):
        with pytest.raises(BadInput, match=r"^No model is named\. Name a folder or a model of the hub; the built-in"):
            learn("dpo", empty, PAIRS, tmp_path / "out")


def test_a_model_that_is_not_there_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", no_network)
    for name, said in (
        ("./sprut", "There is no model folder ./sprut"),
        ("models/of/mine", "There is no model folder models/of/mine"),
        (str(tmp_path), "is no model folder: it has no config.json"),
        ("service/sprut", "'service/sprut' is neither a folder here nor a model that the hub gave us .Name or service"),
    ):
        with pytest.raises(BadInput, match=said):
            learn("dpo", name, PAIRS, tmp_path / "out")
        with pytest.raises(TrainingFailed, match=said):
            Backbone.load(name, LearnerSettings())


def test_to_import_it_says_nothing_of_packages_that_nobody_asked_for() -> None:
    """Of bitsandbytes, for one, which PEFT imports even where nothing is in 4 bits."""
    code = [sys.executable, "-W", "ignore", "-c", "import learner.on_texts"]
    told = subprocess.run(code, capture_output=True, text=True, check=True)
    assert (told.stdout, told.stderr) == ("", "")


@pytest.mark.usefixtures("quick")
def test_what_does_not_fit_the_model_is_told_and_nothing_else_is_trained_in_its_stead(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = {"prompt": "what is one ?", "chosen": "yes . " * 300, "rejected": "no ."}
    with pytest.raises(BadInput, match=r"2 examples are longer than the model's context of 512 tokens. Shorten"):
        learn("dpo", model, [long, long], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    of_another_kind = {"prompt": "what is red ?", "reply": "it is red ."}
    how = {"learner": {"dpo_on": "pairs"}}
    learned = learn("dpo", model, [*PAIRS, long, of_another_kind], tmp_path / "out", how)
    assert learned == LearnedTexts(("dpo",), learned_from=2, too_long=1, unused=1)
    assert moved(tmp_path / "out")
    assert "1 example is left out: longer than the model's context" in caplog.text
    assert "1 example is left out: of a kind that dpo doesn't learn from" in caplog.text


@pytest.mark.usefixtures("quick")
def test_a_tie_is_learned_from_by_a_reward_model_and_not_by_kto(model: Path, tmp_path: Path) -> None:
    tie = {"prompt": "what is red ?", "chosen": "perhaps .", "rejected": "one .", "tie": True}
    learned = learn("reinforce", model, [*PAIRS, tie], tmp_path / "rewarded", {"ppo": FEW})
    assert learned == LearnedTexts(("reinforce",), learned_from=3, too_long=0, unused=0)
    called = [{"prompt": "what is one ?", "reply": reply, "good": reply == "yes ."} for reply in ("yes .", "no .")]
    assert learn("kto", model, [*called, tie], tmp_path / "called") == LearnedTexts(("kto",), 2, 0, unused=1)


def test_each_block_of_the_page_is_run_by_a_test() -> None:
    """Beside those here: `test_text_rewards`, `test_learning_by_hand`; the last one is a taste for `hone simulate`."""
    others = [block for block in BLOCKS if block not in CALLS]
    assert [sum(word in block for block in others) for word in ("print(rewards", "learner.backbone", "reply_a")] == [
        2, 1, 1,
    ]  # fmt: skip
    assert len(others) == 4


def test_the_methods_of_the_constitution_need_no_examples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the model writes by the one that comes with Hone is what is learned and saved with."""
    calls: list[Any] = []

    class Pretending:
        trained = Trained(skipped={"sl-cai": 2}, limits={"sl-cai": ""})

        def __init__(self, settings: Settings, parent: Path | None, anchor: Path | None) -> None:
            calls.append((settings.constitution.red_team_prompts, parent or anchor))

        def write(self, method: str, lessons: Curated, folder: Path, _: Any) -> Curated:
            assert lessons.constitution == built_in_version() and folder.is_dir()
            return replace(lessons, counts={"written": method})

        def train(self, stages: tuple[str, ...], lessons: Curated, *_: Any) -> None:
            calls.append((stages, lessons.counts))

        def save(self, folder: Path, lessons: Curated) -> None:
            folder.mkdir()
            (folder / ADAPTER_WEIGHTS).touch()
            calls.append((folder.name, lessons.counts))

    monkeypatch.setattr(on_texts, "BackboneTrainer", Pretending)
    (lines,) = set(CALLS) - set(SHOWN)
    monkeypatch.chdir(tmp_path)
    exec(compile(lines, "docs/learning.md", "exec"), {"__name__": "by_hand"})
    starts, trained = calls[::3], calls[1::3]
    assert [start for _, start in starts] == [None, Path("my-sl-cai")]
    assert [stages for stages, _ in trained] == [("sl-cai",), ("rl-cai",)]
    calls.clear()
    learned = learn("sl-cai", "sprout", [], tmp_path / "out", {"constitution": {"red_team_prompts": 4}})
    assert learned.skipped == 2 and learned.remarks == ("sl-cai skipped 2 steps without a finite loss.",)
    written = {"written": "sl-cai"}
    assert calls == [(4, None), (("sl-cai",), written), ("out.partial", written)]
    learn("sl-cai", "sprout", [], tmp_path / "again", {"constitution": {"red_team_prompts": 4}}, str(tmp_path / "out"))
    assert calls[3:] == [(4, tmp_path / "out"), (("sl-cai",), written), ("again.partial", written)]
