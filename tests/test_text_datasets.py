"""Text for language models: the embedded one, files, folders, LM1B's shards, tokenizers."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from explorer.data import text as text_module
from explorer.data import tokenizers
from explorer.data.datasets import as_examples, load_test_set, load_training_set
from explorer.data.text import EMBEDDED, embedded_form
from explorer.data.tokenizers import ByteTokenizer, CharacterTokenizer
from explorer.errors import DataError, UsageError
from tests.dataset_files import write, write_lm1b

CPU = torch.device("cpu")
HASH = "8caab39f4ba1a50e24f027e5f992909aaa54acac93ae093972121ee664b18f6f"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def shown(examples):
    """Text of windows that were read as bytes."""
    return ["".join(map(chr, row)) for row in examples.inputs.tolist()]


# --- the embedded text -----------------------------------------------------------------------


def test_the_embedded_text_has_its_documented_form():
    examples = load_test_set("pydoc-text")
    assert examples.inputs.shape == examples.labels.shape == (583, 64)
    assert examples.inputs.dtype == examples.labels.dtype == torch.int64
    assert examples.content_hash == HASH
    assert len(examples) == 583
    assert embedded_form().tokenizer.vocabulary == 94
    assert len(load_training_set("pydoc-text")) == 5246


def test_each_label_is_the_next_token_also_across_windows():
    examples = load_test_set("pydoc-text")
    assert torch.equal(examples.inputs[:, 1:], examples.labels[:, :-1])
    assert torch.equal(examples.inputs[1:, 0], examples.labels[:-1, -1])


def test_tokens_of_the_embedded_text_are_places_in_its_alphabet():
    form, examples = embedded_form(), load_test_set("pydoc-text")
    text = EMBEDDED.read_text()
    held_out = text[len(text) - len(text) // 10 :]
    assert bytes(form.tokenizer.alphabet[t] for t in examples.inputs[0]).decode() == held_out[:64]
    assert form.tokenizer.alphabet.decode() == "".join(sorted(set(text)))


def test_training_and_test_text_do_not_overlap():
    training = load_training_set("pydoc-text")
    test = load_test_set("pydoc-text")
    whole = EMBEDDED.stat().st_size
    assert len(training.tokens) == whole - whole // 10
    used = test.inputs.numel() + 1
    assert used <= whole // 10


def test_chance_counts_every_position():
    examples = load_test_set("pydoc-text")
    most = int(torch.bincount(examples.labels.flatten()).max())
    assert examples.chance_error == 1 - most / examples.labels.numel()
    assert 0.7 < examples.chance_error < 0.85  # a space is every fifth character


def test_line_ends_changed_by_a_checkout_change_nothing(tmp_path, monkeypatch):
    copy = tmp_path / "pydoc.txt"
    copy.write_bytes(EMBEDDED.read_bytes().replace(b"\n", b"\r\n"))
    monkeypatch.setattr(text_module, "EMBEDDED", copy)
    assert embedded_form.__wrapped__().tokenizer == embedded_form().tokenizer


def test_an_altered_embedded_text_is_refused(tmp_path, monkeypatch):
    copy = tmp_path / "pydoc.txt"
    copy.write_bytes(EMBEDDED.read_bytes() + b"x")
    monkeypatch.setattr(text_module, "EMBEDDED", copy)
    with pytest.raises(DataError, match=r"pydoc.txt has been altered(.|\n)*Expected sha256"):
        embedded_form.__wrapped__()


def test_the_licence_of_the_embedded_text_lies_beside_it():
    licence = (EMBEDDED.parent / "LICENSE-pydoc.txt").read_text(encoding="utf-8")
    assert "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2" in licence
    assert "Copyright (c) 2001" in licence
    assert "summary of the changes" in licence


# --- training --------------------------------------------------------------------------------


@pytest.fixture
def counting(tmp_path):
    """A text whose bytes count up, so that a window shows where it begins."""
    path = tmp_path / "counting.bin"
    path.write_bytes(bytes(range(200)))
    return path


def epoch(training, seed):
    parts = list(training.batches(5, generator(seed), CPU))
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def test_training_windows_are_contiguous_and_begin_elsewhere_every_epoch(counting):
    training = load_training_set(f"text:{counting},length=8")
    beginnings = set()
    for seed in range(40):
        inputs, labels = epoch(training, seed)
        assert torch.equal(labels, inputs + 1)
        first = inputs[:, 0].sort().values
        assert torch.equal(first, first[0] + 8 * torch.arange(len(training)))
        assert int(labels.max()) < 180  # what is held out is never seen
        beginnings.add(int(first[0]))
    assert beginnings == set(range(8))


def test_an_epoch_of_text_is_repeatable_and_its_order_random(counting):
    training = load_training_set(f"text:{counting},length=8")
    assert torch.equal(epoch(training, 3)[0], epoch(training, 3)[0])
    assert epoch(training, 3)[0][:, 0].diff().min() < 0


def test_without_augmentation_windows_begin_at_the_first_token(counting):
    training = load_training_set(f"text:{counting},length=8", augment=False)
    plain = training.evaluation()
    assert plain.inputs[:, 0].tolist() == list(range(0, 8 * len(training), 8))
    assert torch.equal(epoch(training, 1)[0].sort(0).values, plain.inputs)
    assert len(training.evaluation(limit=3)) == 3


def test_label_noise_changes_answers_not_what_the_network_reads(counting):
    training = load_training_set(f"text:{counting},length=8", label_noise=0.5, seed=1)
    assert torch.equal(training.tokens, load_training_set(f"text:{counting},length=8").tokens)
    wrong = (training.answers != training.tokens).float().mean()
    assert wrong == pytest.approx(0.5, abs=0.02)
    inputs, labels = epoch(training, 2)
    assert torch.equal(labels.flatten(), training.answers[inputs.flatten() + 1].long())


# --- files -----------------------------------------------------------------------------------


def test_a_file_is_read_byte_by_byte_and_its_last_tenth_held_out(tmp_path):
    text = "".join(f"line {i}, with an ä\n" for i in range(200)).encode()
    path = tmp_path / "notes.txt"
    path.write_bytes(text)
    examples = load_test_set(f"text:{path},length=16")
    held_out = text[len(text) - len(text) // 10 :]
    assert bytes(examples.inputs.flatten().tolist()) == held_out[: examples.inputs.numel()]
    assert len(examples) == (len(held_out) - 1) // 16
    assert as_examples(f"text:{path},length=16").content_hash == examples.content_hash


def test_a_folder_is_its_text_files_in_the_order_of_their_names(tmp_path):
    for name, letter in (("b/2.txt", "y"), ("a.txt", "x"), ("c.txt", "z"), ("b/no.md", "?")):
        write(tmp_path / name, letter.encode() * 400)
    training = load_training_set(f"text:{tmp_path},length=16", augment=False)
    assert bytes(training.tokens.tolist()) == (b"x" * 400 + b"y" * 400 + b"z" * 400)[:1080]


def test_a_limit_keeps_the_first_windows_of_both_parts(counting):
    assert len(load_training_set(f"text:{counting},length=8,limit=5")) == 5
    assert load_test_set(f"text:{counting},length=8,limit=2").inputs[:, 0].tolist() == [180, 188]
    for seed in range(20):
        training = load_training_set(f"text:{counting},length=8,limit=5")
        assert len(epoch(training, seed)[0]) == 5


@pytest.mark.parametrize("size", [160, 161, 165])
def test_the_shortest_text_that_is_accepted_gives_a_window_in_each_part(tmp_path, size):
    path = tmp_path / "short.txt"
    path.write_bytes(bytes(range(size)))
    assert len(load_test_set(f"text:{path},length=8")) == 1
    training = load_training_set(f"text:{path},length=8")
    for seed in range(20):
        assert torch.equal(*(t - d for t, d in zip(epoch(training, seed), (0, 1), strict=True)))


def test_a_text_that_is_too_short_says_how_much_is_needed(tmp_path):
    path = tmp_path / "short.txt"
    path.write_bytes(b"x" * 100)
    with pytest.raises(DataError, match=r"test part of .* has 10 tokens(.|\n)*least 128"):
        load_test_set(f"text:{path}")


@pytest.mark.parametrize("there", [False, True])
def test_a_text_that_is_not_there_says_what_is_expected(tmp_path, there):
    path = tmp_path / "nowhere"
    if there:
        path.mkdir()
    expected = r"without \.txt files" if there else "is not there"
    with pytest.raises(DataError, match=rf"{expected}(.|\n)*LM1B's folder"):
        load_test_set(f"text:{path}")


def test_a_text_beyond_the_budget_is_refused_before_it_is_read(counting, monkeypatch):
    monkeypatch.setattr(text_module, "MEMORY_BUDGET", 150)
    with pytest.raises(DataError, match=r"The text in .*counting.bin has 0.0 GiB"):
        load_training_set(f"text:{counting},length=8")


def test_a_name_without_a_path_is_refused():
    with pytest.raises(UsageError, match=r"'text:' names no path"):
        load_test_set("text:")


# --- LM1B ------------------------------------------------------------------------------------


def test_the_shards_of_lm1b_give_training_and_held_out_part(tmp_path):
    texts = write_lm1b(tmp_path)
    training = load_training_set(f"text:{tmp_path},length=32", augment=False)
    parts = [text for path, text in texts.items() if path.startswith("training")]
    assert bytes(training.tokens.tolist()).decode() == "".join(parts)
    held_out = "".join(shown(load_test_set(f"text:{tmp_path},length=32")))
    pieces = "".join(text for path, text in texts.items() if ".heldout-" in path)
    assert held_out == pieces[: len(held_out)]


def test_the_held_out_shard_is_used_whole_where_its_pieces_are_missing(tmp_path):
    texts = write_lm1b(tmp_path)
    for path in texts:
        if ".heldout-" in path:
            (tmp_path / path).unlink()
    held_out = "".join(shown(load_test_set(f"text:{tmp_path},length=32")))
    assert held_out.startswith("The whole number 0 ")


def test_a_limit_reads_no_more_shards_than_it_needs(tmp_path, monkeypatch):
    texts = write_lm1b(tmp_path)
    read, content = [], text_module._content
    monkeypatch.setattr(text_module, "MEMORY_BUDGET", 100)
    monkeypatch.setattr(text_module, "_content", lambda f: read.append(f.name) or content(f))
    one = len(texts["training-monolingual.tokenized.shuffled/news.en-00001-of-00100"]) // 32 - 1
    for limit, shards in ((3, 1), (one, 1), (one + 1, 2)):
        read.clear()
        assert len(load_training_set(f"text:{tmp_path},length=32,limit={limit}")) == limit
        assert read == ["news.en-00001-of-00100", "news.en-00002-of-00100"][:shards]
    with pytest.raises(DataError, match=r"limit=100000"):
        load_training_set(f"text:{tmp_path},length=32")


def test_a_missing_part_of_lm1b_is_named(tmp_path):
    for path in write_lm1b(tmp_path):
        if path.startswith("training"):
            (tmp_path / path).unlink()
    assert len(load_test_set(f"text:{tmp_path},length=32")) > 0
    with pytest.raises(DataError, match=r"no shards in .*training-mono(.|\n)*news.en-\?{5}-of"):
        load_training_set(f"text:{tmp_path},length=32")


# --- tokenizers ------------------------------------------------------------------------------


def test_bytes_and_characters_are_numbered():
    assert ByteTokenizer().encode(b"\x00a\xff", "here").tolist() == [0, 97, 255]
    assert len(ByteTokenizer().encode(b"", "here")) == 0
    assert CharacterTokenizer(b"abz").encode(b"zab", "here").tolist() == [2, 0, 1]


def test_a_token_is_named_by_its_text_and_half_a_character_by_its_byte():
    names = ByteTokenizer().names
    assert len(names) == 256
    assert [names[byte] for byte in b"a \n\x00\xc3"] == ["a", " ", "\n", "\\x00", "\\xc3"]
    assert CharacterTokenizer(b"\nab").names == ("\n", "a", "b")


def test_the_labels_of_a_text_spell_it(tmp_path):
    (tmp_path / "a.txt").write_text("never odd or even. " * 40, encoding="utf-8")
    examples = load_test_set(f"text:{tmp_path},length=20")
    text = "".join(examples.class_names[token] for token in examples.labels[0])
    assert text in "never odd or even. " * 3


class Processor:
    """Stands in for SentencePiece: a piece per word, numbered by its length; 1 ends a sentence."""

    def __init__(self, model_file):
        if not model_file.endswith("good.model"):
            raise OSError(f'Not found: "{model_file}"')

    def vocab_size(self):
        return 30

    def eos_id(self):
        return 1

    def id_to_piece(self, number):
        return "</s>" if number == 1 else "▁" + "x" * (number - 1)

    def encode(self, lines, out_type):
        assert out_type is int
        return [[len(word) + 1 for word in line.split()] for line in lines]


@pytest.fixture
def sentencepiece(monkeypatch):
    tokenizers._processor.cache_clear()
    module = types.ModuleType("sentencepiece")
    module.SentencePieceProcessor = Processor
    monkeypatch.setitem(sys.modules, "sentencepiece", module)
    yield
    tokenizers._processor.cache_clear()


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("a bb ccc\n" * 100, encoding="utf-8")
    return path


def test_sentencepiece_pieces_end_each_line(sentencepiece, words):
    training = load_training_set(f"text:{words},length=8,tokenizer=good.model", augment=False)
    assert training.evaluation().inputs[0].tolist() == [2, 3, 4, 1, 2, 3, 4, 1]
    noisy = load_training_set(f"text:{words},length=8,tokenizer=good.model", label_noise=1.0)
    assert 4 < int(noisy.answers.max()) < 30


def test_sentencepiece_pieces_are_named_with_the_spaces_before_them(sentencepiece, words):
    names = load_test_set(f"text:{words},length=8,tokenizer=good.model").class_names
    assert (len(names), names[1:4]) == (30, ("</s>", " x", " xx"))


def test_without_the_package_the_error_says_how_to_install_it(words, monkeypatch):
    tokenizers._processor.cache_clear()
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(DataError, match=r"not installed(.|\n)*pip install sentencepiece"):
        load_training_set(f"text:{words},length=8,tokenizer=good.model")


def test_a_model_that_does_not_load_is_named(sentencepiece, words):
    with pytest.raises(DataError, match=r"bad.model is not a SentencePiece model: Not found"):
        load_test_set(f"text:{words},length=8,tokenizer=bad.model")


def test_text_that_is_not_utf8_is_named(sentencepiece, words):
    words.write_bytes(b"caf\xe9 \n" * 100)
    with pytest.raises(DataError, match=r"words.txt is not UTF-8: .* at byte 3"):
        load_test_set(f"text:{words},length=8,tokenizer=good.model")
