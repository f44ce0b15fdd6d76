"""What a call may not change: everything of a process that its user could notice afterwards."""

from __future__ import annotations

import hashlib
import locale
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import warnings

import numpy as np
import pandas as pd
import torch
import xarray as xr
from bokeh.io import curdoc
from bokeh.io.state import curstate

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM") if hasattr(signal, name)]


def world():
    """Name → state, to be compared with ==."""
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    devices = range(torch.cuda.device_count())
    return {
        "torch's generator": torch.get_rng_state().tolist(),
        "CUDA's generators": [torch.cuda.get_rng_state(k).tolist() for k in devices],
        "numpy's generator": str(np.random.get_state()),
        "Python's generator": hash(random.getstate()),
        "default dtype": torch.get_default_dtype(),
        "default device": str(torch.get_default_device()),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "cuDNN": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
        "TF32": (cuda.matmul.fp32_precision, cudnn.conv.fp32_precision),
        "deterministic algorithms": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
        ),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "logging": {
            name: (logger.level, logger.disabled, logger.propagate, list(logger.handlers))
            for name in ("", "explorer", "torch", "bokeh", "asyncio", "distributed")
            for logger in [logging.getLogger(name)]
        },
        "numpy's options": (np.geterr(), np.get_printoptions()),
        "xarray's options": dict(xr.get_options()),
        "pandas' options": pd.get_option("display.max_rows"),
        "bokeh": (curstate().notebook, curstate().file, len(curdoc().roots), curdoc().theme),
        "matplotlib": "matplotlib" in sys.modules,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "signals": [signal.getsignal(one) for one in SIGNALS],
        "path": list(sys.path),
        "arguments": list(sys.argv),
        "hooks": (sys.excepthook, threading.excepthook, sys.displayhook, sys.gettrace()),
        "recursion": sys.getrecursionlimit(),
        "temporary files": tempfile.tempdir,
        "locale": locale.setlocale(locale.LC_ALL),
        "our threads": sorted(t.name for t in threading.enumerate() if "explorer" in t.name),
    }


def differences(before, after):
    """Names of what is not as it was."""
    return [name for name, state in before.items() if after[name] != state]


def fingerprint(model):
    """Hash over all tensors of a model and whatever else can be set on it."""
    digest = hashlib.sha256()
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        said = (name, tensor.dtype, tensor.device, tensor.requires_grad, tensor.shape)
        own = (tensor.data_ptr(), tensor.grad is None, tensor._version, id(tensor))
        digest.update(f"{said} {own} {tensor.stride()} {tensor._backward_hooks}".encode())
        digest.update(tensor.detach().cpu().numpy().tobytes())
    for name, part in model.named_modules():
        hooks = [len(value) for key, value in vars(part).items() if key.endswith("_hooks")]
        digest.update(f"{name} {type(part)} {id(part)} {part.training} {hooks}".encode())
        digest.update(f"{sorted(vars(part))}".encode())
    return digest.hexdigest()
