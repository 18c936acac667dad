"""How time and memory grow with an image's area and with the number of training images.

    python tools/growth.py CHECKPOINT --megapixels 0.25 1 4 16 --names 10 1000 100000

Every size has a process of its own, so that no peak hides in memory an earlier one left behind.
The exponent is the slope of a straight line through the logs: 1 is linear. Needs matplotlib.
"""

import functools
import json
import math
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
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
from sharpening.media_files import atomic_write
from sharpening.runtime import (
    Runtime,
    pick_dtype,
    require_package,
    seconds_per_call,
    tune_malloc,
)
from tools.common import all_pairs, run_tool
from tools.machine import conditions, peak_memory

SLOPE_FROM = {"megapixels": 1, "names": 1000}  # below, what every call costs hides the growth


@dataclass(frozen=True)
class GrowthConfig:
    checkpoint: tyro.conf.Positional[Path]
    """Student that sharpens."""
    megapixels: tuple[float, ...] = (0.25, 1, 4, 16, 50, 100)
    """Areas of the 3:2 images, megapixels, smallest first."""
    names: tuple[int, ...] = (10, 100, 1000, 10_000, 100_000)
    """Numbers of pairs whose names are matched, smallest first."""
    backend: Literal["pytorch", "openvino", "openvino-int8"] = "pytorch"
    """What computes the network."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Type of its arithmetic, as in training."""
    device: Literal["cpu", "cuda"] = "cpu"
    """On cuda the memory is the GPU's."""
    repeats: int = 3
    """Timed calls of each size, after two that are not; their median counts."""
    out: Path = Path("growth.png")
    """The picture to write."""


def in_fresh_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """`work(*arguments)` in a process that has imported this tool and computed nothing."""
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as pool:
            return pool.submit(work, *arguments).result()
    except BrokenProcessPool as error:
        raise SharpeningError(
            f"what measured {arguments[-1]} was killed, likely for want of memory: leave it out"
        ) from error


def time_and_peak(
    work: Callable[[], Any], runtime: Runtime, repeats: int
) -> dict[str, float | None]:
    """Median seconds of `work`, and MiB that its calls take at most beyond what is in use before.
    Two calls are not timed: OpenVINO compiles a size anew when it meets it again."""
    seconds: list[float] = []
    calls = functools.partial(seconds_per_call, work, runtime, repeats, warm_up=2)
    peak = peak_memory(lambda: seconds.append(calls()), runtime.device)
    return {"seconds": seconds[0], "peak_mib": peak}


def sharpening(config: GrowthConfig, megapixels: float) -> dict[str, Any]:
    """Cost of sharpening one image of this area, from array to array."""
    tune_malloc()
    device = torch.device(config.device)
    runtime = Runtime(device, pick_dtype(config.precision, device))
    settings = script.InferenceConfig(backend=config.backend)
    sharpen = script.Sharpener.load(config.checkpoint, runtime, settings)
    H = math.ceil((megapixels * 1e6 / 1.5) ** 0.5)
    image = demo_frame(H, math.ceil(megapixels * 1e6 / H))
    work = functools.partial(sharpen, image)
    row = {"megapixels": image.size / 3e6, "dtype": runtime.precision}
    return row | time_and_peak(work, runtime, config.repeats)


def matching(config: GrowthConfig, names: int) -> dict[str, Any]:
    """Cost of finding this many pairs, whose files are empty: only names are read."""
    runtime = Runtime(torch.device("cpu"), torch.float32)
    with tempfile.TemporaryDirectory() as root:
        for side in ("blurred", "sharp"):
            (Path(root) / side).mkdir()
            for index in range(names):
                (Path(root) / side / f"{index:06d}.png").touch()
        work = functools.partial(all_pairs, Path(root), script.DataConfig())
        return {"names": names} | time_and_peak(work, runtime, config.repeats)


def slope(points: Sequence[tuple[float, float]], start: float) -> float | None:
    """Exponent of the power law through points (size, time) from size `start` on, if several."""
    kept = [point for point in points if point[0] >= start]
    return float(np.polyfit(*np.log(kept).T, 1)[0]) if len(dict(kept)) > 1 else None


def draw(panels: dict[str, list[dict[str, Any]]], slopes: dict[str, float | None]) -> Any:
    """Time (left scale) and peak memory (right scale) against each size, as a figure."""
    plt = require_package("matplotlib.pyplot")
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for time, (kind, rows) in zip(axes, panels.items(), strict=True):
        memory = time.twinx()
        for side, what, color in ((time, "seconds", "C0"), (memory, "peak_mib", "C1")):
            values = [row[what] or np.nan for row in rows]  # unknown, or too little to be seen
            side.plot([row[kind] for row in rows], values, "o-", color=color)
            side.set_ylabel(what.replace("peak_mib", "peak memory, MiB"), color=color)
            side.set(xscale="log", yscale="log")
        title = "" if slopes[kind] is None else f"time grows with exponent {slopes[kind]:.2f}"
        time.set(xlabel=kind, title=title)
        time.grid(which="both", alpha=0.25)
    return figure


def main(config: GrowthConfig) -> None:
    require_package("matplotlib").use("Agg")  # where it is missing, this shows now
    panels, slopes = {}, {}
    for kind, work in (("megapixels", sharpening), ("names", matching)):
        print(f"{kind:>12} {'seconds':>10} {'peak MiB':>9}")
        panels[kind] = []
        for size in getattr(config, kind):
            panels[kind].append(row := in_fresh_process(work, config, size))
            peak = "-" if row["peak_mib"] is None else f"{row['peak_mib']:.1f}"
            print(f"{row[kind]:>12.6g} {row['seconds']:>10.4g} {peak:>9}", flush=True)
        slopes[kind] = slope([(r[kind], r["seconds"]) for r in panels[kind]], SLOPE_FROM[kind])
        shown = "unknown" if slopes[kind] is None else f"{slopes[kind]:.3f}"
        print(f"exponent of time from {SLOPE_FROM[kind]} {kind} on: {shown}\n")
    with atomic_write(config.out) as temporary:
        draw(panels, slopes).savefig(temporary, dpi=150)
    result = {"checkpoint": config.checkpoint.name, "backend": config.backend, **panels}
    result |= {"slopes": slopes, "plot": str(config.out)}
    print(json.dumps(result | conditions(config.device)))


if __name__ == "__main__":
    # imported once for all processes; where Python does not find it, by each, which costs seconds
    multiprocessing.set_forkserver_preload(["main_sharpening_script"])
    sys.exit(run_tool(main, GrowthConfig, __doc__))
