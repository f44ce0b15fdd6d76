"""Language models of the package transformers: built from a config.json, never from its code.

A member is what `AutoModelForCausalLM.from_config` builds for one of the types below. It takes
tokens and gives logits; initial values are those of the model's own ``_init_weights``. Tensors
that are one (an output layer tied to the embedding) have one name in its state dict.
"""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from explorer.errors import StackError, UnknownNameError, unknown_name
from explorer.weights.families.chance import own_chance
from explorer.weights.families.family import Family, Size, Sizes, is_block

TRANSFORMERS = "transformers/"

_WIDTHS = {
    "vocab_size": Size(256, "different tokens"),
    "hidden_size": Size(64, "width of the residual stream"),
    "num_hidden_layers": Size(2, "blocks"),
    "num_attention_heads": Size(4, "heads of attention"),
    "intermediate_size": Size(256, "width inside the MLP"),
    "max_position_embeddings": Size(128, "tokens of the longest context"),
}
_GPT2 = {
    "vocab_size": Size(256, "different tokens"),
    "n_embd": Size(64, "width of the residual stream"),
    "n_layer": Size(2, "blocks"),
    "n_head": Size(4, "heads of attention"),
    "n_positions": Size(128, "tokens of the longest context"),
}
_LLAMA = {**_WIDTHS, "num_key_value_heads": Size(4, "heads of keys and values")}

TYPES: Mapping[str, tuple[Mapping[str, Size], tuple[str, ...]]] = {
    "gpt_neox": (_WIDTHS, ("input_layernorm", "attention")),
    "gpt2": (_GPT2, ("ln_1", "attn")),
    "llama": (_LLAMA, ("input_layernorm", "self_attn")),
    "olmo": (_LLAMA, ("self_attn",)),  # its norms have no weights
    "olmo2": (_LLAMA, ("self_attn", "post_attention_layernorm")),  # norms after, not before
}
"""model_type of a config.json → its sizes, and the parts of a block that are its attention."""

_BLOCK = re.compile(r"(.*?\b(?:layers|h)\.(\d+))\.(\w+)")
_EMBEDDINGS = ("embed_in", "embed_tokens", "wte", "wpe")

_NOT_BUILT_FROM = (
    *("architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "use_cache"),
    *("_name_or_path", "model_type", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("quantization_config", "attn_implementation", "_attn_implementation"),
)
"""Settings of a config.json that do not change the network; weights are float32 here."""


def language_family(name: str) -> Family:
    """Family of a name that begins with ``transformers/``.

    Raises
    ------
    UnknownNameError
        The type is not one of `TYPES`, or transformers is not installed.
    """
    kind = name.removeprefix(TRANSFORMERS)
    if kind not in TYPES:
        raise unknown_name("family", name, [TRANSFORMERS + one for one in TYPES])
    if not has_transformers():
        raise UnknownNameError(
            f"The family {name!r} is one of transformers, which is not installed.",
            "Our own family transformer is always there.",
            "Install it with: pip install 'layer-explorer[transformers]'",
        )
    takes, attention = TYPES[kind]
    return LanguageFamily(
        name=name,
        takes=takes,
        module=functools.partial(_build, kind),
        unit=lambda _sizes, tensor: _unit(attention, tensor),
        initialise=_initialise,
        example=lambda sizes: (min(64, context_of(sizes)),),
        skips=is_block,
    )


class LanguageFamily(Family):
    """A family whose sizes may be joined by any other setting of its config.json."""

    def settled(self, sizes: Sizes) -> dict[str, Any]:
        """Every size, and the other settings as they are."""
        known = {n: v for n, v in sizes.items() if n in self.takes and v is not None}
        if "num_key_value_heads" in self.takes and "num_attention_heads" in known:
            # what transformers takes where it is left out
            known.setdefault("num_key_value_heads", known["num_attention_heads"])
        return {**sizes, **super().settled(known)}

    def build(self, sizes: Sizes) -> nn.Module:
        """Build a member; what is given memory one by one is tied again."""
        network: Any = super().build(sizes)
        network.tie_weights()
        return network  # type: ignore[no-any-return]  # mypy has no types of transformers


def has_transformers() -> bool:
    """Whether the package transformers is there."""
    return importlib.util.find_spec("transformers") is not None


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a network is built from, of all that a config.json says."""
    return {name: value for name, value in config.items() if name not in _NOT_BUILT_FROM}


def context_of(sizes: Sizes) -> int:
    """Tokens of the longest context of a member."""
    return int(sizes.get("max_position_embeddings") or sizes.get("n_positions") or 64)


def renamed(name: str, there: Mapping[str, Any]) -> str | None:
    """Name under which files have a tensor of the model; None where they lack it.

    GPT-NeoX's output layer was called embed_out; files of a bare model lack its prefix.
    """
    candidates = (name, name.replace("lm_head.", "embed_out."), name.partition(".")[2])
    return next((one for one in candidates if one in there), None)


def giving_logits(model: nn.Module) -> nn.Module:
    """Let a model of transformers, whose output is an object, answer with its logits.

    Any other model is returned as it is. Names and weights stay; the model itself is changed, so
    pass a copy.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "base_model_prefix") or isinstance(model, _Logits):
        return model
    causal = getattr(config, "model_type", "") in TYPES
    wrapper = _TokenLogits if causal else _Logits
    model.__class__ = type(type(model).__name__, (wrapper, type(model)), {})
    return model


class _Logits(nn.Module):
    """Mixed into a class of transformers: its forward pass gives logits."""

    def forward(self, inputs: Tensor) -> Any:
        output = super().forward(inputs)  # of the class it is mixed into
        return getattr(output, "logits", output)


class _TokenLogits(_Logits):
    """The same for language models: (example, position) → (example, position, token)."""

    def forward(self, inputs: Tensor) -> Any:
        # The mask and the positions are those that the model makes by itself, by looking at
        # values, which cannot be recorded.
        length = inputs.shape[1]
        lowest = torch.finfo(torch.float32).min
        mask = torch.full((length, length), lowest, device=inputs.device).triu(1)
        output = super(_Logits, self).forward(  # of the class it is mixed into
            input_ids=inputs,
            attention_mask=mask[None, None],  # (example, head, from, to)
            position_ids=torch.arange(length, device=inputs.device)[None],
            use_cache=False,
        )
        return output.logits


class _Untied(_TokenLogits):
    """A language model whose state dict has one name for tensors that are one."""

    def _twins(self) -> dict[str, str]:
        """Name that is left out → the one that stands for it."""
        first: dict[int, str] = {}
        pairs = list(self.named_parameters(remove_duplicate=False))
        names = {name: first.setdefault(id(parameter), name) for name, parameter in pairs}
        return {name: other for name, other in names.items() if name != other}

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        state = super().state_dict(*args, **kwargs)
        for name in self._twins():
            state.pop(name, None)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        state = OrderedDict(state_dict)
        for name, other in self._twins().items():
            if other in state:
                state.setdefault(name, state[other])
        return super().load_state_dict(state, *args, **kwargs)


def _build(kind: str, sizes: Sizes) -> nn.Module:
    transformers: Any = importlib.import_module("transformers")
    try:
        config = transformers.AutoConfig.for_model(
            kind, **sizes, bos_token_id=None, eos_token_id=None
        )
        model: nn.Module = transformers.AutoModelForCausalLM.from_config(
            config, trust_remote_code=False, dtype=torch.float32
        )
    except (TypeError, ValueError, KeyError, AttributeError, ImportError) as error:
        raise StackError(
            f"transformers cannot build a {kind} network of {dict(sizes)}: {error}",
            "The settings of its config.json are needed.",
            "Correct them, or pass model= with the network itself.",
        ) from error
    model.__class__ = type(type(model).__name__, (_Untied, type(model)), {})
    return model


def _unit(attention: tuple[str, ...], name: str) -> str:
    match = _BLOCK.match(name)
    if match is not None:
        part = "attention" if match[3] in attention else "mlp"
        return f"layer{int(match[2]) + 1}.{part}"
    return "embedding" if any(f".{part}." in f".{name}" for part in _EMBEDDINGS) else "head"


@torch.no_grad()
def _initialise(
    module: nn.Module, names: tuple[str, ...], generator: torch.Generator
) -> dict[str, Tensor]:
    """Let the model's own ``_init_weights`` draw a copy of the blocks that these tensors are in.

    A whole block, since some rules are about a block as such: GPT-2's last product of a branch is
    drawn more narrowly the deeper the network is.
    """
    model: Any = module
    fresh: dict[str, Tensor] = {}
    with own_chance(int(torch.randint(2**62, (), generator=generator))):
        for path in dict.fromkeys(map(_home, names)):
            twin = copy.deepcopy(module.get_submodule(path)).cpu()
            twin.apply(model._init_weights)
            fresh |= {f"{path}.{name}": tensor for name, tensor in twin.state_dict().items()}
    return {name: fresh[name].clone() for name in names}


def _home(name: str) -> str:
    """Path of the block, or else the module, that a tensor is in."""
    match = _BLOCK.match(name)
    return name.rpartition(".")[0] if match is None else match[1]
