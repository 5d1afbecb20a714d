"""From a stream of tokens to a stream of text: no half characters, no text that a stop string may yet take back."""

import codecs
import json
from collections.abc import Sequence
from typing import Any, Protocol

from service.embedded.tokenizer import Tokenizer

REPLACEMENT = "�"


class Decoder(Protocol):
    """Turns the tokens of one reply into text, as far as it is certain."""

    def push(self, token: int) -> str: ...

    def flush(self) -> str:
        """What is left at the end; half a character becomes a replacement sign."""
        ...


class Vocabulary:
    """What each token is, and decoders for replies. Special tokens have no text in a reply."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        description = json.loads(tokenizer.fast.to_str())
        self._special = {entry["id"] for entry in description.get("added_tokens") or [] if entry["special"]}
        self._added = {entry["id"]: entry["content"] for entry in description.get("added_tokens") or []}
        self._bytes = self._byte_table() if _is_byte_level(description.get("decoder")) else None
        self._names: dict[int, tuple[str, list[int]]] = {}

    def decoder(self) -> Decoder:
        return _OffsetDecoder(self.tokenizer) if self._bytes is None else _ByteDecoder(self._bytes)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one token stands for; a special token's name."""
        if self._bytes is not None and token < len(self._bytes) and token not in self._special:
            return self._bytes[token]
        return self.tokenizer.decode([token], skip_special=False).encode()

    def token_name(self, token: int) -> tuple[str, list[int]]:
        """A token's text and its bytes, as a log-probability names them."""
        name = self._names.get(token)
        if name is None:
            raw = self.token_bytes(token)
            name = self._names[token] = raw.decode(errors="replace"), list(raw)
        return name

    def token_text(self, token: int) -> str:
        return self.token_name(token)[0]

    def _byte_table(self) -> list[bytes]:
        """Each token's bytes: byte-level BPE writes every byte as one printable character (GPT-2's alphabet)."""
        alphabet = _byte_alphabet()
        table = []
        for token in range(self.tokenizer.fast.get_vocab_size(with_added_tokens=True)):
            if token in self._added:
                table.append(b"" if token in self._special else self._added[token].encode())
                continue
            piece = self.tokenizer.fast.id_to_token(token) or ""
            table.append(bytes(alphabet[c] for c in piece) if all(c in alphabet for c in piece) else piece.encode())
        return table


class _ByteDecoder:
    def __init__(self, table: Sequence[bytes]) -> None:
        self._table = table
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return self._utf8.decode(self._table[token]) if token < len(self._table) else ""

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class _OffsetDecoder:
    """For any tokenizer: decode the newest tokens together with a few before them, emit what that adds."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._context = 0  # decoding starts here, so that the tokenizer's spacing rules see what came before
        self._emitted = 0

    def push(self, token: int) -> str:
        self._tokens.append(token)
        before, now = self._texts()
        if now.endswith(REPLACEMENT) or len(now) <= len(before):
            return ""
        self._context, self._emitted = self._emitted, len(self._tokens)
        return now[len(before) :]

    def flush(self) -> str:
        before, now = self._texts()
        return now[len(before) :]

    def _texts(self) -> tuple[str, str]:
        """The text of the emitted tokens since the context's start, and of all tokens since then."""
        before = self._tokenizer.decode(self._tokens[self._context : self._emitted])
        return before, self._tokenizer.decode(self._tokens[self._context :])


class StopStrings:
    """Holds text back while it may be the beginning of a stop string, and ends it before one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The part of the text so far that is certain and not yet given out."""
        if not self._stops:
            return text
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.stopped = True
            return self._held[: min(places)]
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        certain, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return certain

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that `stop` begins with."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0


def _is_byte_level(decoder: dict[str, Any] | None) -> bool:
    if decoder is None:
        return False
    return decoder["type"] == "ByteLevel"


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's mapping of printable characters to bytes: printable bytes stand for themselves, others follow at 256."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return alphabet | {chr(256 + place): byte for place, byte in enumerate(others)}
