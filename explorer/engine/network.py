"""The final network on its device, run as it is or with some layers replaced."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from explorer.engine.interventions import (
    BatchNormPolicy,
    Intervention,
    changes_nothing,
    check_layers,
)
from explorer.engine.program import record
from explorer.engine.replay import Replay
from explorer.engine.sources import source_tensors
from explorer.errors import InterventionError, StackError, UsageError
from explorer.weights.device import pick_device
from explorer.weights.families.known import FAMILIES, build_network
from explorer.weights.stack import epoch_numbers, layer_names, read_epoch

POLICIES = ("with_layer", "weights_only", "recalibrate")


class FinalNetwork:
    """The network at the end of training, which no intervention ever changes.

    Replaced layers are handed to the forward pass beside the network
    (`torch.func.functional_call`), so there is nothing to undo: success, cancellation and
    exceptions all leave every tensor as it was. The user's own module is copied first.

    Parameters
    ----------
    stack : xarray.DataTree
        An open stack; its last epoch is the final network.
    model : torch.nn.Module, optional
        The architecture; needed where the stack names no known family.
    device : str
        ``"auto"`` (CUDA, then MPS, then CPU) or a torch device.
    batchnorm : {"with_layer", "weights_only", "recalibrate"}
        What happens to a layer's buffers when the layer is replaced.

    Raises
    ------
    StackError
        There is no model, or it does not have the stack's tensors.
    UsageError
        An unknown device or policy.
    """

    def __init__(
        self,
        stack: xr.DataTree,
        *,
        model: nn.Module | None = None,
        device: str = "auto",
        batchnorm: BatchNormPolicy = "with_layer",
    ) -> None:
        if batchnorm not in POLICIES:
            raise UsageError(
                f"The BatchNorm policy is {batchnorm!r}.",
                f"Policies: {', '.join(POLICIES)}.",
                "Choose one of them.",
            )
        self.stack = stack
        self.device = pick_device(device)
        self.batchnorm = batchnorm
        self.layers = layer_names(stack)
        self.epochs = epoch_numbers(stack)
        self._module = _final_module(stack, model).to(self.device)
        self._buffers = {name for name, _ in self._module.named_buffers(remove_duplicate=False)}
        self._tied = _tied_names(self._module)
        tensors = {**dict(self._module.named_parameters()), **dict(self._module.named_buffers())}
        self._state = {name: tensor.detach() for name, tensor in tensors.items()}
        if batchnorm == "recalibrate" and self._buffers:
            raise UsageError(
                "The policy 'recalibrate' was asked for a network with running statistics.",
                "'with_layer' and 'weights_only' can be used with it so far.",
                "Choose one of these two.",
            )

    @property
    def device_label(self) -> str:
        """The device in words."""
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)} ({self.device})"
        return {"cpu": "CPU", "mps": "Apple GPU"}.get(self.device.type, str(self.device))

    def canonical(self, intervention: Intervention) -> Intervention:
        """Drop the changes that put a layer where it already is.

        Raises
        ------
        UnknownNameError
            The stack has no such layer or epoch.
        """
        check_layers(intervention, self.layers, self.epochs)
        final = self.epochs[-1]
        kept = (c for c in intervention.changes if not changes_nothing(c[1], final))
        return Intervention(tuple(kept))

    def replacement(self, intervention: Intervention) -> dict[str, Tensor]:
        """Tensors that an intervention puts in, by name, on the device.

        Raises
        ------
        CheckpointError
            The epoch's file is missing or altered.
        InterventionError
            The layer has no initialiser to draw from.
        """
        tensors: dict[str, Tensor] = {}
        for layer, source in self.canonical(intervention).changes:
            for name, tensor in source_tensors(self.stack, self._module, layer, source).items():
                tensors[self._tied.get(name, name)] = tensor
        if self.batchnorm == "weights_only":
            tensors = {n: t for n, t in tensors.items() if n not in self._buffers}
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}

    def logits(self, inputs: Tensor, replacement: Mapping[str, Tensor]) -> Tensor:
        """Run the network in evaluation mode and plain float32.

        Parameters
        ----------
        inputs : Tensor
            (example, …), on the device.
        replacement : mapping
            As `replacement` returns it; empty for the intact network.

        Returns
        -------
        Tensor
            (example, class).
        """
        with torch.inference_mode(), plain_float32():
            output = torch.func.functional_call(self._module, dict(replacement), (inputs,))
        if not isinstance(output, Tensor) or output.ndim != 2:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InterventionError(
                f"The network's output is {shape}.",
                "Logits of shape (example, class) are needed.",
                "Wrap the model in a module that returns the logits.",
            )
        return output

    def perturbed(self) -> dict[str, Tensor]:
        """Every floating-point tensor of the network, changed by up to a quarter."""
        generator = torch.Generator().manual_seed(0)
        return {
            name: tensor * (1 + 0.25 * torch.rand(tensor.shape, generator=generator)).to(tensor)
            for name, tensor in self._state.items()
            if tensor.is_floating_point()
        }

    def record(self, example: Tensor) -> Replay:
        """Record the forward pass for batches like this one.

        Raises
        ------
        Exception
            One of `explorer.engine.program.RECORDING_ERRORS`, when it cannot be recorded.
        """
        return Replay(record(self._module, self._state, example), self._state)


def _tied_names(module: nn.Module) -> dict[str, str]:
    """Names of shared parameters → the one name under which the parameter is replaced."""
    first: dict[int, str] = {}
    pairs = module.named_parameters(remove_duplicate=False)
    return {name: first.setdefault(id(parameter), name) for name, parameter in pairs}


@contextlib.contextmanager
def plain_float32() -> Iterator[None]:
    """Switch reduced-precision float32 (TF32) off for matrix products and convolutions."""
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # made at run time
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, convolutions)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


def _final_module(stack: xr.DataTree, model: nn.Module | None) -> nn.Module:
    """Copy or build the architecture and give it the stack's last epoch."""
    family = str(stack.attrs.get("family", ""))
    if model is None and family not in FAMILIES:
        raise StackError(
            f"The stack {stack.attrs.get('name')!r} does not say which network it belongs to.",
            f"A model, or a stack of a known family ({', '.join(FAMILIES)}), is needed.",
            "Pass model=, the torch.nn.Module that was trained.",
        )
    module = build_network(family, stack.attrs["sizes"]) if model is None else copy.deepcopy(model)
    arrays = read_epoch(stack, epoch_numbers(stack)[-1])
    try:
        module.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    except RuntimeError as error:
        raise StackError(
            f"The stack's tensors do not fit the model: {error}",
            "Names and shapes must be those of model.state_dict().",
            "Pass the network that was trained.",
        ) from error
    return module.eval().requires_grad_(False)
