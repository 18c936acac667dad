"""Where and how tensors are computed: device, precision, seeds, processes, threads.

`start_runtime` makes the one `Runtime` of a run. Everything about several processes, autocast and
torch.compile is in here, so that the training loop does not show it.
"""

import _thread
import contextlib
import ctypes
import dataclasses
import functools
import importlib
import itertools
import math
import os
import platform
import shlex
import shutil
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as futures_wait
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

from sharpening import SharpeningError

# --------------------------------------------------------------------------------------------------
# Device, precision, processes
# --------------------------------------------------------------------------------------------------


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """The device and autocast type of a run, and this process among the others."""

    device: torch.device
    dtype: torch.dtype
    rank: int = 0
    world: int = 1
    dtype_is_given: bool = True
    """False: the type was chosen for PyTorch, and another back end may choose its own."""

    @property
    def precision(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def in_this_precision(self, settings: Any) -> Any:
        """`settings`, a dataclass, with its `precision` as it is here and not "auto": a run that is
        resumed computes as before, whatever a new timing would choose."""
        (name,) = (name for name, dtype in PRECISIONS.items() if dtype == self.dtype)
        return dataclasses.replace(settings, precision=name)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def device_name(self) -> str:
        """The name of the GPU, or the number of CPU threads in use."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        if self.device.type == "mps":
            return "Apple's GPU"
        return f"cpu, {torch.get_num_threads()} threads"

    def autocast(self) -> torch.autocast:
        enabled = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=enabled)

    def compiled(self, module: nn.Module, **settings: Any) -> nn.Module:
        """`module` through torch.compile: for the first size it meets, then for all sizes.

        Raises `SharpeningError` where the compiler that this needs is missing: C++ for a CPU, C for
        a GPU.
        """
        on_cpu, setting = self.device.type == "cpu", os.environ.get
        names = [setting("CXX") or "g++"] if on_cpu else [setting("CC") or "gcc", "clang"]
        if not any(shutil.which(shlex.split(name)[0]) for name in names):
            raise SharpeningError(
                f"torch.compile needs the compiler {names[0]}, which is not installed: install it, "
                "or leave out --train.compile and --inference.backend compiled"
            )
        return torch.compile(module, **settings)

    def wrap(self, module: nn.Module, compiled: bool) -> nn.Module:
        """`module`, compiled if asked; with several processes its gradients are averaged."""
        module = self.compiled(module) if compiled else module
        return nn.parallel.DistributedDataParallel(module) if self.world > 1 else module

    def accumulating(self, model: nn.Module, more: bool) -> contextlib.AbstractContextManager:
        """While `more` backward passes follow before the step, gradients are not yet averaged."""
        return model.no_sync() if self.world > 1 and more else contextlib.nullcontext()

    def total(self, values: Sequence[float]) -> list[float]:
        """Sum of each value over the processes."""
        if self.world == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(summed)
        return summed.tolist()

    def from_main(self, value: Any) -> Any:
        """The first process's `value`, in all processes."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def joined(self, values: list[Any]) -> list[Any]:
        """The lists of all processes, one after the other."""
        if self.world == 1:
            return values
        lists: list[list[Any]] = [[] for _ in range(self.world)]
        dist.all_gather_object(lists, values)
        return list(itertools.chain.from_iterable(lists))

    def on_main(self, work: Callable[[], None]) -> None:
        """Do `work` in the first process; the others wait until it is done."""
        if self.is_main:
            work()
        if self.world > 1:
            dist.barrier()

    def synchronize(self) -> None:
        """Wait until the device has finished, so that a clock measures the work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def say(self, text: str) -> None:
        """Print a line once, above the progress bars."""
        if self.is_main:
            tqdm.write(text)


def say(text: str) -> None:
    """`Runtime.say` for what happens before there is a Runtime."""
    if os.environ.get("RANK", "0") == "0":
        tqdm.write(text)


@contextlib.contextmanager
def start_runtime(
    device: str = "auto", precision: str = "auto", seed: int = 0
) -> Iterator[Runtime]:
    """Device, process group (under torchrun) and seeds; on leaving, the group is closed.

    `device`: auto, cpu, cuda or mps; `precision`: auto, fp32, bf16 or fp16.
    """
    tune_malloc()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    place = pick_device(device)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True  # a resumed run equals an unbroken one
    torch.backends.cudnn.allow_tf32 = False  # SSIM subtracts squares: 10 bits are too few
    if world > 1:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Runtime(place, pick_dtype(precision, place), rank, world, precision != "auto")
    finally:
        if world > 1:
            dist.destroy_process_group()


def default_runtime() -> Runtime:
    """One process on the best device, in the precision that suits it."""
    device = pick_device("auto")
    return Runtime(device, pick_dtype("auto", device), dtype_is_given=False)


def pick_device(name: str) -> torch.device:
    """ "auto" (CUDA if there is a GPU), "cpu", "cuda" or "mps" -> this process's device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "mps" and not torch.backends.mps.is_available():
        raise SharpeningError("PyTorch finds no GPU of Apple's: use --device cpu")
    if name == "cuda":
        if not torch.cuda.is_available():
            raise SharpeningError("PyTorch finds no GPU (or is its CPU build): use --device cpu")
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(name)
    return torch.device(name)


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Autocast type for `precision`. auto: on a GPU bf16, or fp16 if it has no bf16; on a CPU the
    faster one of bf16 and fp32; on Apple's GPU fp32."""
    if precision != "auto":
        return PRECISIONS[precision]
    if device.type == "mps":
        return torch.float32  # not every version of macOS has bf16, and fp16 overflows in training
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    return torch.bfloat16 if bf16_is_faster() else torch.float32


@functools.cache
@torch.inference_mode()
def bf16_is_faster() -> bool:
    """Whether a convolution takes less time in bf16 than in fp32 on this CPU, in a tenth of a
    second. Having the instructions is not enough: on one Xeon bf16 takes 1.4 to 1.6 times as long.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    work = {}
    for dtype in (torch.float32, torch.bfloat16):
        image, weight = (
            torch.full(shape, 0.5, dtype=dtype).contiguous(memory_format=torch.channels_last)
            for shape in ((1, 64, 64, 64), (64, 64, 3, 3))
        )
        work[dtype] = functools.partial(torch.nn.functional.conv2d, image, weight, padding=1)
    shortest = shortest_times(work, 8)
    return shortest[torch.bfloat16] < 0.9 * shortest[torch.float32]


def shortest_times(work: dict[Any, Callable[[], Any]], rounds: int) -> dict[Any, float]:
    """Seconds of each function on one thread: the shortest of `rounds` calls, made in turn. Other
    processes disturb that least."""
    threads, shortest = torch.get_num_threads(), dict.fromkeys(work, math.inf)
    torch.set_num_threads(1)
    try:
        for name in list(work) * rounds:
            start = time.perf_counter()
            work[name]()
            shortest[name] = min(shortest[name], time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return shortest


def tune_malloc() -> None:
    """Let glibc keep freed memory for the next layer instead of returning it to the kernel.

    Returned memory must be cleared again, which costs up to 1.18 times the time. Up to 128 MiB are
    kept, in blocks of up to 32 MiB (glibc's limit). All threads share one arena: with an arena each
    100 megapixels take 0.6 GB more. Variables MALLOC_... in the environment have priority.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # their numbers in malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(trim_threshold, 128 * 2**20)
    libc.mallopt(mmap_threshold, 32 * 2**20)
    libc.mallopt(arena_max, 1)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch or NumPy means that; of some only the text says so."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    texts = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, kinds) or any(text in str(error) for text in texts)


def whole_limit(runtime: Runtime) -> float:
    """Pixels that are computed at once. A float32 pixel needs 330 bytes of activations."""
    if runtime.device.type == "cuda":
        cached = torch.cuda.memory_reserved(runtime.device)  # by earlier images, free for later
        used = torch.cuda.memory_allocated(runtime.device)
        return (torch.cuda.mem_get_info(runtime.device)[0] + cached - used) / 1000
    return 2.1e6  # a frame of 1080p; 1.4 GB for two side by side


def smaller_tile(side: int, overlap: int) -> int:
    """Half of `side`; raises `SharpeningError` if tiles would be all overlap."""
    if side // 2 <= 2 * overlap:
        advice = "close other programs, or use --device cpu or a smaller --inference.overlap"
        raise SharpeningError(f"memory runs out even with tiles of {side} pixels: {advice}")
    return side // 2


def seconds_per_call(
    work: Callable[[], Any], runtime: Runtime, repeats: int = 7, warm_up: int = 2
) -> float:
    """Median wall time of `work`, warmed up and synchronised."""
    times = []
    for _ in range(warm_up + repeats):
        runtime.synchronize()
        start = time.perf_counter()
        work()
        runtime.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[warm_up:])


def require_package(package: str) -> Any:
    """An optional package, imported, or an error that says how to install it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise SharpeningError(
            f"this needs the package {error.name}: pip install -r requirements-dev.txt"
        ) from error


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, at a place where a loop can be left."""


class StopSignal:
    """Lets a loop end what it has begun when Ctrl-C or SIGTERM comes.

    `check`, between two steps, raises `Stopped` in all processes together. Inside `interruptible`,
    around what may take long, it is raised `PATIENCE` seconds after the signal in this process
    alone. `leaving` is around the whole loop.
    """

    PATIENCE = 3.0

    def __init__(self, runtime: Runtime):
        self.runtime, self.number, self.may_raise = runtime, 0, False
        self.together, self.noted, self.over = runtime.world == 1, 0.0, threading.Event()
        self.reminder = threading.Thread(target=self.remind, daemon=True)

    def __enter__(self) -> "StopSignal":
        names = ("SIGINT", "SIGTERM", "SIGALRM")
        kinds = [getattr(signal, name) for name in names if hasattr(signal, name)]
        self.previous = {kind: signal.signal(kind, self.note) for kind in kinds}
        return self

    def __exit__(self, *error: Any) -> None:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        elif self.number:
            self.over.set()
            self.reminder.join()
        for kind, handler in self.previous.items():
            signal.signal(kind, handler)

    def note(self, number: int, frame: Any) -> None:
        """The handler, called by the first signal and by reminders, which end waiting."""
        if not self.number:
            self.number, self.noted = number, time.monotonic()
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, self.PATIENCE, 1)
            else:
                self.reminder.start()
        elif self.may_raise and time.monotonic() - self.noted >= self.PATIENCE:
            self.may_raise = False  # not again in what the first one ends
            raise Stopped

    def remind(self) -> None:
        """Where there is no timer that sends signals, as on Windows: this thread does it."""
        wait = self.PATIENCE
        while not self.over.wait(wait):
            _thread.interrupt_main()
            wait = 1

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        self.may_raise = True
        try:
            yield
        finally:
            self.may_raise = False

    def check(self) -> None:
        if self.runtime.total([self.number])[0] > 0:
            self.together = True
            raise Stopped

    @contextlib.contextmanager
    def leaving(self, last_work: Callable[[], None]) -> Iterator[None]:
        """When `Stopped` comes out of it: `last_work`, then the exit status of the signal. No work
        if other processes may still wait for this one in another place."""
        try:
            yield
        except Stopped:
            if self.together:
                last_work()
            raise SystemExit(128 + (self.number or signal.SIGTERM)) from None


# --------------------------------------------------------------------------------------------------
# Threads
# --------------------------------------------------------------------------------------------------

SIDE_BY_SIDE = 2
"""Pictures, tiles or frames computed at the same time on a CPU, each on its share of the cores.
PyTorch is then 1.27 times as fast as with all cores on one picture, whose threads wait for each
other in every layer; OpenVINO is 1.05 to 1.2 times as fast."""


def limit_threads(count: int) -> None:
    """Let PyTorch use `count` threads in the calling thread, whatever other threads set later."""
    torch.get_num_threads()  # a thread's first question resets it to what any thread set last
    torch.set_num_threads(count)


@contextlib.contextmanager
def thread_pool(threads: int, cores: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads that compute on `cores` each (None: PyTorch's choice). On leaving, work that has
    begun is finished and no more begins, whatever the reason."""
    begin = functools.partial(limit_threads, cores) if cores else None
    pool = ThreadPoolExecutor(threads, initializer=begin)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def side_by_side(runtime: Runtime, wanted: int = SIDE_BY_SIDE) -> Iterator[ThreadPoolExecutor]:
    """Threads that call a network at the same time and share the cores of the calling thread:
    `wanted` of them, fewer where there are fewer cores, and one for a GPU."""
    cores = torch.get_num_threads()
    count = min(wanted, cores) if runtime.device.type == "cpu" else 1
    try:
        with thread_pool(count, cores // count) as pool:
            yield pool
    finally:
        torch.set_num_threads(cores)  # a new thread starts with the number that was set last


def prefetch(
    pool: ThreadPoolExecutor,
    work: Callable[[Any], Any],
    items: Iterable[Any],
    depth: Callable[[], int],
) -> Iterator[tuple[Any, Future]]:
    """Each item with the finished future of work(item), in order. While the caller uses one,
    `depth()` later ones are in progress."""
    items, in_progress = iter(items), deque()

    def begin(count: int) -> None:
        missing = max(0, count - len(in_progress))
        in_progress.extend((i, pool.submit(work, i)) for i in itertools.islice(items, missing))

    begin(max(1, depth()))
    while in_progress:
        item, future = in_progress.popleft()
        futures_wait([future])
        begin(depth())
        yield item, future
        begin(1)
