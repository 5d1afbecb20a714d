"""TRL's answers to `cases.OF_TRL`: its trainers' own losses, and their gradients.

    .venv-trl/bin/python -m tests.reference.trl_losses FOLDER

reads the model and the adapters that the tests left in FOLDER, and writes `trl_losses.safetensors` there, with names
such as `dpo/loss` and `dpo/gradient/base_model.…`. Runs in TRL's environment, where the project's packages are not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)

from tests.reference import cases

Answers = dict[str, Tensor]
PLAIN: dict[str, Any] = {
    "bf16": False,
    "disable_tqdm": True,
    "gradient_checkpointing": False,
    "logging_strategy": "no",
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
}


def sft(folder: Path, settings: Mapping[str, Any]) -> Answers:
    rows = [{"prompt": prompt, "completion": reply} for prompt, reply in cases.DEMONSTRATIONS]
    chosen = {"per_device_train_batch_size": len(rows), "shuffle_dataset": False} | dict(settings)
    trainer = SFTTrainer(args=SFTConfig(str(folder / "run"), **PLAIN, **chosen), **_shared(folder, rows))
    return _lost(trainer, folder / "policy.safetensors")


def dpo(folder: Path, settings: Mapping[str, Any]) -> Answers:
    chosen = dict(settings)
    order = ("prompt", "rejected", "chosen") if chosen.pop("flipped", False) else ("prompt", "chosen", "rejected")
    rows = [dict(zip(order, pair, strict=True)) for pair in cases.PAIRS]
    trainer = DPOTrainer(args=DPOConfig(str(folder / "run"), **PLAIN, **chosen), **_shared(folder, rows))
    return _lost(trainer, folder / "policy.safetensors")


def kto(folder: Path, settings: Mapping[str, Any]) -> Answers:
    """`policy`: which one's."""
    chosen = {"per_device_train_batch_size": len(cases.LABELS)} | dict(settings)
    adapter = folder / f"{chosen.pop('policy', 'policy')}.safetensors"
    rows = [{"prompt": prompt, "completion": reply, "label": good} for prompt, reply, good in cases.LABELS]
    trainer = KTOTrainer(args=KTOConfig(str(folder / "run"), **PLAIN, **chosen), **_shared(folder, rows))
    answers = _lost(trainer, adapter)
    return answers | {"kl": torch.tensor(trainer._metrics["train"]["kl"])}


def reward(folder: Path, settings: Mapping[str, Any]) -> Answers:
    chosen = dict(settings)
    margins = [{"margin": margin} for margin in cases.MARGINS] if chosen.pop("margins", False) else [{}, {}, {}]
    rows = [
        {"chosen": prompt + better, "rejected": prompt + worse} | margin
        for (prompt, better, worse), margin in zip(cases.PAIRS, margins, strict=True)
    ]
    shared = _shared(folder, rows)
    shared["peft_config"].task_type = "SEQ_CLS"
    trainer = RewardTrainer(args=RewardConfig(str(folder / "run"), **PLAIN, **chosen), **shared)
    return _lost(trainer, folder / "reward.safetensors")


def rloo(folder: Path, settings: Mapping[str, Any]) -> Answers:
    return _sampled(_recording(RLOOTrainer), RLOOConfig, folder, settings)


def grpo(folder: Path, settings: Mapping[str, Any]) -> Answers:
    return _sampled(_recording(GRPOTrainer), GRPOConfig, folder, settings)


def _sampled(trainer_class: Any, config_class: Any, folder: Path, settings: Mapping[str, Any]) -> Answers:
    """Replies of one draw, and the losses of two passes over them, in two steps each: the policy moves in between."""

    def worth(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [cases.worth(reply) for reply in completion_ids]

    count = len(cases.ASKED) * cases.REPLIES
    arguments = config_class(
        str(folder / "run"), **PLAIN, **settings, max_completion_length=cases.REPLY_TOKENS, num_iterations=2,
        num_generations=cases.REPLIES, per_device_train_batch_size=count // 2, steps_per_generation=2, max_steps=4,
        learning_rate=0.02, lr_scheduler_type="constant",
    )  # fmt: skip
    shared = _shared(folder, [{"prompt": prompt} for prompt in cases.ASKED])
    trainer = trainer_class(args=arguments, reward_funcs=worth, **shared)
    set_peft_model_state_dict(trainer.model, load_file(folder / "policy.safetensors"))
    trainer.train()
    answers: Answers = trainer.recorded
    return answers


def _recording(trainer_class: Any) -> Any:
    """The trainer, which keeps what goes into each loss and what comes out of it."""

    class Recording(trainer_class):  # type: ignore[misc]  # TRL's classes are untyped here
        def __init__(self, **more: Any) -> None:
            super().__init__(**more)
            self.recorded: Answers = {}
            self._log_probs = torch.empty(0)
            self._steps = 0

        def _get_per_token_logps_and_entropies(self, *given: Any, **more: Any) -> Any:
            result = super()._get_per_token_logps_and_entropies(*given, **more)
            self._log_probs = result[0]
            return result

        def compute_loss(self, model: Any, inputs: Any, *given: Any, **more: Any) -> Any:
            loss = super().compute_loss(model, inputs, *given, **more)
            (gradient,) = torch.autograd.grad(loss, self._log_probs, retain_graph=True)
            seen = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
            seen |= {"loss": loss, "log_probs": self._log_probs, "gradient": gradient}
            self.recorded |= {f"{self._steps}/{name}": value for name, value in seen.items()}
            self._steps += 1
            return loss

    return Recording


def _shared(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    config = LoraConfig.from_pretrained(str(folder / "policy"))
    config.inference_mode = False
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    return {
        "model": str(folder / "model"),
        "train_dataset": Dataset.from_list(rows),
        "processing_class": tokenizer,
        "peft_config": config,
    }


def _lost(trainer: Any, adapter: Path) -> Answers:
    """The loss of all the examples together, and its gradients by the adapter's weights."""
    state = load_file(adapter)
    state = {"base_model.model.score.weight" if name == "head.weight" else name: state[name] for name in state}
    set_peft_model_state_dict(trainer.model, state)
    trainer.model.train()
    batch = trainer.data_collator(list(trainer.train_dataset))
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    gradients = {
        f"gradient/{name.replace('.default.', '.')}": parameter.grad
        for name, parameter in trainer.model.named_parameters()
        if "lora_" in name
    }
    return {"loss": loss, "input_ids": batch["input_ids"]} | gradients


METHODS: dict[str, Callable[[Path, Mapping[str, Any]], Answers]] = {
    "sft": sft, "dpo": dpo, "kto": kto, "reward": reward, "rloo": rloo, "grpo": grpo,
}  # fmt: skip


def write(answers: Answers, path: Path) -> None:
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in answers.items()}, path)


def main(folder: Path) -> None:
    answers: Answers = {}
    for case in cases.OF_TRL:
        torch.manual_seed(0)
        given = METHODS[case.method](folder, case.settings)
        answers |= {f"{case.name}/{what}": tensor for what, tensor in given.items()}
    write(answers, folder / "trl_losses.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
