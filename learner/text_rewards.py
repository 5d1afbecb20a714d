"""A reward model of texts, without a service: kept in a folder, loaded from it, and asked how good replies are.

    rewards = learn_reward("sprout", [{"prompt": "Hello!", "chosen": "Hi.", "rejected": "What?"}], "my-reward")
    rewards = TextRewards.load("my-reward", "sprout")
    rewards.score([("Hello!", "Hi. How are you?"), ("Hello!", "No.")])

It is fitted by `learner.on_texts.learn_reward`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file

from learner import parallel
from learner.backbone import Backbone
from learner.base_tokenizer import reply_tokenizer
from learner.batch import tokens_of
from learner.loading import check_weights
from learner.methods.reward_model import Graded, RewardFit, RewardModel
from learner.starting_adapter import check_base, write_base
from learner.text_examples import prompt_ids, read_examples
from learner.weights_file import write_tensors
from service.adapters.base_model import check_model
from service.errors import AdapterBroken, BadInput
from service.settings import Settings, load_settings

REWARD_FILE, REWARD_WEIGHTS = "reward.json", "reward.safetensors"
ANOTHER = "Name a folder that `learn_reward` wrote, or let it write one."
AGAIN = "It is cut short or damaged: copy it again from where it came from, or fit the reward model anew."

Prompt = str | Sequence[Mapping[str, str]]
"""Words, or the messages of a conversation."""


class _Shape(BaseModel):
    """The settings without which the weights mean nothing."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)

    rank: int
    alpha: float
    quantise: str


class _Kept(BaseModel):
    """What is in `REWARD_FILE`."""

    model_config = ConfigDict(extra="forbid")

    learner: _Shape
    fit: RewardFit


class TextRewards:
    """See the module's docstring. `fit`: how well it foretells judgements that it didn't learn from."""

    def __init__(self, backbone: Backbone, model: RewardModel, settings: Settings) -> None:
        """`settings`: those that the backbone was loaded by."""
        self.fit = model.fit
        self._backbone, self._model, self._settings = backbone, model, settings
        self._reply = reply_tokenizer(settings.model_path)

    @classmethod
    def load(cls, folder: str | Path, model: str | Path) -> TextRewards:
        """What was saved in this folder, on the model ("sprout", a folder or a hub name) that it was fitted on.

        Raises BadInput for no model or another one, AdapterBroken where the folder holds no reward model or one that
        can't be read, and what `Backbone.load` does.
        """
        folder = Path(folder)
        try:
            kept = _Kept.model_validate_json((folder / REWARD_FILE).read_bytes())
        except OSError as error:
            what = "holds no reward model" if folder.is_dir() else "is no folder"
            raise AdapterBroken(f"{folder} {what}: {error}.", ANOTHER) from error
        except ValidationError as error:
            raise AdapterBroken(f"{folder / REWARD_FILE} can't be read: {error}.", AGAIN) from error
        sections = {"engine": {"model": str(model)}, "learner": kept.learner.model_dump()}
        settings = load_settings(folder, sections, environment={})
        check_model(settings.model_path)
        check_base(folder, settings.model_path)
        backbone = Backbone.load(settings.model_path, settings.learner, device=parallel.device())
        path = folder / REWARD_WEIGHTS
        try:
            weights = load_file(path)
            check_weights(weights, path)
            restored = RewardModel.restored(backbone, {"weights": weights, "fit": vars(kept.fit)})
        except AdapterBroken:
            raise
        except Exception as error:  # safetensors and torch raise many kinds; all mean that the file is no good
            raise AdapterBroken(f"{path} can't be loaded: {error}.", AGAIN) from error
        if weights.keys() != backbone.adapter_state("reward").keys():
            raise AdapterBroken(f"{path} does not fit this base.", AGAIN)
        return cls(backbone, restored, settings)

    def save(self, folder: str | Path) -> None:
        """Write it to a folder, which need not be there, with the base that it belongs to. Raises OSError."""
        folder, learner = Path(folder), self._settings.learner
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(self._backbone.adapter_state("reward"), folder / REWARD_WEIGHTS, {"format": "pt"})
        kept = _Kept(learner=_Shape.model_validate(learner), fit=self.fit)
        (folder / REWARD_FILE).write_text(kept.model_dump_json(indent=1) + "\n", encoding="utf-8")
        write_base(folder, self._settings.model_path, learner)

    def score(self, replies: Sequence[tuple[Prompt, str]]) -> list[float]:
        """Of each prompt with a reply to it how good the reply is, in nats of log-odds: that it is preferred to another
        reply to the prompt has the logistic function of the difference as its probability. Raises BadInput as `grade`
        does."""
        return [float(mean) for mean in self.grade(replies).mean]

    def grade(self, replies: Sequence[tuple[Prompt, str]]) -> Graded:
        """The same with how far the heads disagree. Raises BadInput, which says which of them is no prompt with a
        reply, or is longer than the model's context, and AdapterBroken for scores that aren't finite."""
        rows = [{"prompt": prompt, "reply": reply, "good": False} for prompt, reply in replies]  # it may be empty
        examples = [
            (prompt_ids(self._backbone.tokenizer, one.prompt), self._reply(one.replies[0]))
            for one in read_examples(rows)
        ]
        for number, example in enumerate(examples, 1):
            if tokens_of(example) > self._backbone.max_length:
                raise BadInput(
                    f"Example {number}: with its prompt it is longer than the model's context of "
                    f"{self._backbone.max_length} tokens.",
                    "Shorten it.",
                )
        graded = self._model.grade(examples) if examples else Graded(torch.zeros(0), torch.zeros(0))
        if wrong := int((~graded.mean.isfinite()).sum()):
            raise AdapterBroken(
                f"The reward model gives {wrong} of {len(examples)} replies no finite score.",
                "Fit it anew, at a lower learner.reward_learning_rate.",
            )
        return graded
