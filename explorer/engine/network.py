"""The final network on its device, run as it is or with some layers replaced."""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Mapping

import torch
import xarray as xr
from torch import Tensor, nn

from explorer.engine.calibration import Calibration, not_calibrated
from explorer.engine.calling import first_names
from explorer.engine.finite import nonfinite_weights, refuse_nonfinite
from explorer.engine.forward import Forward, Traits, as_logits, copied
from explorer.engine.interventions import (
    BatchNormPolicy,
    Change,
    Intervention,
    canonical,
)
from explorer.engine.memory import is_out_of_memory
from explorer.engine.products import with_products
from explorer.engine.recording import record
from explorer.engine.replay import Replay
from explorer.engine.sources import source_tensors
from explorer.engine.staging import Named, Staging
from explorer.engine.submodules import SubmodulePass
from explorer.errors import StackError, UsageError
from explorer.weights.copying import private_copy
from explorer.weights.device import pick_device
from explorer.weights.families.known import FAMILIES, build_network
from explorer.weights.families.language import giving_logits
from explorer.weights.fresh import values_of
from explorer.weights.stack import epoch_numbers, layer_names, layer_variables, read_epoch
from explorer.weights.unwrapped import with_values

CALIBRATION_BATCH = 128
"""Examples over which batch normalisation takes one mean and variance, as in training."""

POLICIES = ("with_layer", "weights_only", "recalibrate")


class FinalNetwork:
    """The network at the end of training, which no intervention ever changes.

    Replaced layers are handed to the forward pass beside the network
    (`explorer.engine.calling`), so there is nothing to undo: success, cancellation and exceptions
    all leave every tensor as it was. The user's own module is copied first.

    Parameters
    ----------
    stack : xarray.DataTree
        An open stack; its last epoch is the final network.
    model : torch.nn.Module, optional
        The architecture; needed where the stack names no known family.
    device : str
        ``"auto"`` (CUDA, then MPS, then CPU) or a torch device.
    batchnorm : {"with_layer", "weights_only", "recalibrate"}
        What happens to a layer's buffers when the layer is replaced: they move with it, stay, or
        are taken anew from `calibration`, as are those of all layers that come after it.
    calibration : Tensor, optional
        (example, …) training inputs for the policy ``"recalibrate"``.

    Raises
    ------
    StackError
        There is no model, or it does not have the stack's tensors.
    UsageError
        An unknown device or policy, or the model is none.
    """

    def __init__(
        self,
        stack: xr.DataTree,
        *,
        model: nn.Module | None = None,
        device: str = "auto",
        batchnorm: BatchNormPolicy = "with_layer",
        calibration: Tensor | None = None,
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
        self._first = first_names(self._module)
        tensors = {**dict(self._module.named_parameters()), **dict(self._module.named_buffers())}
        self._state = {name: tensor.detach() for name, tensor in tensors.items()}
        strangers = () if model is None else (*model.parameters(), *model.buffers())
        self._forward = Forward(self._module, self._state, strangers)
        self._staging = Staging(self.device)
        self._nonfinite = nonfinite_weights(self._state, self._buffers)
        self._calibration: Calibration | None = None
        self.calibration_hash = ""
        if batchnorm == "recalibrate" and calibration is not None and self._buffers:
            batches = calibration.to(self.device).split(CALIBRATION_BATCH)
            try:
                self._calibration = Calibration(self._module, batches)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                if is_out_of_memory(error):
                    raise
                raise not_calibrated(calibration, error) from error
            self.calibration_hash = hashlib.sha256(values_of(calibration).tobytes()).hexdigest()

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
        return canonical(intervention, self.layers, self.epochs)

    def replacement(
        self, intervention: Intervention, known: dict[Change, dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor]:
        """Tensors that an intervention puts in, by name, on the device.

        None where all are bit for bit what they were: that costs no more than the intact network.

        Parameters
        ----------
        intervention : Intervention
            Layers ← sources.
        known : dict, optional
            Tensors of the layers and sources asked for so far, to which those of this one are
            added. What several interventions put in is then read once, and computed with once.

        Raises
        ------
        CheckpointError
            The epoch's file is missing or altered.
        InterventionError
            The layer has no initialiser to draw from, or some weights are NaN or infinite.
        """
        known = {} if known is None else known
        changes = self.canonical(intervention).changes
        fixed = set() if self.batchnorm == "with_layer" else self._buffers
        new = {
            (change, self._first[name]): tensor
            for change in changes
            if change not in known
            for name, tensor in source_tensors(self.stack, self._module, *change).items()
            if name not in fixed and name in self._first  # a module's extra state stays
        }
        for (change, name), tensor in self._moved(new).items():
            known.setdefault(change, {})[name] = tensor.to(self._state[name].dtype)
        moved = {n: t for change in changes for n, t in known.get(change, {}).items()}
        left = {name: n for name, n in self._nonfinite.items() if name not in moved}
        refuse_nonfinite({**left, **nonfinite_weights(moved, self._buffers)})
        if all(torch.equal(tensor, self._state[name]) for name, tensor in moved.items()):
            return {}
        if self._calibration is not None:
            moved |= self._calibration.statistics(moved)
        return moved

    def _moved(self, tensors: Mapping[Named, Tensor]) -> dict[Named, Tensor]:
        """Bring tensors to the device; to a GPU while the processor goes on."""
        if self.device.type == "cuda":
            return self._staging.moved(tensors)
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
            (example, class), or (example, position, class) where a network answers at several
            positions, as language models do.
        """
        return self._forward(inputs, replacement)

    @property
    def traits(self) -> Traits:
        """What the forward pass does besides, as far as it is known; see `learn`."""
        return self._forward.traits

    @property
    def few_logits(self) -> Tensor | None:
        """Logits of the intact network for the examples on which `learn` tried it."""
        return self._forward.few_logits

    def learn(self, inputs: Tensor) -> None:
        """Try the forward pass on a few examples, (example, …), to find out what it does besides.

        Raises
        ------
        UsageError
            It computes with tensors of the network that was passed, which no intervention reaches.
        DataError
            It does not run on these inputs.
        """
        self._forward.learn(inputs)
        if self.traits.holds:  # the module's own are others while a pass runs
            self._state = copied(self._state)

    @property
    def tied(self) -> str:
        """Parameters that are one and are replaced together, as ``"a = b"``; empty for none."""
        pairs = ((a, b) for b, a in self._first.items() if b not in self._buffers)
        return ", ".join(f"{a} = {b}" for a, b in pairs if a != b)

    def trained_sizes(self) -> dict[str, dict[str, int]]:
        """Layer → trained tensor → numbers in it; one that layers share has one name."""
        return {
            layer: {
                self._first[name]: self._state[self._first[name]].numel()
                for name in layer_variables(self.stack, layer)
                if name not in self._buffers and name in self._first
            }
            for layer in self.layers
        }

    def perturbed(self) -> dict[str, Tensor]:
        """Every floating-point tensor of the network, changed by up to a quarter."""
        generator = torch.Generator().manual_seed(0)
        return {
            name: tensor * (1 + 0.25 * torch.rand(tensor.shape, generator=generator)).to(tensor)
            for name, tensor in self._state.items()
            if tensor.is_floating_point()
        }

    def record(self, example: Tensor, low_dtype: torch.dtype | None = None) -> Replay:
        """Record the forward pass for batches like this one.

        Parameters
        ----------
        example : Tensor
            (example, …) inputs.
        low_dtype : torch.dtype, optional
            Precision in which interventions may be run besides float32.

        Raises
        ------
        Exception
            One of `explorer.engine.recording.RECORDING_ERRORS`, when it cannot be recorded.
        """
        with self._forward.lock:
            program = record(self._module, self._state, example)
        if self.device.type == "cuda":
            program = with_products(program)
        return Replay(program, self._state, low_dtype)

    def submodules(self) -> SubmodulePass:
        """A pass that reuses the results of unchanged submodules; it shares the tensors."""
        shared = {id(t): t for t in (*self._module.parameters(), *self._module.buffers())}
        twin = copy.deepcopy(self._module, shared)
        owned = {
            path: frozenset(
                self._first[f"{path}.{name}" if path else name]
                for name in (*dict(part.named_parameters()), *dict(part.named_buffers()))
            )
            for path, part in twin.named_modules()
        }
        return SubmodulePass(twin, owned, as_logits)


def _final_module(stack: xr.DataTree, model: nn.Module | None) -> nn.Module:
    """Copy or build the architecture and give it the stack's last epoch."""
    family = str(stack.attrs.get("family", ""))
    if model is None and family not in FAMILIES:
        raise StackError(
            f"The stack {stack.attrs.get('name')!r} does not say which network it belongs to.",
            f"A model, or a stack of a known family ({', '.join(FAMILIES)}), is needed.",
            "Pass model=, the torch.nn.Module that was trained.",
        )
    if model is None:
        module = build_network(family, stack.attrs["sizes"])
    else:
        module = _in_float32(giving_logits(private_copy(with_values(model))))
    arrays = read_epoch(stack, epoch_numbers(stack)[-1])
    state = OrderedDict((name, torch.from_numpy(array)) for name, array in arrays.items())
    # the versions of the modules' formats, which some modules insist on (torchvision's MNASNet)
    state._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]  # torch's own way
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise StackError(
            f"The stack's tensors do not fit the model: {error}",
            "Names and shapes must be those of model.state_dict().",
            "Pass the network that was trained.",
        ) from error
    return module.eval().requires_grad_(False)


def _in_float32(module: nn.Module) -> nn.Module:
    """Give a network without float32 that precision, in which labels are those of a plain pass.

    One that has other precisions beside it brings its values from one to the other itself.
    """
    found = {t.dtype for t in module.parameters() if t.is_floating_point()}
    return module if torch.float32 in found else module.float()
