"""Language models of transformers: built from their settings, drawn, measured, from the hub."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

import explorer as lx
from explorer.data.own_text import _read, own_text
from explorer.engine.evaluator import Evaluator
from explorer.engine.examples import examples_for
from explorer.engine.interventions import Epoch, FreshDraw, Intervention, Moments, Skip, Zeros
from explorer.errors import DataError, StackError, UnknownNameError
from explorer.inventory.hub import Hub
from explorer.weights.families import language
from explorer.weights.families.known import FAMILIES, find_family
from explorer.weights.stack import layer_names, read_epoch
from tests.hub_server import NEOX, hub_server, neox_state, put_neox

pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")

needs_transformers = pytest.mark.skipif(
    not language.has_transformers(), reason="needs the extra [transformers]"
)

KINDS = list(language.TYPES)
NAME = "EleutherAI/pythia-tiny"
STEPS = {"step0": 0, "step8": 1, "step64": 2}
UNITS = ["embedding", "layer1.attention", "layer1.mlp", "layer2.attention", "layer2.mlp", "head"]
TEXT = "the cat sat on the mat and the dog sat on the log so the cat and the dog sat"


def tokenizer_json():
    """A tokenizer.json of words, as the package tokenizers writes it."""
    words = ["[UNK]", *sorted(set(TEXT.split()))]
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": {"type": "Whitespace"},
            "model": {
                "type": "WordLevel",
                "vocab": {word: number for number, word in enumerate(words)},
                "unk_token": "[UNK]",
            },
        }
    ).encode()


@pytest.fixture(scope="module")
def server():
    with hub_server() as server:
        put_neox(server, NAME, STEPS, config=True)
        for step in STEPS:
            server.put(NAME, step, {"tokenizer.json": tokenizer_json()})
        yield server


@pytest.fixture(scope="module")
def hub(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    return Hub(folder=folder, endpoint=server.address, progress=False)


@pytest.fixture(scope="module")
def stack(hub):
    return lx.open_stack(f"hub:{NAME}", hub=hub)


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(0, 40, (12, 11), generator=torch.Generator().manual_seed(0))


def theirs(state):
    """The real class of transformers with these weights."""
    import transformers

    config = transformers.GPTNeoXConfig(**{k: v for k, v in NEOX.items() if k != "model_type"})
    network = transformers.GPTNeoXForCausalLM(config).eval()
    head = "embed_out" if hasattr(network, "embed_out") else "lm_head"  # older, newer
    own = {n.replace("embed_out", head): torch.from_numpy(a) for n, a in state.items()}
    network.load_state_dict(own)
    return network


# --- families -------------------------------------------------------------------------------------


@needs_transformers
@pytest.mark.parametrize("kind", KINDS)
def test_a_language_model_is_divided_into_embedding_attention_mlp_and_head(kind):
    family = find_family(f"transformers/{kind}")
    assert list(family.layers({})) == UNITS
    network = family.build({}).eval()
    state = family.initialise(network, tuple(network.state_dict()), seeded(0))
    inputs = torch.randint(0, 256, (2, 9), generator=seeded(1))
    with torch.no_grad():
        logits = functional_call(network, state, (inputs,))
        later = functional_call(network, state, (torch.cat([inputs[:, :-1], inputs[:, :1]], 1),))
    assert logits.shape == (2, 9, 256)
    assert torch.isfinite(logits).all()
    assert torch.equal(logits[:, :-1], later[:, :-1])  # nothing comes from the future


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@needs_transformers
@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_draw_is_distributed_as_the_models_own_constructor_draws(kind):
    import transformers

    family = find_family(f"transformers/{kind}")
    network = family.build({})
    config = transformers.AutoConfig.for_model(kind, **family.sizes)
    torch.manual_seed(3)
    expected = transformers.AutoModelForCausalLM.from_config(config).state_dict()
    fresh = family.initialise(network, tuple(network.state_dict()), seeded(0))
    for name, tensor in fresh.items():
        own = expected[name]
        if (own == own.flatten()[0]).all():
            assert torch.equal(tensor, own), name
        else:
            error = 6 / math.sqrt(tensor.numel())
            assert float(tensor.std()) == pytest.approx(float(own.std()), rel=error), name


@needs_transformers
def test_draws_are_repeatable_differ_and_only_read_the_network():
    family = find_family("transformers/gpt2")
    network = family.build({})
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    names = ("transformer.h.0.attn.c_proj.weight", "transformer.wte.weight")
    state = torch.get_rng_state()
    first, again, other = (family.initialise(network, names, seeded(k)) for k in (0, 0, 1))
    assert all(torch.equal(first[n], again[n]) for n in names)
    assert not torch.equal(first[names[0]], other[names[0]])
    assert all((p == 1).all() for p in network.parameters())
    assert torch.equal(state, torch.get_rng_state())


@needs_transformers
def test_tensors_that_are_one_have_one_name():
    tied = find_family("transformers/gpt2").build({})
    assert "lm_head.weight" not in tied.state_dict()
    assert tied.lm_head.weight is tied.transformer.wte.weight
    tied.load_state_dict({n: torch.ones_like(t) for n, t in tied.state_dict().items()})
    assert (tied.lm_head.weight == 1).all()
    free = find_family("transformers/gpt2").build({"tie_word_embeddings": False})
    assert "lm_head.weight" in free.state_dict()


@needs_transformers
def test_sizes_are_checked_and_other_settings_reach_the_network():
    family = find_family("transformers/llama")
    assert family.build({"num_attention_heads": 2}).config.num_key_value_heads == 2
    assert family.build({"rms_norm_eps": 0.5}).config.rms_norm_eps == 0.5
    with pytest.raises(StackError, match=r"num_hidden_layers is -1(.|\n)*a whole number from 1"):
        family.build({"num_hidden_layers": -1})
    with pytest.raises(StackError, match=r"transformers cannot build a llama network"):
        family.build({"hidden_act": "no such function"})


def test_a_type_that_is_not_known_is_refused_and_code_of_repositories_is_never_asked_for():
    with pytest.raises(UnknownNameError, match=r"transformers/bert(.|\n)*transformers/gpt_neox"):
        find_family("transformers/bert")
    assert "transformers/bert" not in FAMILIES
    settings = language.settings_of({"auto_map": {"AutoModel": "x.py"}, "model_type": "llama"})
    assert settings == {}


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(language.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UnknownNameError, match=r"layer-explorer\[transformers\]"):
        find_family("transformers/gpt2")


def test_without_transformers_a_hub_stack_opens_and_says_what_measuring_needs(
    hub, monkeypatch, caplog
):
    monkeypatch.setattr(language, "has_transformers", lambda: False)
    stack = lx.open_stack(f"hub:{NAME}", hub=hub)
    assert stack.attrs["family"] == ""
    assert "gpt_neox network: to measure it" in caplog.text
    assert np.array_equal(
        read_epoch(stack, 8)["embed_out.weight"], neox_state(1)["embed_out.weight"]
    )


# --- from the hub to a number ---------------------------------------------------------------------


@needs_transformers
def test_a_hub_stack_is_measured_as_the_real_model_predicts(stack, tokens):
    assert stack.attrs["family"] == "transformers/gpt_neox"
    assert layer_names(stack) == UNITS
    run = Evaluator(stack, data=(tokens[:, :-1], tokens[:, 1:]), device="cpu")
    assert run.execution == "reuses what an intervention does not change"
    mixed = neox_state(2) | {
        n: a
        for n, a in neox_state(0).items()
        if n.startswith("gpt_neox.layers.1.mlp.")
        or n.startswith("gpt_neox.layers.1.post_attention_layernorm.")
    }
    for change, state in (
        (Intervention(()), neox_state(2)),
        (lx.reinitialise("layer2.mlp", 0), mixed),
        (lx.reinitialise(UNITS, 8), neox_state(1)),
    ):
        with torch.no_grad():
            logits = theirs(state)(tokens[:, :-1]).logits
        found = run.result(change)
        assert found.errors == int((logits.argmax(2) != tokens[:, 1:]).sum())
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        assert found.loss == pytest.approx(float(loss), rel=1e-5)
        assert found.perplexity == pytest.approx(math.exp(float(loss)), rel=1e-4)


@needs_transformers
def test_every_source_can_be_put_into_a_language_model(stack, tokens):
    run = Evaluator(stack, data=(tokens[:, :-1], tokens[:, 1:]), device="cpu")
    for layer in ("embedding", "layer1.attention", "head"):
        for source in (Epoch(0), FreshDraw(), Moments(), Zeros()):
            assert run.result(Intervention(((layer, source),))).exact
    skipped = run.result(Intervention((("layer1.attention", Skip()),)))
    zeros = run.result(Intervention((("layer1.attention", Zeros()),)))
    assert skipped == zeros  # a branch beside a skip connection


@needs_transformers
def test_the_users_text_is_read_with_the_repositorys_tokenizer(stack, tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text(TEXT, encoding="utf-8")
    runs = [Evaluator(stack, data=data, device="cpu") for data in (TEXT, str(file))]
    words = ["[UNK]", *sorted(set(TEXT.split()))]
    numbers = torch.tensor([words.index(word) for word in TEXT.split()])
    with torch.no_grad():
        logits = theirs(neox_state(2))(numbers[None, :-1]).logits[0]
    expected = int((logits.argmax(1) != numbers[1:]).sum())
    for run in runs:
        assert run.total == len(numbers) - 1
        assert run.result(Intervention(())).errors == expected
        assert run.class_names == tuple(words)
    assert runs[1].dataset == "mine.txt"
    with pytest.raises(DataError, match=r"no file missing\.txt"):
        Evaluator(stack, data="missing.txt", device="cpu")
    with pytest.raises(DataError, match=r"text has 1 tokens"):
        Evaluator(stack, data="cat", device="cpu")


@needs_transformers
def test_a_text_is_cut_at_the_models_context(stack):
    examples = own_text(TEXT * 9, stack.attrs["tokenizer"], stack.attrs["context"])
    assert examples.inputs.shape[1] == NEOX["max_position_embeddings"] - 0
    assert torch.equal(examples.inputs[1:, 0], examples.labels[:-1, -1])
    unknown = stack.copy()
    del unknown.attrs["context"]
    assert len(examples_for(unknown, TEXT).inputs) == 1  # uncut


def test_without_a_tokenizer_tokens_are_asked_for(tmp_path):
    with pytest.raises(DataError, match=r"no tokenizer\.json(.|\n)*tokens\[:, :-1\]"):
        own_text("some words", "")
    pytest.importorskip("tokenizers", reason="needs the extra [transformers]")
    damaged = tmp_path / "tokenizer.json"
    damaged.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"cannot be read as a tokenizer"):
        own_text("some words", str(damaged))


def test_a_text_that_no_file_can_be_named_is_a_text():
    words = "α" * 200  # fewer than 256 letters, and 400 bytes
    assert _read(words) == (words.encode(), "text")


@needs_transformers
def test_a_repository_whose_files_do_not_fit_its_config_is_refused(server, hub):
    config = json.dumps({**NEOX, "num_hidden_layers": 3}).encode()
    put_neox(server, "a/misfit", {"step0": 0}, config=True)
    server.put("a/misfit", "step0", {"config.json": config})
    with pytest.raises(StackError, match=r"lack gpt_neox\.layers\.2(.|\n)*Pass model="):
        lx.open_stack("hub:a/misfit", hub=hub)
    config = json.dumps({**NEOX, "vocab_size": 41}).encode()
    put_neox(server, "a/larger", {"step0": 0}, config=True)
    server.put("a/larger", "step0", {"config.json": config})
    with pytest.raises(StackError, match=r"embed_in.weight has shape \(40, 16\)"):
        lx.open_stack("hub:a/larger", hub=hub)


@needs_transformers
def test_masks_that_old_files_hold_are_left_out_and_named(server, hub):
    from safetensors.numpy import save

    mask = {"gpt_neox.layers.0.attention.bias": np.ones((1, 1, 24, 24), bool)}
    put_neox(server, "a/old", {"step0": 0}, config=True)
    server.put("a/old", "step0", {"model.safetensors": save(neox_state(0) | mask)})
    stack = lx.open_stack("hub:a/old", hub=hub)
    assert stack.attrs["tensors_left_out"] == list(mask)


@needs_transformers
def test_files_of_a_bare_model_get_the_prefix_of_its_head(server, hub):
    from safetensors.numpy import save

    family = find_family("transformers/gpt2")
    sizes = {"vocab_size": 40, "n_embd": 16, "n_head": 2, "n_positions": 24}
    network = family.build(sizes)
    state = family.initialise(network, tuple(network.state_dict()), seeded(0))
    bare = {n.removeprefix("transformer."): t.numpy() for n, t in state.items()}
    config = json.dumps({"model_type": "gpt2", **sizes, "n_layer": 2, "auto_map": {"x": "y"}})
    server.put("a/gpt2", "main", {"config.json": config.encode(), "model.safetensors": save(bare)})
    stack = lx.open_stack("hub:a/gpt2@main", hub=hub)
    assert layer_names(stack) == UNITS
    found = read_epoch(stack, 1)
    assert list(found) == list(state)
    assert all(np.array_equal(found[n], state[n].numpy()) for n in state)


@needs_transformers
def test_a_model_of_ones_own_from_transformers_needs_no_wrapper(tokens):
    network = theirs(neox_state(2))
    states = [theirs(state).state_dict() for state in (neox_state(0), neox_state(2))]
    stack = lx.open_stack(states, model=network)
    run = Evaluator(stack, model=network, data=(tokens[:, :-1], tokens[:, 1:]), device="cpu")
    with torch.no_grad():
        logits = network(tokens[:, :-1]).logits  # still an object: the model is as it was
    assert run.result(Intervention(())).errors == int((logits.argmax(2) != tokens[:, 1:]).sum())


@needs_transformers
@pytest.mark.parametrize("kind", KINDS)
def test_what_transformers_itself_has_saved_is_read_in_pieces_and_answers_the_same(
    kind, server, hub, tokens, tmp_path
):
    import transformers

    family = find_family(f"transformers/{kind}")
    config = transformers.AutoConfig.for_model(kind, **{**family.sizes, "vocab_size": 40})
    torch.manual_seed(1)
    network = transformers.AutoModelForCausalLM.from_config(config).eval()
    network.save_pretrained(tmp_path, max_shard_size="50KB")
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sum(name.endswith(".safetensors") for name in files) >= 2
    server.put(f"a/saved-{kind}", "step3", files)
    stack = lx.open_stack(f"hub:a/saved-{kind}", hub=hub)
    assert layer_names(stack) == UNITS
    assert stack.attrs["tensors_left_out"] == []
    run = Evaluator(stack, data=(tokens[:, :-1], tokens[:, 1:]), device="cpu")
    with torch.no_grad():
        logits = network(tokens[:, :-1]).logits
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    found = run.result(Intervention(()))
    assert found.errors == int((logits.argmax(2) != tokens[:, 1:]).sum())
    assert found.loss == pytest.approx(float(loss), rel=1e-5)


@needs_transformers
def test_offline_a_sweep_measures_what_is_here_and_says_why_the_rest_is_missing(
    server, tokens, tmp_path
):
    options = {"folder": tmp_path, "endpoint": server.address, "progress": False}
    read_epoch(lx.open_stack(f"hub:{NAME}", hub=Hub(**options)), 64)
    stack = lx.open_stack(f"hub:{NAME}", hub=Hub(**options, offline=True))
    found = lx.sweep(
        stack,
        data=(tokens[:, :-1], tokens[:, 1:]),
        layers=["head"],
        draws=1,
        device="cpu",
        progress=False,
    )
    assert np.isfinite(found.error.sel(layer="head", epoch=64))
    assert np.isfinite(found.rerandomized_error).all()
    for step in (0, 8):
        assert np.isnan(found.error.sel(layer="head", epoch=step))
        assert f"step{step} is not on this machine" in str(found.reason.sel(epoch=step).values)
