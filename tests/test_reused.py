"""Memory that is used again: never while something still looks at it."""

import threading

import numpy as np
import pytest

from explorer.weights import reused
from explorer.weights.reused import KEPT, LARGEST, SMALLEST, empty

BYTES = np.dtype(np.uint8)


@pytest.fixture(autouse=True)
def nothing_kept():
    reused._kept.clear()
    yield
    reused._kept.clear()


def address(array):
    return array.__array_interface__["data"][0]


def test_the_memory_of_a_forgotten_array_is_the_next_ones():
    first = empty((SMALLEST // 4,), np.dtype(np.float32))
    place = address(first)
    del first
    assert address(empty((2, SMALLEST // 4), np.dtype(np.float16))) == place


@pytest.mark.parametrize(
    "look",
    [
        lambda array: array[10:20],
        lambda array: array.reshape(4, -1)[1].view(np.uint16).T,
        lambda array: np.asarray(array)[::3][1:],
        lambda array: np.broadcast_to(array[:1], (3, 3)),
        lambda array: memoryview(array)[5:9],
        lambda array: __import__("torch").from_numpy(array)[7:9],
    ],
    ids=["slice", "view", "view of a view", "broadcast", "memoryview", "tensor"],
)
def test_what_still_looks_at_an_array_keeps_its_memory(look):
    array = empty((SMALLEST,), BYTES)
    place = address(array)
    seen = look(array)
    del array
    other = empty((SMALLEST,), BYTES)
    assert address(other) != place
    del seen
    assert address(empty((SMALLEST,), BYTES)) == place


@pytest.mark.parametrize("size", [0, 1, SMALLEST - 1, LARGEST + 1])
def test_small_and_large_arrays_are_numpys_own(size):
    array = empty((size,), BYTES)
    assert array.shape == (size,)
    del array
    assert not reused._kept


def test_another_size_is_new_memory_and_a_bounded_number_is_kept():
    arrays = [empty((SMALLEST + k,), BYTES) for k in range(KEPT + 5)]
    arrays.clear()
    assert len(reused._kept) == KEPT
    assert empty((LARGEST,), BYTES).nbytes == LARGEST


def test_threads_never_share_memory():
    wrong = []

    def work(mark):
        for _ in range(300):
            array = empty((SMALLEST,), BYTES)
            array[::4096] = mark
            if (array[::4096] != mark).any():
                wrong.append(mark)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
