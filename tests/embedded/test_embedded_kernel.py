"""The compiled kernel: the same answers as without it, whatever the processor, and no trouble where it cannot be."""

import gc
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from service.embedded import assemble, kernel
from service.embedded.arguments import EngineArguments
from service.embedded.crew import Chooser, Crew
from service.embedded.errors import EngineError
from service.embedded.kernel import Form, Kernel, load_kernel
from service.embedded.llama import Llama
from service.embedded.messages import AddSequence, Update
from tests.embedded.driving import GREEDY, attach, build, run, tokens_of
from tests.embedded.models import save_adapter

WIDTHS = {"tiles": (), "512 bits": ("-mno-amx-tile",), "256 bits": ("-mno-avx512f",), "128 bits": ("-mno-avx",)}
FAMILIES = ["llama", "qwen2", "qwen3"]
PARTLY = {"target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"], "layers_to_transform": [1]}
PROMPTS = [list(range(5, 5 + length)) for length in (1, 3, 7, 20, 33, 2, 11)]


def in_bfloat16(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder)
    weights = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hone"


@pytest.mark.parametrize("flags", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (33, 70), (704, 256), (16, 513), (40, 24), (96, 70)])
def test_products_equal_those_of_torch(
    compiled: Kernel,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    shape: tuple[int, int],
    dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(kernel, "FLAGS", kernel.FLAGS + flags)
    if (narrow := load_kernel()) is None:
        pytest.skip("this compiler makes code for no such processor")
    torch.manual_seed(0)
    matrix = torch.randn(shape).to(dtype).float()
    packed = narrow.pack(matrix)
    halved = dtype == torch.bfloat16 and shape[1] >= 64
    assert (packed.form is Form.TILES) == (halved and narrow.takes_tiles and shape[0] % 32 == 0)
    if halved:
        assert packed.nbytes <= matrix.nbytes / 2 * (1 + 63 / shape[1])
    for rows in (1, 2, 5, 6, 7, 8, 13, 40):
        x, residual = torch.randn(rows, shape[0]), torch.randn(rows, shape[1])
        expected = x @ matrix
        for add, before in ((False, torch.full_like(expected, torch.nan)), (True, residual)):
            y = before.clone()
            narrow.multiply(x, packed, y, add)
            assert torch.allclose(y, before + expected if add else expected, atol=1e-4)
            for row in range(rows):  # not by one bit does it matter what is beside it
                alone = before[row : row + 1].clone()
                narrow.multiply(x[row : row + 1].contiguous(), packed, alone, add)
                assert torch.equal(alone[0], y[row])


def test_products_are_as_exact_as_sums_in_float32(compiled: Kernel) -> None:
    """In tiles too, where a number of float32 is cut into pieces of bfloat16: nothing of it is lost."""
    torch.manual_seed(0)
    x, matrix = torch.randn(40, 704), torch.randn(704, 256).bfloat16().float()
    y, exact = torch.empty(40, 256), x.double() @ matrix.double()
    one_after_the_other = torch.zeros(40, 256)
    for k in range(704):
        one_after_the_other += x[:, k, None] * matrix[k]
    compiled.multiply(x, compiled.pack(matrix), y, add=False)
    assert (y - exact).abs().max() <= 1.1 * (one_after_the_other - exact).abs().max()


@pytest.mark.parametrize("flags", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("vocab", [1, 40, 256, 300, 2048])
def test_tokens_are_those_that_the_draws_fall_on(
    compiled: Kernel, monkeypatch: pytest.MonkeyPatch, vocab: int, flags: tuple[str, ...]
) -> None:
    monkeypatch.setattr(kernel, "FLAGS", kernel.FLAGS + flags)
    narrow = load_kernel()
    assert narrow is not None
    torch.manual_seed(0)
    rows = 60
    logits, uniforms = 4 * torch.randn(rows, vocab), torch.rand(rows, dtype=torch.float64)
    logits[:, ::7] -= 200  # what weighs nothing
    uniforms[:3] = torch.tensor([0.0, 0.5, 1 - 2**-53])
    temperatures = torch.tensor([0.0, 0.3, 1.0, 1.7]).repeat(rows // 4)
    crew = Crew(narrow, 3)
    chosen = Chooser(crew, temperatures, with_log_probs=True)(logits, uniforms.tolist())
    tokens, log_probs = chosen.tokens, chosen.log_probs
    assert log_probs is not None and not chosen.broken
    expected = logits.double().log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    assert torch.allclose(log_probs.double(), expected, atol=1e-5)
    assert Chooser(crew, temperatures)(logits, uniforms.tolist()).log_probs is None
    greedy = temperatures == 0
    assert torch.equal(tokens[greedy], logits[greedy].argmax(-1))
    shares = (logits.double() / temperatures.double()[:, None]).softmax(-1)[~greedy]
    mine, drawn = tokens[~greedy, None], uniforms[~greedy]
    ends = shares.cumsum(-1).gather(1, mine)[:, 0]
    assert (ends >= drawn - 1e-6).all() and (ends - shares.gather(1, mine)[:, 0] <= drawn + 1e-6).all()
    if vocab > 1:
        assert (shares.gather(1, mine) > 1e-30).all()
    for row in range(rows):
        one = slice(row, row + 1)
        alone = Chooser(Crew(narrow, 1), temperatures[one], with_log_probs=True)(logits[one], [float(uniforms[row])])
        assert torch.equal(alone.tokens, tokens[one])
        assert alone.log_probs is not None and torch.equal(alone.log_probs, log_probs[one])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_number_that_is_not_finite_is_found(compiled: Kernel, bad: float) -> None:
    for size in (1, 16, 37, 300):
        logits = torch.full((4, size), 3e38)  # a row's sum is infinite, they are not
        choose = Chooser(Crew(compiled, 2), torch.ones(4))
        assert choose(logits, [0.5] * 4).broken == 0
        for place in {0, size // 2, size - 1}:
            damaged = logits.clone()
            damaged[1:3, place] = bad
            assert choose(damaged, [0.5] * 4).broken == 2


def test_every_member_of_a_crew_has_room_for_a_larger_vocabulary(compiled: Kernel) -> None:
    """Room for three to choose among 300 would do for one to choose among 800."""
    crew = Crew(compiled, 3)
    for vocab in (300, 800, 300):
        assert len(crew.sampling_scratch(vocab)) >= compiled.functions.sampling_scratch(vocab, crew.address)


def test_rows_that_are_not_finite_get_some_token(compiled: Kernel) -> None:
    logits = torch.tensor([[torch.nan] * 300, [torch.inf] * 300, [-torch.inf] * 300, [0.0] * 299 + [torch.nan]])
    for temperature in (0.0, 1.0):
        chosen = Chooser(Crew(compiled, 1), torch.full((4,), temperature))(logits, [0.5] * 4)
        assert chosen.broken == 4 and ((chosen.tokens >= 0) & (chosen.tokens < 300)).all()


def test_tiles_are_used_where_the_processor_has_them(compiled: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    about = Path("/proc/cpuinfo")
    if not about.exists() or "amx_bf16" not in about.read_text():
        pytest.skip("this processor has none")
    assert compiled.takes_tiles
    monkeypatch.setattr(kernel, "FLAGS", (*kernel.FLAGS, *WIDTHS["512 bits"]))
    other = load_kernel()
    assert other is not None and not other.takes_tiles


@pytest.mark.parametrize("flags", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize(("family", "stored"), [(family, "float32") for family in FAMILIES] + [("llama", "bfloat16")])
def test_replies_equal_those_without_a_kernel(
    compiled: Kernel, model_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    family: str, stored: str, flags: tuple[str, ...],
) -> None:  # fmt: skip
    folder = in_bfloat16(model_of(family), tmp_path / "model") if stored == "bfloat16" else model_of(family)
    adapter = save_adapter(tmp_path / "adapter", folder, seed=1, **PARTLY)
    requests = [
        AddSequence(number, prompt, replace(GREEDY, max_tokens=16), "a" if number % 3 else None)
        for number, prompt in enumerate(PROMPTS)
    ]

    def replies(threads: int) -> dict[int, list[Update]]:
        engine = build(folder, threads=threads)
        attach(engine, "a", adapter)
        assert isinstance(engine.model, Llama)
        assert (engine.model.weights.kernel is None) == without
        return run(engine, requests)

    without = False
    monkeypatch.setattr(kernel, "FLAGS", kernel.FLAGS + flags)
    one, three = replies(1), replies(3)
    without = True
    monkeypatch.setattr(assemble, "load_kernel", lambda: None)
    expected = replies(1)
    for number, updates in expected.items():
        assert tokens_of(one[number]) == tokens_of(three[number]) == tokens_of(updates)
        assert [u.logprob for u in one[number]] == pytest.approx([u.logprob for u in updates], abs=1e-4)


@pytest.mark.parametrize("flags", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_a_reply_does_not_depend_on_the_rows_beside_it(
    compiled: Kernel, model_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    stored: str, flags: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.setattr(kernel, "FLAGS", kernel.FLAGS + flags)
    folder = in_bfloat16(model_of("llama"), tmp_path / "model") if stored == "bfloat16" else model_of("llama")
    adapter = save_adapter(tmp_path / "adapter", folder, seed=1, r=4)
    requests = [AddSequence(n, prompt, GREEDY, "a" if n % 2 else None) for n, prompt in enumerate(PROMPTS)]

    def replies(wanted: list[AddSequence], threads: int) -> dict[int, list[Update]]:
        engine = build(folder, threads=threads)
        attach(engine, "a", adapter)
        return run(engine, wanted)

    together = replies(requests, threads=2)
    for number, request in enumerate(requests):
        alone = replies([request], threads=1)[number]
        assert [update.logprob for update in together[number]] == [update.logprob for update in alone]


def test_an_adapter_that_is_unloaded_is_freed(
    compiled: Kernel, model_of: Callable[[str], Path], tmp_path: Path
) -> None:
    engine = build(model_of("llama"))
    attach(engine, "a", save_adapter(tmp_path / "adapter", model_of("llama"), seed=1))
    run(engine, [AddSequence(0, PROMPTS[3], GREEDY, "a")])
    adapter = weakref.ref(engine.adapters["a"])
    engine.detach("a")
    run(engine, [AddSequence(1, PROMPTS[3], GREEDY)])
    gc.collect()
    assert adapter() is None


def test_a_norm_for_queries_alone_is_refused(compiled: Kernel, model_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_of("qwen3"), tmp_path / "damaged"))
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.self_attn.k_norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EngineError, match=r"queries or keys alone in model\.layers\.1\."):
        build(folder)


def test_it_is_compiled_once_and_again_when_what_was_kept_is_broken(compiled: Kernel, cache: Path) -> None:
    load_kernel()
    [library] = cache.iterdir()
    made = library.stat().st_mtime_ns
    assert load_kernel() is not None and library.stat().st_mtime_ns == made
    whole = library.read_bytes()
    for damaged in (b"not a library", whole[: len(whole) // 2], whole[:-9] + bytes(9)):
        library.unlink()  # not overwritten: this process has it open
        library.write_bytes(damaged)
        assert load_kernel() is not None and [library] == list(cache.iterdir()) and library.read_bytes() == whole


def test_where_nothing_can_be_kept_it_is_compiled_for_this_process(
    compiled: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    made = load_kernel()
    assert made is not None and made.vectors > 0


def test_the_start_up_line_says_who_computes(
    compiled: Kernel, model_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def line(**options: str) -> str:
        arguments = EngineArguments(**{"model": str(model_of("llama")), "device": "cpu", **options})  # type: ignore[arg-type]
        return assemble.assemble(arguments)[1].lines[0]

    assert "compiled for this processor" in line()
    assert line(dtype="bfloat16").endswith("by torch.")
    monkeypatch.setattr(assemble, "load_kernel", lambda: None)
    assert "with a C compiler" in line()


def test_no_compiler_or_one_that_fails_means_no_kernel(
    compiled: Kernel, model_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "FLAGS", ("-no-such-flag",))
    assert load_kernel() is None
    monkeypatch.setattr(kernel, "COMPILERS", ("no-such-compiler",))
    assert load_kernel() is None
    engine = build(model_of("llama"))
    assert isinstance(engine.model, Llama) and engine.model.weights.kernel is None
    assert len(tokens_of(run(engine, [AddSequence(0, PROMPTS[3], GREEDY)])[0])) == GREEDY.max_tokens
