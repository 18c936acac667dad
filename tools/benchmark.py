"""Frames per second, measured in turn: `python tools/benchmark.py MODEL [MODEL ...]`.

    python tools/benchmark.py standard live --backends pytorch openvino --sizes 512x512
    python tools/benchmark.py a.pth b.pth --tile 960
    python tools/benchmark.py standard --network nafnet --arguments '{"width": 16}'

A model is a checkpoint or, untrained, a size of the student or a candidate of tools/blocks.py;
`--network` adds another one. Every round times each candidate once, so that a change
of the machine's speed meets all; the ratio is to the first. Threads stay PyTorch's unless given.
With `--side-by-side 2` calls share the cores, as in `--infer`: more frames per second than one
after the other, but each takes longer.
"""

import contextlib
import functools
import itertools
import json
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import main_sharpening_script as script
from sharpening import SharpeningError
from sharpening.image_pairs import demo_frame
from sharpening.runtime import pick_device, side_by_side, tune_malloc
from tools.common import run_tool
from tools.machine import conditions, peak_memory, time_in_turn
from tools.networks import Backend, load_nets, with_backend

Key = tuple[str, str, str]
"""A candidate: model, back end, precision."""


@dataclass(frozen=True)
class BenchmarkConfig:
    models: tyro.conf.Positional[tuple[str, ...]] = ("standard",)
    """Checkpoints or names (untrained: equally fast)."""
    network: str | None = None
    """Another network: nafnet, restormer or package.module:Class."""
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
    side_by_side: tuple[int, ...] = (1,)
    """Calls at the same time. Tiles are not measured for more than one: they have their own."""
    tile: int | None = None
    """Side of tiles: measures larger frames tiled as well."""
    device: Literal["cpu", "cuda"] = "cpu"
    rounds: int = 15
    """Timed calls of each candidate; medians and 10th to 90th percentiles are shown."""
    warm_up: int = 3
    """Calls before, not timed."""
    threads: int | None = None
    """Threads of every back end; None: PyTorch's choice."""

    def __post_init__(self) -> None:
        for size in self.sizes:
            if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", size):
                raise ValueError(f"sizes are WIDTHxHEIGHT in pixels, such as 512x512: {size}")


def summary(seconds: list[float], frames: int) -> dict[str, float]:
    """FPS by the median, and milliseconds per frame at the 10th, 50th and 90th percentile."""
    low, middle, high = (np.percentile(seconds, [10, 50, 90]) / frames).tolist()
    return {"fps": 1 / middle, "ms": middle * 1e3, "ms_p10": low * 1e3, "ms_p90": high * 1e3}


def work_of(
    made: Backend, way: str, frame: np.ndarray, batch: int, tile: int | None
) -> Callable[[], Any]:
    """One call of what is timed: the net on a tensor, or a picture from bytes to bytes."""
    if way == "net":
        x = script.to_tensor(frame, made.runtime.device).repeat(batch, 1, 1, 1)
        inside = isinstance(made.net, torch.nn.Module)  # others want rows of one channel
        x = x.contiguous(memory_format=torch.channels_last) if inside else x.contiguous()
        return functools.partial(script.run_net, made.net, x, made.runtime)
    if way == "image":
        return functools.partial(made.images, [frame])
    settings = (made.runtime, tile, script.InferenceConfig.overlap)
    return functools.partial(script.sharpen_tiled, made.images, frame, *settings)


def together(work: Callable[[], Any], pool: ThreadPoolExecutor, calls: int) -> None:
    """`calls` of `work` in the threads of `pool`."""
    for done in [pool.submit(work) for _ in range(calls)]:
        done.result()


def measure(
    nets: dict[Key, Backend], way: str, size: str, batch: int, config: BenchmarkConfig
) -> list[dict[str, Any]]:
    """One row for each candidate, and for each number of calls side by side."""
    W, H = (int(side) for side in size.split("x"))
    frame, works, calls = demo_frame(H, W), {}, {}
    counts = (1,) if way == "tiled" else config.side_by_side
    runtime = next(iter(nets.values())).runtime
    with contextlib.ExitStack() as stack:
        for (key, made), count in itertools.product(nets.items(), counts):
            work, calls[*key, count] = work_of(made, way, frame, batch, config.tile), 1
            if count > 1:
                pool = stack.enter_context(side_by_side(made.runtime, count))
                calls[*key, count] = 2 * count
                work = functools.partial(together, work, pool, 2 * count)
            works[*key, count] = work
        memory = {key: peak_memory(work, runtime.device) for key, work in works.items()}
        seconds = time_in_turn(works, runtime, config.rounds, config.warm_up)
    rows = []
    for key, values in seconds.items():
        row = dict(zip(("model", "backend", "precision", "side_by_side"), key, strict=True))
        row |= {"size": size, "batch": batch, "way": way} | summary(values, batch * calls[key])
        first = rows[0]["ms"] if rows else row["ms"]
        rows.append(row | {"ratio": first / row["ms"], "peak_mib": memory[key]})
    return rows


def measure_all(nets: dict[Key, Backend], config: BenchmarkConfig) -> list[dict[str, Any]]:
    """The rows of every size and batch: the net alone, bytes to bytes, and tiled."""
    rows = []
    for size, batch in itertools.product(config.sizes, config.batches):
        larger = config.tile and max(map(int, size.split("x"))) > config.tile
        ways = ["net", *["image"] * (batch == 1), *["tiled"] * bool(larger and batch == 1)]
        for way in ways:
            rows += measure(nets, way, size, batch, config)
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    """The table; `ratio` is how many times as fast as the first of the same size and way."""
    columns = {"size": 10, "batch": 5, "way": 6, "model": 20, "backend": 11, "precision": 9}
    columns |= {"side_by_side": 12}
    numbers = {"fps": 8, "ms": 9, "ms_p10": 9, "ms_p90": 9, "ratio": 6, "peak_mib": 8}
    print(*(f"{n:<{w}}" for n, w in columns.items()), *(f"{n:>{w}}" for n, w in numbers.items()))
    for row in rows:
        row = row | {"model": Path(row["model"]).name[-20:]}
        cells = [f"{row[name]:<{width}}" for name, width in columns.items()]
        for name, width in numbers.items():
            cells.append(f"{'-':>{width}}" if row[name] is None else f"{row[name]:>{width}.2f}")
        print(*cells)


def main(config: BenchmarkConfig) -> None:
    tune_malloc()
    pick_device(config.device)  # refuses cuda where there is none
    if config.threads:
        torch.set_num_threads(config.threads)
    under = conditions(config.device)
    for name, value in under.items():
        print(f"{name}: {value}")
    loaded = load_nets(config.models, config.network, config.arguments)
    nets, left_out = {}, {}
    choices = itertools.product(loaded.items(), config.backends, config.precisions)
    for (name, net), backend, precision in choices:
        try:
            made = with_backend(net, backend, precision, config.device)
            nets[name, backend, precision] = made
        except SharpeningError as error:
            left_out[f"{backend} {precision}"] = str(error)
    for what, why in left_out.items():
        print(f"left out: {what}: {why}")
    if not nets:
        raise SharpeningError("nothing is left to measure: choose other --backends")
    rows = measure_all(nets, config)
    print_rows(rows)
    print(json.dumps({"rows": rows, "left_out": left_out, **under}))


if __name__ == "__main__":
    sys.exit(run_tool(main, BenchmarkConfig, __doc__))
