"""Threads that torch keeps for the thread of the notebook, which the explorer's work waits for.

GNU's OpenMP, with which torch's wheels for Linux compute on several cores, keeps threads for each
thread that has ever asked for them. Where all together are more than there are cores, none waits
actively for its next share any more but sleeps, and every operation begins with waking them.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

SOFT = 1
"""omp_pause_soft of OpenMP 5.0: threads end, and settings stay."""


def give_back_threads() -> bool:
    """End the threads that torch keeps for the calling thread; its next operation starts them anew.

    Returns
    -------
    bool
        Whether they were asked to end: False where torch is not loaded or brings another OpenMP.

    References
    ----------
    OpenMP API 5.0, ``omp_pause_resource_all``.
    """
    torch = sys.modules.get("torch")
    if torch is None or sys.platform != "linux":
        return False
    own = Path(str(torch.__file__)).parent / "lib" / "libgomp.so.1"
    try:
        openmp = ctypes.CDLL(str(own), mode=os.RTLD_NOLOAD)
        return bool(openmp.omp_pause_resource_all(SOFT) == 0)
    except (OSError, AttributeError):  # it is not loaded, or older than OpenMP 5.0
        return False
