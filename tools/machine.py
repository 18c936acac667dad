"""How time and memory are measured, and what a figure depends on beside the code."""

import ctypes
import importlib
import importlib.metadata
import mmap
import os
import platform
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from sharpening.runtime import Runtime


def processor_name() -> str:
    """The processor's own name; without the package py-cpuinfo what Python knows."""
    info = importlib.import_module("cpuinfo").get_cpu_info() if find_spec("cpuinfo") else {}
    return info.get("brand_raw") or platform.processor() or platform.machine()


def conditions(device: str) -> dict[str, Any]:
    """The machine, its libraries and the environment."""
    installed = {}
    for name in ("torch", "numpy", "onnxruntime", "openvino", "nncf"):
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = None
    names = ("OMP_", "GOMP_", "KMP_", "MKL_", "ONEDNN_", "MALLOC_", "LD_PRELOAD", "GLIBC_TUNABLES")
    usable = getattr(os, "sched_getaffinity", None)  # Linux: the cores this process may use
    return {
        "cpu": processor_name(),
        "cores": len(usable(0)) if usable else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "versions": installed,
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(names)},
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,  # not Windows
    }


def time_in_turn(
    works: dict[Any, Callable[[], Any]], runtime: Runtime, rounds: int, warm_up: int = 3
) -> dict[Any, list[float]]:
    """Seconds of every call, one call of each per round: a change of the machine meets all."""
    seconds: dict[Any, list[float]] = {key: [] for key in works}
    for index in range(warm_up + rounds):
        for key, work in works.items():
            runtime.synchronize()
            start = time.perf_counter()
            work()
            runtime.synchronize()
            if index >= warm_up:
                seconds[key].append(time.perf_counter() - start)
    return seconds


def memory_line(name: str) -> float:
    """Bytes that Linux reports for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def touch(mib: int) -> None:
    """Hold that much memory for a moment. It does not come from malloc, which may have some."""
    with mmap.mmap(-1, mib * 2**20) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1


def peak_resident(work: Callable[[], Any]) -> tuple[float, float] | None:
    """MiB that this process holds before `work`, and at most while it runs; None where the system
    does not report it. Memory that earlier work has freed does not count."""
    clear = Path("/proc/self/clear_refs")
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    try:
        clear.write_text("5")  # resets the peak
        before = memory_line("VmRSS")
        touch(16)
        reported = memory_line("VmHWM") - before > 2**23
        clear.write_text("5")
    except (OSError, StopIteration):
        reported = False
    if not reported:
        work()
        return None
    before = memory_line("VmRSS")
    work()
    return before / 2**20, memory_line("VmHWM") / 2**20


def peak_memory(work: Callable[[], Any], device: torch.device) -> float | None:
    """MiB that a first call of `work` takes at most beyond what is in use before; None where the
    system does not report it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    held = peak_resident(work)
    return held and held[1] - held[0]
