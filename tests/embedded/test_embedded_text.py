"""Streamed text is the decoded text: whole characters, nothing lost, nothing shown that a stop string takes back."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from service.embedded.text import StopStrings, Vocabulary
from service.embedded.tokenizer import Tokenizer, load_tokenizer
from service.errors import BadInput


def metaspace_tokenizer() -> Tokenizer:
    """As SentencePiece models have it: spaces as ▁, unknown characters as bytes."""
    fast = FastTokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast.decoder = strip
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    fast.train_from_iterator(
        ["the cat sat on the mat"] * 9, trainers.BpeTrainer(vocab_size=320, special_tokens=names[:3])
    )
    vocabulary = fast.get_vocab()
    merges: list[tuple[str, str]] = []
    pieces = {**{name: place for place, name in enumerate(names)}}
    for piece in vocabulary:
        pieces.setdefault(piece, len(pieces))
    rebuilt = FastTokenizer(models.BPE(pieces, merges, byte_fallback=True, unk_token="<unk>"))
    rebuilt.normalizer, rebuilt.decoder = fast.normalizer, strip
    rebuilt.add_special_tokens(names[:3])
    return Tokenizer(rebuilt, {}, None)


def whitespace_tokenizer() -> Tokenizer:
    fast = FastTokenizer(models.WordPiece(unk_token="[UNK]"))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=80, special_tokens=["[UNK]"])
    fast.train_from_iterator(["the cat sat on the mat, and ran"] * 9, trainer)
    return Tokenizer(fast, {}, None)


def streamed(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    decoder = Vocabulary(tokenizer).decoder()
    return [*(decoder.push(token) for token in tokens), decoder.flush()]


@pytest.fixture(scope="module")
def byte_level(model_of: Callable[[str], Path]) -> Tokenizer:
    return load_tokenizer(model_of("llama"))


@settings(max_examples=150)
@given(tokens=st.lists(st.integers(0, 299), max_size=60))
def test_byte_level_pieces_join_to_the_decoded_text(byte_level: Tokenizer, tokens: list[int]) -> None:
    assert "".join(streamed(byte_level, tokens)) == byte_level.decode(tokens)


@settings(max_examples=60)
@given(text=st.text(max_size=30))
def test_any_text_survives_the_round_trip(byte_level: Tokenizer, text: str) -> None:
    pieces = streamed(byte_level, byte_level.encode(text, special=False))
    assert "".join(pieces) == text
    assert not any("�" in piece for piece in pieces) or "�" in text


@pytest.mark.parametrize("make", [metaspace_tokenizer, whitespace_tokenizer])
@pytest.mark.parametrize("text", ["the cat sat", "the  mat é 日本 🙂 on", "cat"])
def test_other_tokenizers_stream_what_they_decode(make: Callable[[], Tokenizer], text: str) -> None:
    tokenizer = make()
    tokens = tokenizer.encode(text)
    pieces = streamed(tokenizer, tokens)
    assert "".join(pieces) == tokenizer.decode(tokens)
    assert len([piece for piece in pieces if piece]) > 1 or len(tokens) == 1


def stopped(stops: list[str], pieces: list[str]) -> tuple[str, list[str]]:
    """The text that came out, and what had come out after each piece."""
    finder, out = StopStrings(stops), []
    for piece in pieces:
        out.append(finder.push(piece))
        if finder.stopped:
            return "".join(out), out
    return "".join(out) + finder.flush(), out


def test_a_stop_string_across_pieces_is_never_shown() -> None:
    text, shown = stopped(["END"], ["so ", "E", "N", "D", "more"])
    assert (text, shown) == ("so ", ["so ", "", "", ""])
    assert stopped(["END"], ["E", "NO"])[0] == "ENO"
    assert stopped(["END"], ["x EN"])[0] == "x EN", "held back, then given out at the end"


@settings(max_examples=300)
@given(
    pieces=st.lists(st.text("ab\n", max_size=4), max_size=12),
    stops=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
)
def test_text_ends_before_the_first_stop_string(pieces: list[str], stops: list[str]) -> None:
    """However the text is cut into pieces, nothing of the stop string that ends first is shown."""
    whole = "".join(pieces)
    text, _ = stopped(stops, pieces)
    assert whole.startswith(text)
    assert not any(stop in text for stop in stops)
    if not any(stop in whole for stop in stops):
        assert text == whole


def test_the_template_gets_messages_and_special_tokens(byte_level: Tokenizer) -> None:
    messages = [{"role": "user", "content": "hi"}]
    assert byte_level.render(messages, True, False) == "<user>hi</s><assistant>"
    messages.append({"role": "assistant", "content": "he said"})
    assert byte_level.render(messages, False, True) == "<user>hi</s><assistant>he said"


def test_a_model_without_template_says_so() -> None:
    with pytest.raises(BadInput, match=r"no chat template, so it answers no chats. Take one that is made for chat"):
        whitespace_tokenizer().render([{"role": "user", "content": "hi"}], True, False)


def test_a_template_that_refuses_is_a_bad_request(byte_level: Tokenizer) -> None:
    strict = Tokenizer(byte_level.fast, {}, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(BadInput, match="roles must alternate"):
        strict.render([{"role": "user", "content": "hi"}], True, False)
    leaky = Tokenizer(byte_level.fast, {}, "{{ messages.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(BadInput):
        leaky.render([{"role": "user", "content": "hi"}], True, False)
