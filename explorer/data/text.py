"""Text as examples of a language model: windows of tokens, each answered by the token after it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from explorer.data.augment import with_label_noise
from explorer.data.examples import (
    MEMORY_BUDGET,
    LabelledExamples,
    batch_order,
    examples_of,
    spread,
)
from explorer.data.tokenizers import ByteTokenizer, CharacterTokenizer, Tokenizer
from explorer.errors import DataError

EMBEDDED_NAME = "pydoc-text"
EMBEDDED = Path(__file__).parent / "texts" / "pydoc.txt"
"""Python's language reference as help() shows it; texts/LICENSE-pydoc.txt says what was changed."""

EMBEDDED_SHA256 = "5901706b7178d466ad263c31d1432f2b694f8e18beb950c23fa7eb6fdcb087c9"

TEST_PART = 10
"""The last tenth of a text that has no test part of its own is held out."""

LM1B_TRAINING = "training-monolingual.tokenized.shuffled"
LM1B_TEST = "heldout-monolingual.tokenized.shuffled"
LM1B_SHARDS = "news.en-?????-of-?????"
LM1B_TEST_PIECES = "news.en.heldout-?????-of-?????"
"""The held-out shard news.en-00000-of-00100 lies in its folder a second time, in fifty pieces."""

BYTES = ByteTokenizer()


@dataclass(frozen=True)
class TextForm:
    """Where a text is and what is made of it."""

    name: str
    """Name of the data set."""
    path: Path
    """A file, a folder of .txt files, or the folder of LM1B."""
    length: int = 64
    """Tokens of a window: the context of a language model."""
    limit: int | None = None
    """At most so many windows for training and for test; None for all."""
    tokenizer: Tokenizer = BYTES
    """What makes tokens of the text."""


@dataclass(frozen=True)
class TextTraining:
    """Windows of a text that begin elsewhere in every epoch."""

    name: str
    """Name of the dataset."""
    tokens: Tensor
    """(token,) uint8 or int32: what the windows show."""
    answers: Tensor
    """(token,): the same, with noise if asked for; a window's labels are taken from here."""
    length: int
    """Tokens of a window."""
    augment: bool = True
    """Begin the first window at one of the first `length` tokens by chance; False: at the first."""

    def __len__(self) -> int:
        # wherever the first window begins, all have to fit, and the token after the last
        return len(self.tokens) // self.length - 1

    def batches(
        self, batch_size: int, generator: torch.Generator, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch; the beginning is drawn first, then the order."""
        start = int(torch.randint(self.length, (1,), generator=generator)) if self.augment else 0
        tokens, answers = self.tokens.to(device), self.answers.to(device)
        for chosen in batch_order(len(self), batch_size, generator, device):
            yield windows(tokens, answers, chosen, self.length, start)

    def evaluation(self, limit: int | None = None) -> LabelledExamples:
        """Windows that begin at the first token."""
        chosen = spread(len(self), limit)
        return examples_of(*windows(self.tokens, self.answers, chosen, self.length), self.name)


def windows(
    tokens: Tensor, answers: Tensor, chosen: Tensor, length: int, start: int = 0
) -> tuple[Tensor, Tensor]:
    """Windows by number: tokens (example, position), and for each the answer one token later."""
    along = torch.arange(length, device=chosen.device)
    positions = start + chosen[:, None] * length + along  # (example, position)
    return tokens[positions].long(), answers[positions + 1].long()


@functools.cache
def embedded_form() -> TextForm:
    """Give the text that comes with the package, read by its characters.

    Raises
    ------
    DataError
        The text has been altered.
    """
    text = _content(EMBEDDED)
    if hashlib.sha256(text).hexdigest() != EMBEDDED_SHA256:
        raise DataError(
            f"{EMBEDDED} has been altered.",
            f"Expected sha256 {EMBEDDED_SHA256}.",
            "Put the original file back: reinstall, or `git restore` in a checkout.",
        )
    return TextForm(EMBEDDED_NAME, EMBEDDED, tokenizer=CharacterTokenizer(bytes(sorted(set(text)))))


def text_test(form: TextForm) -> LabelledExamples:
    """Windows of the held-out part of a text.

    Raises
    ------
    DataError
        The text is missing, too short, too large, or not what the tokenizer needs.
    """
    tokens = _part(form, test=True)
    count = (len(tokens) - 1) // form.length
    chosen = torch.arange(count if form.limit is None else min(count, form.limit))
    inputs, labels = windows(tokens, tokens, chosen, form.length)
    return examples_of(inputs, labels, form.name, form.tokenizer.names)


def text_training(form: TextForm, augment: bool, label_noise: float, seed: int) -> TextTraining:
    """Windows of the training part of a text.

    Raises
    ------
    DataError
        The text is missing, too short, too large, or not what the tokenizer needs.
    """
    tokens = _part(form, test=False)
    if form.limit is not None:
        tokens = tokens[: (form.limit + 1) * form.length]
    answers = with_label_noise(tokens, label_noise, seed, form.tokenizer.vocabulary)
    return TextTraining(form.name, tokens, answers, form.length, augment)


# --- files -----------------------------------------------------------------------------------


def _part(form: TextForm, *, test: bool) -> Tensor:
    """Tokens of the training or the test part."""
    try:
        form.path.exists()  # raises where no file can have such a name
    except OSError as error:
        raise DataError(
            f"The text {str(form.path)[:80]!r} cannot be opened: {error.strerror}.",
            "The path of a text file, or of a folder of them, is needed.",
            "Correct the path after 'text:'.",
        ) from error
    if (form.path / LM1B_TRAINING).is_dir() or (form.path / LM1B_TEST).is_dir():
        # training windows begin anywhere within the first
        enough = None if form.limit is None else (form.limit + 1) * form.length
        tokens = _tokens(form, _lm1b_files(form.path, test), enough)
    else:
        both = _tokens(form, _text_files(form.path))
        cut = len(both) - len(both) // TEST_PART
        tokens = both[cut:] if test else both[:cut]
    if len(tokens) < 2 * form.length:
        raise DataError(
            f"The {'test' if test else 'training'} part of {form.path} has {len(tokens)} tokens.",
            f"At least {2 * form.length} are needed for windows of {form.length}.",
            "Use a longer text, or a smaller length=.",
        )
    return tokens


def _tokens(form: TextForm, files: Sequence[Path], enough: int | None = None) -> Tensor:
    """Tokens of the files one after the other, as soon as there are enough."""
    size = sum(file.stat().st_size for file in files)
    if enough is None and size > MEMORY_BUDGET:
        raise DataError(
            f"The text in {form.path} has {size / 2**30:.1f} GiB.",
            f"Up to {MEMORY_BUDGET / 2**30:.0f} GiB are read into memory.",
            "Use fewer files; of LM1B, add ',limit=100000' to read so many windows.",
        )
    parts: list[Tensor] = []
    for file in files:
        if enough is not None and sum(map(len, parts)) >= enough:
            break
        parts.append(form.tokenizer.encode(_content(file), str(file)))
    return torch.cat(parts)


def _content(file: Path) -> bytes:
    """A text with the same line ends on every platform, which a checkout may have changed."""
    return file.read_bytes().replace(b"\r\n", b"\n")


def _text_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = [file for file in path.rglob("*.txt") if file.is_file()]
    if not found:
        raise DataError(
            f"{path} is {'a folder without .txt files' if path.is_dir() else 'not there'}.",
            f"A text file, a folder of .txt files, or LM1B's folder with {LM1B_TRAINING} and "
            f"{LM1B_TEST} is needed.",
            "Correct the path after 'text:'.",
        )
    return sorted(found, key=lambda file: file.relative_to(path).as_posix())


def _lm1b_files(path: Path, test: bool) -> list[Path]:
    folder = path / (LM1B_TEST if test else LM1B_TRAINING)
    patterns = (LM1B_TEST_PIECES, LM1B_SHARDS) if test else (LM1B_SHARDS,)
    for pattern in patterns:
        if found := sorted(folder.glob(pattern)):
            return found
    raise DataError(
        f"There are no shards in {folder}.",
        f"Files named as {' or '.join(patterns)} are expected, each ? being a digit.",
        "Unpack the whole archive of the One Billion Word Benchmark.",
    )
