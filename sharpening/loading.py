"""Worker processes that load a dataset's items: their errors, their signals, their end."""

import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from sharpening import SharpeningError


def item_or_error(load: Callable[[int], Any], index: int) -> Any:
    """load(index), or the SharpeningError that it raises: a worker process would hand over an
    exception as a traceback. `loaded_items` raises it again."""
    try:
        return load(index)
    except SharpeningError as error:
        return SharpeningError(str(error))


def loaded_items(loader: DataLoader) -> Iterator[Any]:
    """What a loader gives; an error that a worker handed over is raised.

    Close it: that ends the workers. They ignore signals, and a traceback may keep them alive, so
    the process would wait for them for ever at its end.
    """
    items = iter(loader)
    try:
        for each in items:
            if isinstance(each, SharpeningError):
                raise SharpeningError(str(each))
            yield each
    finally:
        if loader.num_workers:
            items._shutdown_workers()


def start_method(platform: str = sys.platform) -> str:
    """How worker processes begin. On Linux `fork`: they share the decoded images, which the default
    of Python 3.14 would copy. Windows has no fork and macOS no safe one: there they are copied."""
    return "fork" if platform.startswith("linux") else "spawn"


def make_loader(dataset: Dataset, workers: int, **settings: Any) -> DataLoader:
    """A loader whose workers leave Ctrl-C to this process."""
    return DataLoader(
        dataset,
        num_workers=workers,
        multiprocessing_context=start_method() if workers else None,
        worker_init_fn=ignore_signals,
        **settings,
    )


def ignore_signals(worker: int) -> None:
    """Ctrl-C reaches the workers too. They go on, so that training can end its step and save."""
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)
