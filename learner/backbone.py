"""One frozen base model in many roles: policy (a LoRA adapter that trains), parent (the adapter it started from),
anchor (what KL is measured from: the bare base, or a named frozen adapter), judge (one more frozen adapter), reward and
value (adapters with a linear head in the output layer's place). One copy of the weights serves them all (LoRA: arXiv
2106.09685; Hydra-PPO, arXiv 2309.00754, which found that policy and value need adapters of their own).

    backbone = Backbone.load(model_path, settings.learner, parent=folder_of_v3)
    log_probs = backbone.log_probs(collate(examples, backbone.pad_id), "policy")
    backbone.add_head("reward")
    rewards = backbone.rewards(collate(examples, backbone.pad_id))

Any causal model that transformers loads will do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor

from learner import parallel
from learner.adapted_model import AdaptedModel, HeadRole, Role
from learner.base_tokenizer import load_tokenizer
from learner.batch import Example, Sequences, by_length, collate, tokens_of
from learner.gradient_checkpointing import checkpoint_layers
from learner.last_layer import last_feed_forward
from learner.loading import load_adapter, load_base, lora_config, sum_in_one_order
from learner.lora_product import fuse
from learner.micro_batches import MicroBatches
from learner.output_layer import plain_output_layer
from learner.packing import Packed, hidden_states, pack, predicting_logits, try_packing
from learner.predictions import Predictions
from learner.starting_adapter import base_of, check_base, kept_shape
from service.adapters.base_model import check_model
from service.errors import BadInput, TrainingFailed
from service.settings import LearnerSettings

log = logging.getLogger("hone.learner")

SCORED, SAMPLED, DESCRIBED = "scored replies", "replies to sample", "replies to describe"
"""What `Backbone.fitting` knows the number of that fits the memory at once."""


class Backbone(AdaptedModel):
    """The model in all its roles, and what it computes in each; see the module's docstring. Not for several threads."""

    def __init__(self, model: PeftModel, tokenizer: Any, frozen: frozenset[Role]) -> None:
        with model.disable_adapter():
            self._packs = try_packing(model.get_base_model())
            self._output_layer = plain_output_layer(model.get_base_model())
            self._last_feed_forward = last_feed_forward(model.get_base_model()) if self._packs else None
        super().__init__(model, frozen)
        self.tokenizer = tokenizer
        self.fitting = {what: MicroBatches(what) for what in (SCORED, SAMPLED, DESCRIBED)}

    @classmethod
    def load(
        cls,
        model_path: str | Path,
        settings: LearnerSettings,
        parent: Path | None = None,
        anchor: Path | None = None,
        device: torch.device | str | None = None,
    ) -> Backbone:
        """Load base and tokenizer; start the policy at `parent` (an adapter folder) or at a LoRA that changes nothing.

        On a CPU the weights are widened to float32 (exact for bfloat16 weights); on a GPU they keep their type. With
        `settings.quantise` the linear layers are in NF4 on both. With `settings.sharding` each of the processes that
        train (`learner.parallel`) keeps a part of the layers' weights; all are to load it.
        Raises TrainingFailed when the base, AdapterBroken when an adapter folder can't be loaded, BadInput for one of
        another base; the log says where the parent's rank or alpha isn't that of the settings.
        """
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "cuda":
            sum_in_one_order()
        with _loading(model_path):
            check_model(str(model_path))
        for given in filter(None, {parent, anchor}):
            check_base(given, model_path)  # before a base is loaded in vain
        with _loading(model_path):
            tokenizer = load_tokenizer(model_path)
            base = load_base(model_path, settings, device)
        base.requires_grad_(False)
        config = lora_config(parent, settings)
        if parent and base_of(parent):
            config.base_model_name_or_path = None  # it is this one, by its hash: PEFT would warn of another path to it
        if parent and parallel.is_first() and (kept := kept_shape(str(parent), config.r, config.lora_alpha, settings)):
            log.warning(kept)
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            model = get_peft_model(base, config, adapter_name="policy")
        frozen: set[Role] = set()
        roles: tuple[tuple[Role, Path | None], ...] = (("policy", parent), ("parent", parent), ("anchor", anchor))
        for role, folder in roles:
            if folder is None:
                continue
            if role != "policy":
                model.add_adapter(role, lora_config(folder, settings))
                frozen.add(role)
            load_adapter(model, role, folder)
        fuse(model)
        model.eval()  # no dropout anywhere: the log-probabilities trained on are those that will be served
        backbone = cls(model, tokenizer, frozenset(frozen))
        if settings.gradient_checkpointing:
            checkpoint_layers(base, lambda: partial(backbone.use, backbone._active or "policy"))
            backbone._last_feed_forward = None  # a layer that runs again would run whole
        parallel.meet()  # it was tried out by now
        return backbone

    @property
    def in_4_bits(self) -> bool:
        """Whether the base is (NF4)."""
        return bool(getattr(self.model.get_base_model(), "is_loaded_in_4bit", False))

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The tokens that end a reply."""
        eos = self.model.generation_config.eos_token_id
        eos = self.tokenizer.eos_token_id if eos is None else eos
        return tuple(eos) if isinstance(eos, Sequence) else (() if eos is None else (int(eos),))

    @property
    def pad_id(self) -> int:
        """What fills the unused places of a batch; always masked, so any token will do."""
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else (self.eos_ids or (0,))[0]

    @property
    def max_length(self) -> int:
        """Longest sequence, in tokens, that the base was made for."""
        return int(getattr(self.model.config, "max_position_embeddings", 1 << 20))

    def decode(self, replies: Sequence[Sequence[int]]) -> list[str]:
        """The texts of replies, without special tokens, as a person sees them."""
        return [str(self.tokenizer.decode(list(reply), skip_special_tokens=True)) for reply in replies]

    def logits(self, sequences: Sequences, role: Role = "policy") -> tuple[Tensor, Tensor, Tensor]:
        """Logits where a reply token is predicted: (logits (N, V), token_ids (N,), rows (N,)), N reply tokens in all.

        Only what predicts a reply token goes through the output layer, or, of padded rows, the columns in which some
        row has one. Nothing is padded, and a prompt that several rows share is computed once (`learner.packing`),
        where the model's attention allows it.
        """
        if self._packs and sequences.reply_mask[:, 1:].any():
            packed = pack(sequences).to(self.device)
            with self.use(role) as model:
                return predicting_logits(model, packed), packed.targets, packed.rows
        sequences = sequences.to(self.device)
        scored = sequences.reply_mask[:, 1:]  # (B, T - 1): the position before predicts the token
        columns = scored.any(0).nonzero().squeeze(1)
        rows, places = scored[:, columns].nonzero(as_tuple=True)
        if len(rows) == 0:
            return torch.zeros(0, int(self.model.config.vocab_size), device=self.device), rows, rows
        with self.use(role) as model:
            output = model(
                input_ids=sequences.token_ids,
                attention_mask=sequences.attention_mask,
                logits_to_keep=columns,
                use_cache=False,
            )
        return output.logits[rows, places], sequences.token_ids[:, 1:][rows, columns[places]], rows

    def predictions(self, sequences: Sequences, role: Role = "policy") -> Predictions:
        """What predicts the N reply tokens, as hidden states where the output layer is known to be all that follows."""
        if self._output_layer is None:
            logits, token_ids, rows = self.logits(sequences, role)
            return Predictions(token_ids, rows, logits, None)
        states, token_ids, rows = self._predicting(sequences, role)
        return Predictions(token_ids, rows, states, self._output_layer)

    def log_probs(self, sequences: Sequences, role: Role = "policy") -> Tensor:
        """Log-probability of every reply token: (B, T), float32, aligned with `token_ids`; 0 outside the reply."""
        log_probs = self.predictions(sequences, role).log_probs()
        mask = sequences.reply_mask.to(self.device).clone()
        mask[:, :1] = False  # nothing predicts the first token
        return torch.zeros(mask.shape, device=self.device).masked_scatter(mask, log_probs)

    def reply_log_probs(self, sequences: Sequences, role: Role = "policy") -> Tensor:
        """Log-probability of every whole reply: (B,), float32."""
        return self.predictions(sequences, role).reply_log_probs(len(sequences.token_ids))

    def rewards(self, sequences: Sequences, role: HeadRole = "reward") -> Tensor:
        """The head's numbers at the last token of each reply: (B, outputs), float32.

        Raises ValueError for a row without a reply.
        """
        if not sequences.reply_mask[:, 1:].any(1).all():
            raise ValueError("A reward needs a reply of at least one token, after a prompt.")
        if self._packs:
            packed = pack(sequences, ends=True).to(self.device)
            states = self._packed_states(packed, packed.ends, role)
        else:
            ends = sequences.reply_mask.long().cumsum(1).argmax(1)  # where the count is first complete
            states = self._hidden_states(sequences, role)[torch.arange(len(ends)), ends.to(self.device)]
        return self._number(states, role)

    def values(self, sequences: Sequences, role: HeadRole = "value") -> Tensor:
        """The head's number where each reply token is predicted, the state in which it is chosen: (B, T), float32,
        aligned with `token_ids`; 0 outside the reply. `role`: one with a single output.
        """
        mask = sequences.reply_mask.to(self.device).clone()
        mask[:, :1] = False
        numbers = self._number(self._predicting(sequences, role)[0], role)[:, 0]
        return torch.zeros(mask.shape, device=self.device).masked_scatter(mask, numbers)

    def _predicting(self, sequences: Sequences, role: Role) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states where a reply token is predicted: (states (N, H), token_ids (N,), rows (N,))."""
        if self._packs and sequences.reply_mask[:, 1:].any():
            packed = pack(sequences).to(self.device)
            states = self._packed_states(packed, packed.scored, role)[packed.predicts]
            return states, packed.targets, packed.rows
        sequences = sequences.to(self.device)
        scored = sequences.reply_mask[:, 1:]  # (B, T - 1): the position before predicts the token
        states = self._hidden_states(sequences, role)[:, :-1][scored]
        return states, sequences.token_ids[:, 1:][scored], scored.nonzero()[:, 0]

    def _packed_states(self, packed: Packed, places: Tensor, role: Role) -> Tensor:
        """Hidden states of M tokens, each once: (M,) → (M, H)."""
        with self.use(role):
            decoder = self.model.get_base_model().get_decoder()
            return hidden_states(decoder, packed, places, self._last_feed_forward)

    def _hidden_states(self, batch: Sequences, role: Role) -> Tensor:
        """Of every token: (B, T, H)."""
        batch = batch.to(self.device)
        with self.use(role):
            states: Tensor = (
                self.model.get_base_model()
                .get_decoder()(input_ids=batch.token_ids, attention_mask=batch.attention_mask, use_cache=False)
                .last_hidden_state
            )
            return states

    def _number(self, states: Tensor, role: HeadRole) -> Tensor:
        numbers: Tensor = self._heads[role](states.float())
        return numbers

    def score(self, examples: Sequence[Example], role: Role, batch_size: int = 64) -> Tensor:
        """Log-probability of each example's reply: (len(examples),), float32, on the CPU, without gradients. Where
        several processes train, all are to ask for it, and each computes a share."""
        return parallel.rows(examples, partial(self._score, role, batch_size), tokens_of)

    @torch.no_grad()
    def _score(self, role: Role, batch_size: int, examples: Sequence[Example]) -> Tensor:
        scores = torch.zeros(len(examples))

        def log_probs(indices: Sequence[int]) -> Tensor:
            return self.reply_log_probs(collate([examples[index] for index in indices], self.pad_id), role).cpu()

        places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompt for prompt, _ in examples))}
        # nothing is padded in packed rows: there a prompt's replies stay together, so that it is computed once
        order = [places[example[0]] if self._packs else tokens_of(example) for example in examples]
        for indices in by_length(order, batch_size):
            for part, found in self.fitting[SCORED].each(indices, log_probs):
                scores[list(part)] = found
        return scores


@contextmanager
def _loading(model_path: str | Path) -> Iterator[None]:
    """Raises TrainingFailed for what is wrong with the base."""
    try:
        yield
    except (OSError, ValueError, BadInput) as error:
        raise TrainingFailed(f"The base model {model_path} can't be loaded: {str(error).rstrip('.')}.") from error
