"""Worker processes that load a dataset's items: their errors, their signals, their end."""

import signal
from collections.abc import Callable, Iterator
from multiprocessing.queues import Queue
from typing import Any

from torch.utils.data import DataLoader, Dataset

from sharpening import SharpeningError

FEWER = "use fewer --data.workers; with --data.workers 0 the training reads the images itself"


def item_or_error(load: Callable[[int], Any], index: int) -> Any:
    """load(index), or the SharpeningError that it raises: a worker process would hand over an
    exception as a traceback. `LoadedItems` raises it again."""
    try:
        return load(index)
    except SharpeningError as error:
        return SharpeningError(str(error))


class LoadedItems:
    """What a loader gives, item by item; an error that a worker handed over is raised.

    Close it: that ends the workers. They ignore signals, and a traceback may keep them alive, so
    the process would wait for them for ever at its end.
    """

    def __init__(self, loader: DataLoader):
        self.items, self.has_workers = iter(loader), loader.num_workers > 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            item = next(self.items)
        except (RuntimeError, OSError) as error:
            if not self.has_workers or "DataLoader worker" in str(error):  # of the work itself
                raise
            raise SharpeningError(f"a batch was lost on its way ({error}): {FEWER}") from error
        if isinstance(item, SharpeningError):
            raise SharpeningError(str(item))
        return item

    def close(self) -> None:
        if self.has_workers:
            self.items._shutdown_workers()
            for worker in self.items._workers:  # one may be stuck in reading a file
                worker.kill()


def make_loader(dataset: Dataset, workers: int, **settings: Any) -> DataLoader:
    """A loader whose workers share the decoded images (`fork`: from Python 3.14 on the default
    would copy them), leave Ctrl-C to this process, and lose no batch without a word."""
    return DataLoader(
        dataset,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=begin_worker,
        **settings,
    )


def begin_worker(worker: int) -> None:
    """Ctrl-C reaches the workers too. They go on, so that training can end its step and save."""
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)
    Queue._on_queue_feeder_error = hand_over_error


def hand_over_error(queue: Queue, error: Exception, item: Any) -> None:
    """Put an error into the place of an item that the queue's own thread could not send. Python
    would print a traceback and drop the item, and the training would wait for it for ever."""
    index, _ = item
    larger = "enlarge /dev/shm (in Docker: --shm-size 2g), or " if "No space" in str(error) else ""
    text = f"a batch could not be handed over ({error}): {larger}{FEWER}"
    queue.put((index, SharpeningError(text)))
