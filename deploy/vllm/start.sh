#!/bin/bash
# Starts vLLM as `hone up --engine vllm` does (service/engine_program.py), in a container of vLLM's own image, from the
# settings that the service and the learner read: HONE_ENGINE__MODEL, HONE_ENGINE__MAX_LORAS, … (docs/settings.md).
# Without --lora-target-modules, which `hone up` adds for some models against a fault of vLLM's CPU build
# (docs/operating.md): on a CPU say it in HONE_ENGINE__VLLM_OPTIONS.
# Not Hone's own: PORT, TENSOR_PARALLEL_SIZE (GPUs that share one copy of the model) and DATA_PARALLEL_SIZE (copies
# behind this one address).
set -euo pipefail

fail() { echo "start.sh: $*" >&2; exit 2; }

model=${HONE_ENGINE__MODEL:-}
[[ -n $model && $model != sprout ]] || fail "set HONE_ENGINE__MODEL to a hub name or a folder; sprout comes with Hone alone."

lora_rank=
for allowed in 1 8 16 32 64 128 256 320 512; do  # the values that vLLM takes: the smallest that is large enough
  if [[ -z $lora_rank ]] && ((${HONE_ENGINE__MAX_LORA_RANK:-32} <= allowed)); then lora_rank=$allowed; fi
done
[[ -n $lora_rank ]] || fail "vLLM serves LoRA ranks up to 512; lower HONE_ENGINE__MAX_LORA_RANK."

options=(
  --model "${HONE_ENGINE__WEIGHTS:-$model}"  # under the model's name: what the learner trained against, dequantised
  --served-model-name "$model"
  --host 0.0.0.0
  --port "${PORT:-8000}"
  --dtype "${HONE_ENGINE__DTYPE:-auto}"
  --gpu-memory-utilization "${HONE_ENGINE__GPU_MEMORY_SHARE:-0.6}"
  --max-num-seqs "${HONE_ENGINE__MAX_NUM_SEQS:-64}"
  --max-loras "${HONE_ENGINE__MAX_LORAS:-8}"
  --max-lora-rank "$lora_rank"
  --override-generation-config '{"max_new_tokens": null}'
  --logprobs-mode raw_logprobs
  --shutdown-timeout 60  # replies under way end before it does; the container's grace has to be longer
  --enable-lora
  --disable-uvicorn-access-log  # Hone looks at its engines twice a second
)
[[ -z ${HONE_ENGINE__MAX_MODEL_LEN:-} ]] || options+=(--max-model-len "$HONE_ENGINE__MAX_MODEL_LEN")
[[ -z ${TENSOR_PARALLEL_SIZE:-} ]] || options+=(--tensor-parallel-size "$TENSOR_PARALLEL_SIZE")
[[ -z ${DATA_PARALLEL_SIZE:-} ]] || options+=(--data-parallel-size "$DATA_PARALLEL_SIZE")
further=()
if [[ -n ${HONE_ENGINE__VLLM_OPTIONS:-} ]]; then  # its quotes are read, and nothing in it is run
  further_text=$(xargs -n1 printf '%s\n' <<<"$HONE_ENGINE__VLLM_OPTIONS") || fail "HONE_ENGINE__VLLM_OPTIONS has an open quote."
  mapfile -t further <<<"$further_text"
fi

export VLLM_ALLOW_RUNTIME_LORA_UPDATING=True VLLM_NO_USAGE_STATS=1
# This module and not `vllm serve`, which starts as many API servers as there are copies: an adapter would be loaded
# through one of them and be unknown to the others.
exec "${PYTHON:-python3}" -m vllm.entrypoints.openai.api_server "${options[@]}" ${further[@]+"${further[@]}"}
