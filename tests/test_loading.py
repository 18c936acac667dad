"""Worker processes: a batch that is lost, whatever the reason, is an error within seconds."""

import subprocess
import sys
import textwrap
import time

import pytest
import torch
from torch.utils.data import Dataset

from sharpening import SharpeningError
from sharpening.loading import LoadedItems, item_or_error, make_loader


class Squares(Dataset):
    """Item i is i squared, as a tensor of a megabyte; some items are others."""

    def __init__(self, others=None):
        self.others = others or {}

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return item_or_error(self.item, index)

    def item(self, index):
        other = self.others.get(index, torch.full((2**18,), float(index**2)))
        if isinstance(other, Exception):
            raise other
        return other


def first_numbers(dataset, workers=1):
    loader = make_loader(dataset, workers, batch_size=None)
    return [int(each[0]) for each in LoadedItems(loader)]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_items_come_in_order(workers):
    assert first_numbers(Squares(), workers) == [0, 1, 4, 9, 16, 25]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_an_item_is_raised_where_the_item_would_come(workers):
    loader = make_loader(
        Squares({2: SharpeningError("2.png is damaged")}), workers, batch_size=None
    )
    items, seen = LoadedItems(loader), []
    with pytest.raises(SharpeningError, match=r"^2\.png is damaged$"):
        for each in items:
            seen.append(int(each[0]))
    assert seen == [0, 1]


def test_what_cannot_be_handed_over_is_an_error_and_not_a_wait_for_ever():
    """A lock cannot be sent: the worker's queue fails in a thread of its own, after the worker."""
    import threading

    start = time.monotonic()
    with pytest.raises(SharpeningError, match=r"could not be handed over.*lock.*--data.workers 0"):
        first_numbers(Squares({1: threading.Lock()}))
    assert time.monotonic() - start < 20


SMALL = """
import sys
sys.path.insert(0, "tests")
from test_loading import Squares, first_numbers
from sharpening import SharpeningError
try:
    print(first_numbers(Squares()))
except SharpeningError as error:
    print(error)
"""


def test_too_little_shared_memory_is_one_message():
    """As in Docker, where /dev/shm has 64 MB: here it has half of what an item needs."""
    small = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = "mount -t tmpfs -o size=512k tmpfs /dev/shm && "
    if subprocess.run([*small, mount + "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a /dev/shm of its own")
    call = f"{mount}timeout 60 {sys.executable} -c '{textwrap.dedent(SMALL)}'"
    done = subprocess.run([*small, call], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "/dev/shm" in done.stdout and "--shm-size" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
