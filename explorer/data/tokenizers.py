"""From text to token numbers: bytes, a known text's characters, SentencePiece, tokenizer.json."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from explorer.errors import DataError


class Tokenizer(Protocol):
    """Turns text into token numbers 0 … vocabulary − 1."""

    @property
    def vocabulary(self) -> int:
        """Number of different tokens."""

    @property
    def names(self) -> tuple[str, ...]:
        """The text that each token stands for."""

    def encode(self, text: bytes, where: str) -> Tensor:
        """Tokens of a text, (token,) uint8 or int32; `where` names it in an error."""


@dataclass(frozen=True)
class ByteTokenizer:
    """Each byte is a token."""

    vocabulary: int = 256

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(map(_shown, range(256)))

    def encode(self, text: bytes, where: str) -> Tensor:
        # frombuffer refuses an empty buffer
        return torch.frombuffer(bytearray(text or b" "), dtype=torch.uint8)[: len(text)]


@dataclass(frozen=True)
class CharacterTokenizer:
    """Each byte that occurs in a known text is a token."""

    alphabet: bytes
    """These bytes, ascending; a token is a place in it."""

    @property
    def vocabulary(self) -> int:
        return len(self.alphabet)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(map(_shown, self.alphabet))

    def encode(self, text: bytes, where: str) -> Tensor:
        table = torch.zeros(256, dtype=torch.uint8)
        table[list(self.alphabet)] = torch.arange(len(self.alphabet), dtype=torch.uint8)
        return table[ByteTokenizer().encode(text, where).long()]


@dataclass(frozen=True)
class SentencePieceTokenizer:
    """The pieces of a SentencePiece model, each line closed by its end-of-sentence piece."""

    model: Path
    """A trained model file; the package sentencepiece has to be installed."""

    @property
    def vocabulary(self) -> int:
        return int(_processor(self.model).vocab_size())

    @property
    def names(self) -> tuple[str, ...]:
        pieces = map(_processor(self.model).id_to_piece, range(self.vocabulary))
        return tuple(piece.replace("▁", " ") for piece in pieces)  # how it writes a space

    def encode(self, text: bytes, where: str) -> Tensor:
        lines = _utf8(text, where).splitlines()
        processor = _processor(self.model)
        closing = [processor.eos_id()] if processor.eos_id() >= 0 else []
        pieces = processor.encode(lines, out_type=int)
        return torch.tensor([p for line in pieces for p in (*line, *closing)], dtype=torch.int32)


@dataclass(frozen=True)
class JsonTokenizer:
    """The tokenizer.json of a repository, as the package tokenizers reads it; no token is added."""

    file: Path
    """The file; the package tokenizers has to be installed."""

    @property
    def vocabulary(self) -> int:
        return int(_from_json(self.file).get_vocab_size())

    @property
    def names(self) -> tuple[str, ...]:
        reader = _from_json(self.file)
        return tuple(
            reader.decode([number], skip_special_tokens=False) for number in range(self.vocabulary)
        )

    def encode(self, text: bytes, where: str) -> Tensor:
        reader, words = _from_json(self.file), _utf8(text, where)
        try:
            numbers = reader.encode(words, add_special_tokens=False).ids
        except Exception as error:  # the package raises this very class
            raise DataError(
                f"{self.file} cannot make tokens of {where}: {error}",
                "A tokenizer that knows every piece, or has one for unknown pieces, is needed.",
                "Use the tokenizer.json that the model was trained with.",
            ) from error
        return torch.tensor(numbers, dtype=torch.int32)


def _utf8(text: bytes, where: str) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is not UTF-8: {error.reason} at byte {error.start}.",
            "This tokenizer works on UTF-8 text.",
            "Convert the file, or leave tokenizer= out to use bytes.",
        ) from error


def _shown(byte: int) -> str:
    r"""Write a byte as text; half a character, and what no file may hold, as ``\x…``."""
    text = chr(byte)
    return text if text.isascii() and (text.isprintable() or text.isspace()) else f"\\x{byte:02x}"


@functools.lru_cache(maxsize=4)
def _processor(model: Path) -> Any:
    """Load a SentencePiece model; the package is optional."""
    try:
        sentencepiece = importlib.import_module("sentencepiece")
    except ImportError as error:
        raise DataError(
            f"The tokenizer {model.name} needs the package sentencepiece, which is not installed.",
            "Without it, text is read as bytes.",
            "Run `pip install sentencepiece`, or leave tokenizer= out.",
        ) from error
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(model))
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{model} is not a SentencePiece model: {error}",
            "A .model file that SentencePiece has trained is needed.",
            "Correct the path after tokenizer=.",
        ) from error


@functools.lru_cache(maxsize=4)
def _from_json(file: Path) -> Any:
    """Load a tokenizer.json; the package is optional."""
    try:
        tokenizers = importlib.import_module("tokenizers")
    except ImportError as error:
        raise DataError(
            f"The tokenizer {file.name} needs the package tokenizers, which is not installed.",
            "Without it, tokens can be given as numbers: data=(inputs, labels).",
            "Run `pip install 'layer-explorer[transformers]'`.",
        ) from error
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises this very class
        raise DataError(
            f"{file} cannot be read as a tokenizer: {error}",
            "A tokenizer.json as repositories of the hub have it is needed.",
            "Open the stack again to fetch it anew, or give tokens: data=(inputs, labels).",
        ) from error
