"""What is the embedded engine's own over HTTP; what it shares with vLLM is in tests/engine_contract."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from service.embedded.tokenizer import load_tokenizer
from tests.embedded.driving import Reference
from tests.embedded.models import POSITIONS, save_adapter
from tests.embedded.serving import Served, serving, tokens_until_hang_up

HELLO = [{"role": "user", "content": "the cat"}]


@pytest.fixture(scope="module")
def served(model_of: Callable[[str], Path]) -> Iterator[Served]:
    options = [
        "--model",
        str(model_of("llama")),
        "--served-model-name",
        "tiny",
        "--max-num-seqs",
        "6",
        "--max-loras",
        "3",
    ]
    with serving(*options) as engine:
        yield engine


@pytest.fixture(scope="module")
def adapter(model_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("adapters") / "one", model_of("llama"), seed=1)


def chat(**options: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": HELLO, "max_tokens": 8, **options}


def complete(**options: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 8, **options}


def test_it_says_in_plain_words_what_it_serves(served: Served) -> None:
    said = "\n".join(served.said)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert f"Model tiny (LlamaForCausalLM) in float32 on {device}" in said
    assert "GiB at most" in said and f"{POSITIONS} tokens a sequence, 6 sequences at once" in said
    assert f"Serving on http://127.0.0.1:{served.port}." in said


def test_the_eos_token_is_reported_but_not_shown(served: Served, model_of: Callable[[str], Path]) -> None:
    greedy = Reference(model_of("llama")).greedy([5, 6, 7], 6)[0]
    ends = {"temperature": 0, "stop_token_ids": [greedy[2]], "return_token_ids": True, "logprobs": 0}
    choice = served.post("/v1/completions", complete(**ends)).json()["choices"][0]
    stop = greedy.index(greedy[2]) + 1
    assert choice["finish_reason"] == "stop" and choice["token_ids"] == greedy[:stop]
    assert choice["text"] == load_tokenizer(model_of("llama")).decode(greedy[: stop - 1])
    assert len(choice["logprobs"]["token_logprobs"]) == stop


def test_n_choices_differ_and_seeds_repeat_them(served: Served) -> None:
    options = complete(n=4, seed=7, temperature=1.5)
    first, second = (served.post("/v1/completions", options).json()["choices"] for _ in range(2))
    assert [choice["index"] for choice in first] == [0, 1, 2, 3]
    assert len({choice["text"] for choice in first}) == 4
    assert [choice["text"] for choice in first] == [choice["text"] for choice in second]
    streamed = ["", "", "", ""]
    for event in served.events("/v1/completions", options)[:-1]:
        streamed[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert streamed == [choice["text"] for choice in first]


def test_completion_logprobs_and_prompt_logprobs(served: Served, model_of: Callable[[str], Path]) -> None:
    prompt = [5, 6, 7, 8]
    options = complete(prompt=prompt, temperature=0, logprobs=2, prompt_logprobs=0, max_tokens=3, ignore_eos=True)
    choice = served.post("/v1/completions", options).json()["choices"][0]
    reference = Reference(model_of("llama"))
    values = reference.greedy(prompt, 3)[1]
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(values, abs=1e-4)
    assert all(1 <= len(top) <= 3 for top in choice["logprobs"]["top_logprobs"])
    assert choice["logprobs"]["text_offset"][0] == 0
    assert choice["prompt_logprobs"][0] is None
    rows = reference.logprobs(prompt)
    for place, entry in enumerate(choice["prompt_logprobs"][1:]):
        [(token, values_of)] = entry.items()
        assert int(token) == prompt[place + 1]
        assert values_of["logprob"] == pytest.approx(float(rows[place, prompt[place + 1]]), abs=1e-4)


def test_echo_puts_the_prompt_first(served: Served) -> None:
    plain = served.post("/v1/completions", complete(prompt="the cat", temperature=0, logprobs=0)).json()["choices"][0]
    echo = complete(prompt="the cat", temperature=0, logprobs=0, echo=True)
    echoed = served.post("/v1/completions", echo).json()["choices"][0]
    assert echoed["text"] == "the cat" + plain["text"]
    assert echoed["logprobs"]["token_logprobs"][0] is None
    assert echoed["logprobs"]["tokens"][-1] == plain["logprobs"]["tokens"][-1]


@pytest.mark.parametrize("extreme", [{"temperature": 1e-40}, {"temperature": 2.0, "top_k": 1}, {"min_p": 1.0}])
def test_the_narrowest_settings_are_greedy(served: Served, extreme: dict[str, Any]) -> None:
    asked = [served.post("/v1/completions", complete(ignore_eos=True, **o)) for o in (extreme, {"temperature": 0})]
    assert len({reply.json()["choices"][0]["text"] for reply in asked}) == 1


@pytest.mark.parametrize("extreme", [{"top_k": 2**64 - 1}, {"top_p": 1e-300}, {"temperature": 2}, {"seed": -(2**70)}])
def test_no_setting_however_large_ends_the_engine(served: Served, extreme: dict[str, Any]) -> None:
    assert served.post("/v1/completions", complete(**extreme)).status_code == 200
    assert served.post("/v1/completions", complete()).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/v1/chat/completions", {"model": "nobody", "messages": HELLO}, 404, "not loaded"),
        ("/v1/chat/completions", chat(messages=[]), 400, "messages"),
        (
            "/v1/chat/completions",
            chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
            400,
            "image_url",
        ),
        ("/v1/chat/completions", chat(temperature=-1), 400, "temperature"),
        ("/v1/chat/completions", chat(stream_options={"include_usage": True}), 400, "stream"),
        ("/v1/chat/completions", chat(tools=[{"type": "function"}]), 400, "tools"),
        ("/v1/chat/completions", chat(n=0), 400, "n:"),
        ("/v1/completions", complete(prompt=[5] * POSITIONS), 400, "the context holds"),
        ("/v1/completions", complete(max_tokens=10**30), 400, "the context holds"),
        ("/v1/completions", complete(prompt=[100_000]), 400, "vocabulary"),
        ("/v1/completions", complete(prompt=""), 400, "empty"),
        ("/v1/completions", complete(prompt=[]), 400, "prompt"),
        ("/v1/completions", complete(presence_penalty=1.0), 400, "presence_penalty"),
        ("/v1/completions", "not an object", 400, ""),
        ("/v1/nowhere", {}, 404, "Not Found"),
    ],
)
def test_bad_requests_get_an_openai_error(served: Served, path: str, body: Any, status: int, says: str) -> None:
    response = served.post(path, body)
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert says in error["message"]


def test_malformed_and_oversized_bodies_are_refused(served: Served) -> None:
    assert served.client.post("/v1/completions", content=b'{"model":').status_code == 400
    assert served.client.post("/v1/completions", content=b" " * (17 * 2**20)).status_code == 413


def test_adapters_that_cannot_be_served_say_why(served: Served, adapter: Path, tmp_path: Path) -> None:
    missing = served.post("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": str(tmp_path / "nothing")})
    assert missing.status_code == 404
    empty = served.post("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": str(tmp_path)})
    assert empty.status_code == 400 and "adapter_config.json" in empty.json()["error"]["message"]
    for odd in ("~nobody-of-this-name/adapter", "x" * 5000):
        assert served.post("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": odd}).status_code == 404
    base = served.post("/v1/load_lora_adapter", {"lora_name": "tiny", "lora_path": str(adapter)})
    assert base.status_code == 400
    for number in range(3):
        name = {"lora_name": f"full{number}", "lora_path": str(adapter)}
        assert served.post("/v1/load_lora_adapter", name).status_code == 200
    full = served.post("/v1/load_lora_adapter", {"lora_name": "one-more", "lora_path": str(adapter)})
    assert full.status_code == 409 and "--max-loras" in full.json()["error"]["message"]
    for number in range(3):
        assert served.post("/v1/unload_lora_adapter", {"lora_name": f"full{number}"}).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_its_rows(served: Served, stream: bool) -> None:
    rows, tokens = 16 * 128, POSITIONS - 3  # six at a time: many seconds of work, if nobody stopped it
    endless = complete(prompt=[[5, 6, 7]] * 16, n=128, max_tokens=tokens, ignore_eos=True, stream=stream)
    assert tokens_until_hang_up(served.client, "/v1/completions", endless) < rows * tokens / 2


def test_more_sequences_at_once_than_the_way_to_the_worker_holds_are_all_answered(served: Served) -> None:
    answer = served.post("/v1/completions", complete(prompt=[[5, 6, 7]] * 32, n=128, max_tokens=1))
    assert answer.status_code == 200, answer.text
    assert [choice["index"] for choice in answer.json()["choices"]] == list(range(32 * 128))


def test_metrics_are_prometheus_text(served: Served) -> None:
    before = served.metric("vllm:generation_tokens_total")
    served.post("/v1/completions", complete(max_tokens=5, ignore_eos=True))
    assert served.metric("vllm:generation_tokens_total") == before + 5
    response = served.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert served.metric("hone:kv_cache_bound_bytes") > 0
    for name in ("vllm:num_requests_waiting", "vllm:prompt_tokens_total", "vllm:num_preemptions_total"):
        served.metric(name)
