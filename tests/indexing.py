"""Random parts of random arrays, for what reads parts."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st


@st.composite
def indexed(draw, least_axes=0):
    """A small shape and a key for it, one index, slice or list per axis."""
    shape = draw(st.lists(st.integers(1, 4), min_size=least_axes, max_size=4).map(tuple))
    key = [
        draw(
            st.integers(-length, length - 1)
            | st.slices(length)
            | st.lists(st.integers(0, length - 1), max_size=5).map(lambda k: np.array(k, int))
        )
        for length in shape
    ]
    return shape, key
