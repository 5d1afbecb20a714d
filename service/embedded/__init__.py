"""The embedded engine: serves one base model and many LoRA adapters over the part of vLLM's HTTP API that Hone uses.

Read it in this order. `__main__` starts two processes: the HTTP front (`server`, `protocol`, `replies`, `text`) and the
worker (`worker`), which speak through a pipe (`link`, `messages`). The worker's `engine` repeats one step for ever:
`scheduler` says who runs, a model (`llama`, or `general` for every other architecture) computes over the `kv_cache`,
`sampling` picks tokens. `lora` reads adapters; `checkpoint` reads models.
"""
