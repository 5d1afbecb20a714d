"""TRL 1.12's answers to `cases.PPO`: what its PPO trainer computes while it trains.

    PYTHONPATH=.venv-trl/trl-1.12 .venv-trl/bin/python -m tests.reference.trl_ppo FOLDER

reads the model and the adapters that the tests left in FOLDER, and writes `trl_ppo.safetensors` there. That trainer
computes everything in one method, `train`, so what it computed is read from the variables of that method, where it
whitens advantages and where it goes back through a loss.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from tests.reference import cases

EXPERIENCE = (
    "queries", "responses", "logprobs", "ref_logprobs", "scores", "values", "contain_eos_token", "padding_mask",
    "padding_mask_p1", "kl", "rewards", "advantages", "returns",
)  # fmt: skip
STEP = ("mb_logprobs", "new_logprobs", "mb_advantage", "mb_values", "vpred", "mb_return", "pg_loss", "vf_loss")


class Recording:
    """Stands where the trainer would call `masked_whiten` and `backward`, and keeps what it finds there."""

    def __init__(self, trainer: Any) -> None:
        self.found: dict[str, Tensor] = {}
        self._whiten, self._backward = ppo_trainer.masked_whiten, trainer.accelerator.backward
        self._whitened = self._steps = 0
        self._stats: Tensor = torch.empty(0)

    def whiten(self, values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
        result: Tensor = self._whiten(values, mask, shift_mean)
        seen = sys._getframe(1).f_locals
        if "returns" in seen:  # the advantages, after which all is known
            self._keep("", seen, EXPERIENCE)
            self._stats = seen["approxkl_stats"]
        place = f"whitened/{self._whitened}"
        self.found |= {f"{place}/values": values.clone(), f"{place}/mask": mask.clone(), f"{place}/result": result}
        self._whitened += 1
        return result

    def backward(self, loss: Tensor) -> None:
        seen = sys._getframe(1).f_locals
        place, rows = f"step/{self._steps}/", seen["micro_batch_inds"]
        self._keep(place, seen, STEP)
        for of, by in (("pg_loss", "new_logprobs"), ("vf_loss", "vpred")):
            (gradient,) = torch.autograd.grad(seen[of], seen[by], retain_graph=True)
            self.found[f"{place}{of}/gradient"] = gradient
        self.found[f"{place}mask"] = ~seen["padding_mask"][rows]
        self.found[f"{place}value_mask"] = ~seen["padding_mask_p1"][rows]
        self._steps += 1
        self._backward(loss)

    def finish(self) -> dict[str, Tensor]:
        for step, approximate_kl in enumerate(self._stats[:, :, 0].flatten()):
            self.found[f"step/{step}/approximate_kl"] = approximate_kl
        return self.found

    def _keep(self, place: str, seen: dict[str, Any], names: Sequence[str]) -> None:
        self.found |= {place + name: seen[name].detach().clone() for name in names}


def answer(folder: Path, settings: dict[str, Any]) -> dict[str, Tensor]:
    """One iteration: replies, their advantages, and two passes over them in two steps each."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "model", padding_side="left")
    prompts = [prompt for prompt in cases.ASKED for _ in range(cases.REPLIES)]
    config = LoraConfig.from_pretrained(str(folder / "policy"))
    config.inference_mode = False
    arguments = PPOConfig(
        output_dir=str(folder / "run"), bf16=False, use_cpu=True, report_to="none", gradient_checkpointing=False,
        save_strategy="no", disable_tqdm=True, num_sample_generations=0, total_episodes=len(prompts), num_ppo_epochs=2,
        per_device_train_batch_size=len(prompts) // 2, gradient_accumulation_steps=2, num_mini_batches=2,
        response_length=cases.REPLY_TOKENS, temperature=1.0, stop_token="eos", learning_rate=0.02,
        lr_scheduler_type="constant", kl_coef=cases.KL_COEFFICIENT, missing_eos_penalty=cases.MISSING_EOS_PENALTY,
        cliprange=cases.CLIP, cliprange_value=cases.VALUE_CLIP, seed=12, **settings,
    )  # fmt: skip
    trainer = PPOTrainer(
        args=arguments, processing_class=tokenizer, model=AutoModelForCausalLM.from_pretrained(folder / "model"),
        ref_model=None, reward_model=_with_head(folder, "reward"), value_model=_with_head(folder, "value"),
        train_dataset=Dataset.from_list([{"input_ids": tokenizer(prompt)["input_ids"]} for prompt in prompts]),
        eval_dataset=Dataset.from_list([{"input_ids": [0]}]), peft_config=config,
    )  # fmt: skip
    set_peft_model_state_dict(trainer.model.policy, load_file(folder / "policy.safetensors"))
    recording = Recording(trainer)
    ppo_trainer.masked_whiten, trainer.accelerator.backward = recording.whiten, recording.backward
    try:
        trainer.train()
    finally:
        ppo_trainer.masked_whiten = recording._whiten
    return recording.finish()


def _with_head(folder: Path, role: str) -> Any:
    """A whole model that says what the base says with a role's adapter and head."""
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=1)
    state = load_file(folder / f"{role}.safetensors")
    config = LoraConfig.from_pretrained(str(folder / "policy"))
    adapted = PeftModel(model, config)
    set_peft_model_state_dict(adapted, {name: tensor for name, tensor in state.items() if "lora_" in name})
    merged = adapted.merge_and_unload().requires_grad_(True)
    with torch.no_grad():
        merged.score.weight.copy_(state["head.weight"])
    return merged


def main(folder: Path) -> None:
    assert trl.__version__.startswith("1.12."), trl.__version__
    answers = {f"{case.name}/{what}": t for case in cases.PPO for what, t in answer(folder, case.settings).items()}
    save_file({name: t.detach().clone().contiguous() for name, t in answers.items()}, folder / "trl_ppo.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
