"""The whole recipe: generate text, train the tokenizer, train the model, export, evaluate, write the model card.

    python -m learner.pretrain --out service/sprout

A run that was killed goes on from its last checkpoint in `--work` when started again with the same arguments.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from learner.pretrain.card import model_card
from learner.pretrain.evaluate import as_json, evaluate
from learner.pretrain.export import export
from learner.pretrain.stream import dialogues
from learner.pretrain.tokenizer import CONTEXT, save_tokenizer, train_tokenizer
from learner.pretrain.train import Recipe, State, read_state, train

TOKENIZER_DIALOGUES = 40_000
TOKENIZER_SEED = 99


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _tokenizer(recipe: Recipe, work: Path) -> PreTrainedTokenizerFast:
    if recipe.begin:
        return PreTrainedTokenizerFast.from_pretrained(recipe.begin)
    folder = work / "tokenizer"
    if not (folder / "tokenizer_config.json").exists():
        _say(f"training the tokenizer on {TOKENIZER_DIALOGUES} dialogues")
        save_tokenizer(train_tokenizer(islice(dialogues(TOKENIZER_SEED), TOKENIZER_DIALOGUES)), folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def _effort(recipe: Recipe, state: State, model: LlamaForCausalLM) -> dict[str, Any]:
    return {
        "parameters": sum(p.numel() for p in model.parameters()) / 1e6,
        "layers": recipe.layers, "hidden": recipe.hidden,
        "heads": recipe.heads, "kv_heads": recipe.kv_heads, "vocab": model.config.vocab_size, "context": CONTEXT,
        "tokens": state.tokens / 1e6, "minutes": state.seconds / 60, "steps": state.step, "practised": state.practised,
        "seed": recipe.seed,
        "sharpness": recipe.sharpness,
    }  # fmt: skip


def make(recipe: Recipe, out: Path, work: Path, evaluation_size: int, note: str = "") -> dict[str, Any]:
    """Run the recipe and return the figures, which are also written to `out`."""
    tokenizer = _tokenizer(recipe, work)
    export(train(recipe, tokenizer, work, report=_say), tokenizer, out, recipe.sharpness)
    torch.set_num_threads(recipe.replicas)
    _say("evaluating the exported weights")
    model = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32)
    figures = evaluate(model, tokenizer, evaluation_size)
    (out / "evaluation.json").write_text(as_json(figures) + "\n")
    card = model_card(figures, _effort(recipe, read_state(work), model), note)
    (out / "README.md").write_text(card)
    return figures


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m learner.pretrain", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("service/sprout"), help="folder for the model")
    parser.add_argument("--work", type=Path, default=Path("build/pretrain"), help="folder for checkpoints and metrics")
    parser.add_argument("--evaluation-size", type=int, default=400, help="prompts per figure")
    parser.add_argument("--note", default="", help="a remark on this training, for the model card")
    for field in fields(Recipe):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default,
                            help=f"default {field.default}")  # fmt: skip
    options = vars(parser.parse_args(arguments))
    out, work, size = options.pop("out"), options.pop("work"), options.pop("evaluation_size")
    note = options.pop("note")
    figures = make(Recipe(**options), out, work, size, note)
    right = figures["accuracy"]
    _say(f"accuracy {right['greedy']:.1%} greedy, {right['sampled']:.1%} sampled; see {out}/README.md")


if __name__ == "__main__":
    main()
