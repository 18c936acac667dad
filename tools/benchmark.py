"""Frames per second, measured in turn: `python tools/benchmark.py MODEL [MODEL ...]`.

    python tools/benchmark.py standard live --backends pytorch openvino --sizes 512x512
    python tools/benchmark.py a.pth b.pth --files 3 --tile 960
    python tools/benchmark.py standard --module package.module:Class --arguments '{"width": 32}'

A model is a checkpoint or, untrained, a size of the student; `--module` adds any network by import
path. Every round times each candidate once, so that a change of the machine's mood meets all; the
ratio is to the first. Memory is kept as in the script; threads stay PyTorch's unless given. With
`--streams 2` calls run side by side on shares of the cores, as in `--infer`: more frames per second
than one after the other, each of them later.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import main_sharpening_script as script
from tools.candidates import DTYPES, load_nets, runner
from tools.common import run_tool
from tools.machine import conditions, peak_memory

Key = tuple[str, str, str]
"""A candidate: model, back end, precision."""


@dataclass(frozen=True)
class BenchmarkConfig:
    models: tyro.conf.Positional[tuple[str, ...]] = ("standard",)
    """Checkpoints or names of student sizes (untrained: equally fast)."""
    module: str | None = None
    """Another network, `package.module:Class`."""
    arguments: str = "{}"
    """Its keyword arguments, JSON."""
    backends: tuple[Literal["pytorch", "compiled", "onnxruntime", "openvino"], ...] = ("pytorch",)
    """What runs the network; compiled is torch.compile."""
    precisions: tuple[Literal["fp32", "bf16", "fp16", "int8"], ...] = ("fp32", "bf16")
    """Types of the arithmetic; int8 is OpenVINO's, its unquantised layers in bf16."""
    sizes: tuple[str, ...] = ("512x512", "1920x1080")
    """Frames, width x height in pixels."""
    batches: tuple[int, ...] = (1,)
    """Frames per call."""
    streams: tuple[int, ...] = (1,)
    """Calls side by side; rows of more than one leave out tiles and files, which have their own."""
    tile: int | None = None
    """Side of tiles: measures larger frames tiled as well, and their files tiled."""
    files: int = 0
    """Rounds of the file to file measurement, 8 PNG frames each, always by wall time; 0: none."""
    device: Literal["cpu", "cuda"] = "cpu"
    rounds: int = 15
    """Timed calls of each candidate; the medians and 10th to 90th percentiles are theirs."""
    warm_up: int = 3
    """Calls before, not timed."""
    threads: int | None = None
    """Threads of every back end; None: PyTorch's choice."""
    clock: Literal["wall", "cpu"] = "wall"
    """cpu adds up the processor time of all threads: for a machine that does other work."""

    def __post_init__(self) -> None:
        for size in self.sizes:
            if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", size):
                raise ValueError(f"sizes are WIDTHxHEIGHT in pixels, such as 512x512: {size}")


def time_in_turn(
    works: dict[Any, Callable[[], Any]], runtime: script.Runtime, config: BenchmarkConfig
) -> dict[Any, list[float]]:
    """Seconds of every call, one call of each per round."""
    clock = time.process_time if config.clock == "cpu" else time.perf_counter
    seconds: dict[Any, list[float]] = {key: [] for key in works}
    for index in range(config.warm_up + config.rounds):
        for key, work in works.items():
            runtime.synchronize()
            start = clock()
            work()
            runtime.synchronize()
            if index >= config.warm_up:
                seconds[key].append(clock() - start)
    return seconds


def summary(seconds: list[float], frames: int) -> dict[str, float]:
    """FPS by the median, and milliseconds per frame at the 10th, 50th and 90th percentile."""
    low, middle, high = (np.percentile(seconds, [10, 50, 90]) / frames).tolist()
    return {"fps": 1 / middle, "ms": middle * 1e3, "ms_p10": low * 1e3, "ms_p90": high * 1e3}


def work_of(
    net: Callable, way: str, frame: np.ndarray, x: Tensor, runtime: script.Runtime, tile: int | None
) -> Callable[[], Any]:
    """One call of what is timed: the net on a tensor, a picture from bytes to bytes whole or in
    tiles, or a folder of files, in tiles if there is a `tile`."""
    settings = script.InferConfig(tile=tile if way in ("tiled", "files") else None)
    if way == "net":
        inside = isinstance(net, torch.nn.Module)  # others want rows of one channel
        return functools.partial(script.run_net, net, x if inside else x.contiguous(), runtime)
    if way in ("image", "tiled"):
        return functools.partial(script.sharpen_image, net, frame, runtime, settings)
    return functools.partial(script.file_rate, net, frame, script.Config(), settings, runtime)


def side_by_side(work: Callable[[], Any], pool: ThreadPoolExecutor, calls: int) -> None:
    """`calls` of `work` in the streams of `pool`."""
    for done in [pool.submit(work) for _ in range(calls)]:
        done.result()


def measure(
    nets: dict[Key, Callable], size: str, batch: int, config: BenchmarkConfig
) -> list[dict[str, Any]]:
    """One row for each candidate and way: the net alone, bytes to bytes, tiled, file to file."""
    W, H = (int(side) for side in size.split("x"))
    frame, device = script.demo_frame(H, W), torch.device(config.device)
    x = script.to_tensor(frame, device).repeat(batch, 1, 1, 1)
    tile = config.tile if config.tile and max(H, W) > config.tile else None
    rows = []
    single = ["image", *["tiled"] * bool(tile), *["files"] * bool(config.files)]
    for way in ("net", *(single if batch == 1 else [])):
        works, memory, seconds, calls = {}, {}, {}, {}
        with contextlib.ExitStack() as stack:
            counts = config.streams if way in ("net", "image") else (1,)
            for (key, net), count in itertools.product(nets.items(), counts):
                inside = key[1] in ("pytorch", "compiled")  # other back ends have their own types
                runtime = script.Runtime(device, DTYPES[key[2]] if inside else torch.float32)
                work, calls[*key, count] = work_of(net, way, frame, x, runtime, tile), 1
                if count > 1:
                    pool = stack.enter_context(script.streams(runtime, count))
                    calls[*key, count] = 2 * count
                    work = functools.partial(side_by_side, work, pool, 2 * count)
                works[*key, count] = work
            if way == "files":
                rates = [{key: work() for key, work in works.items()} for _ in range(config.files)]
                seconds = {key: [1 / rate[key] for rate in rates] for key in works}
            else:
                memory = {key: peak_memory(work, device) for key, work in works.items()}
                seconds = time_in_turn(works, runtime, config)
        first = None
        for key, values in seconds.items():
            row = dict(zip(("model", "backend", "precision", "streams"), key, strict=True))
            row |= {"size": size, "batch": batch, "way": way}
            row |= summary(values, batch * calls[key])
            first = first or row["ms"]
            rows.append(row | {"ratio": first / row["ms"], "peak_mib": memory.get(key)})
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    """The table; `ratio` is how many times as fast as the first of the same size and way."""
    columns = {"size": 10, "batch": 5, "way": 6, "model": 20, "backend": 11, "precision": 9}
    columns |= {"streams": 7}
    numbers = {"fps": 8, "ms": 9, "ms_p10": 9, "ms_p90": 9, "ratio": 6, "peak_mib": 8}
    print(*(f"{n:<{w}}" for n, w in columns.items()), *(f"{n:>{w}}" for n, w in numbers.items()))
    for row in rows:
        row = row | {"model": Path(row["model"]).name[-20:]}
        cells = [f"{row[name]:<{width}}" for name, width in columns.items()]
        for name, width in numbers.items():
            cells.append(f"{'-':>{width}}" if row[name] is None else f"{row[name]:>{width}.2f}")
        print(*cells)


def main(config: BenchmarkConfig) -> None:
    script.keep_memory()
    if config.device == "cuda" and not torch.cuda.is_available():
        raise script.SharpeningError("PyTorch finds no GPU (or is its CPU build): --device cpu")
    if config.threads:
        torch.set_num_threads(config.threads)
    under = {"clock": config.clock, **conditions(config.device)}
    for name, value in under.items():
        print(f"{name}: {value}")
    loaded = load_nets(config.models, config.module, config.arguments)
    nets, left_out = {}, {}
    choices = itertools.product(loaded.items(), config.backends, config.precisions)
    for (name, net), backend, precision in choices:
        made = runner(net, backend, precision, config.device)
        if isinstance(made, str):
            left_out[f"{backend} {precision}"] = made
        else:
            nets[name, backend, precision] = made
    for what, why in left_out.items():
        print(f"left out: {what}: {why}")
    if not nets:
        raise script.SharpeningError("nothing is left to measure: choose other --backends")
    rows = []
    for size, batch in itertools.product(config.sizes, config.batches):
        rows += measure(nets, size, batch, config)
    print_rows(rows)
    print(json.dumps({"rows": rows, "left_out": left_out, **under}))


if __name__ == "__main__":
    sys.exit(run_tool(main, BenchmarkConfig, __doc__))
