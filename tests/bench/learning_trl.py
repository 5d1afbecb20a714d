"""TRL's side of the benchmarks of learning: its trainers, as they come, but for what makes both sides alike.

    .venv-trl/bin/python -m tests.bench.learning_trl WORK

They have LoRA on all linear layers, and no gradient checkpointing, which they have on by default and which would make
them slower still. On a CPU they compute in float32, on a GPU in bfloat16. For PPO, of 1.12 (.venv-trl/trl-1.12 on
PYTHONPATH), the value model has LoRA, too. Their packages are imported where they are used: the project's own
environment has none of them.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

from tests.bench.learning_work import LEARNING_RATE, PPO_EPOCHS, Method, Work, now, serve, timed

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def load(work: Work) -> Callable[[int], float]:
    if work.method == "ppo":
        return _ppo(work)
    trainer = TRAINERS[work.method](work)
    clock = _clock(work)
    trainer.add_callback(clock)

    def run(steps: int) -> float:
        trainer.args.max_steps = steps
        trainer.train()
        seconds: float = clock.seconds
        return seconds

    return run


def _clock(work: Work) -> Any:
    """What a trainer calls where its steps begin and end; making an optimizer and the like is not counted."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]  # untyped here
        seconds = begun = 0.0

        def on_train_begin(self, *given: Any, **more: Any) -> None:
            self.begun = now(work)

        def on_train_end(self, *given: Any, **more: Any) -> None:
            self.seconds = now(work) - self.begun

    return Clock()


def _dpo(work: Work) -> Any:
    from trl import DPOConfig, DPOTrainer

    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    rows = [dict(zip(columns, example, strict=True)) for example in work.examples()]
    precomputed = work.method == "dpo-precomputed"
    return _with_tokens(DPOTrainer)(
        args=DPOConfig(**_arguments(work), model_init_kwargs=_base(work), precompute_ref_log_probs=precomputed),
        **_shared(work, rows),
    )


def _reward(work: Work) -> Any:
    from trl import RewardConfig, RewardTrainer

    rows = [{"chosen_ids": prompt + one, "rejected_ids": prompt + other} for prompt, one, other in work.examples()]
    return _with_tokens(RewardTrainer)(
        args=RewardConfig(**_arguments(work), model_init_kwargs=_base(work)), **_shared(work, rows, "SEQ_CLS")
    )


def _sft(work: Work) -> Any:
    from trl import SFTConfig, SFTTrainer

    rows = [
        {"input_ids": prompt + reply, "labels": [-100] * len(prompt) + reply} for prompt, reply, _ in work.examples()
    ]
    return _with_tokens(SFTTrainer)(
        args=SFTConfig(**_arguments(work), model_init_kwargs=_base(work)), **_shared(work, rows)
    )


def _kto(work: Work) -> Any:
    from trl import KTOConfig, KTOTrainer

    examples = work.examples()
    rows = [
        {
            "prompt_ids": prompt,
            "completion_ids": reply,
            "KL_completion_ids": examples[index - 1][1],
            "label": index % 2 == 0,
        }
        for index, (prompt, reply, _) in enumerate(examples)
    ]
    return _with_tokens(KTOTrainer)(
        args=KTOConfig(**_arguments(work), model_init_kwargs=_base(work)), **_shared(work, rows)
    )


def _ppo(work: Work) -> Callable[[int], float]:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    arguments = PPOConfig(
        **_arguments(work), num_ppo_epochs=PPO_EPOCHS, num_mini_batches=1, gradient_accumulation_steps=1,
        total_episodes=work.batch, response_length=work.reply_tokens, temperature=1.0, num_sample_generations=0,
    )  # fmt: skip
    prompts = [{"input_ids": prompt} for prompt in work.prompts() for _ in range(work.sampled_to_a_prompt)]
    trainer = PPOTrainer(
        args=arguments, processing_class=AutoTokenizer.from_pretrained(work.model, padding_side="left"),
        model=AutoModelForCausalLM.from_pretrained(work.model, **_base(work)), ref_model=None,
        reward_model=_scalar(work, trains=False), value_model=_scalar(work, trains=True),
        train_dataset=Dataset.from_list(prompts), eval_dataset=Dataset.from_list(prompts[:1]),
        peft_config=_lora(work, "CAUSAL_LM"),
    )  # fmt: skip

    def run(steps: int) -> None:
        trainer.args.num_total_batches = steps
        trainer.train()

    return lambda steps: timed(work, run, steps)


def _scalar(work: Work, trains: bool) -> Any:
    """The base with one number for an output; where it trains by an adapter and that output's weights."""
    from peft import inject_adapter_in_model
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(work.model, num_labels=1, **_base(work))
    if trains:
        inject_adapter_in_model(_lora(work, "SEQ_CLS"), model)
        model.score.requires_grad_(True)
    return model


def _with_tokens(trainer_class: Any) -> Any:
    """The trainer for a data set of token ids, in the columns that it would have made of texts."""

    class WithTokens(trainer_class):  # type: ignore[misc]  # untyped here
        def _prepare_dataset(self, dataset: Any, *given: Any, **more: Any) -> Any:
            return dataset

    return WithTokens


def _base(work: Work) -> dict[str, Any]:
    """How the model is loaded."""
    if work.device == "cpu":
        return {"dtype": "float32"}
    if work.precision == "bfloat16":
        return {"dtype": "bfloat16"}
    import torch
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    return {"dtype": "bfloat16", "quantization_config": config, "device_map": {"": 0}}


def _arguments(work: Work) -> dict[str, Any]:
    folder = tempfile.mkdtemp(prefix="hone-bench-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {
        "output_dir": folder,
        "bf16": work.device == "cuda",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "learning_rate": LEARNING_RATE,
        "logging_strategy": "no",
        "max_steps": 1,
        "per_device_train_batch_size": work.batch,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": work.device == "cpu",
    }


def _shared(work: Work, rows: list[dict[str, Any]], task: str = "CAUSAL_LM") -> dict[str, Any]:
    from datasets import Dataset
    from transformers import AutoTokenizer

    return {
        "model": work.model,
        "train_dataset": Dataset.from_list(rows),
        "processing_class": AutoTokenizer.from_pretrained(work.model),
        "peft_config": _lora(work, task),
    }


def _lora(work: Work, task: str) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=work.rank, lora_alpha=work.alpha, target_modules=LINEAR, task_type=task)


TRAINERS: dict[Method, Callable[[Work], Any]] = {
    "dpo": _dpo, "dpo-precomputed": _dpo, "reward": _reward, "sft": _sft, "kto": _kto,
}  # fmt: skip


if __name__ == "__main__":
    serve(load)
