"""What `--inference.refine` costs: frames with and without it, timed in turn.

    python tools/refine_cost.py standard live

A photograph as it is, and the same averaged over 15 pixels, which is computed a second time in a
smaller size. Milliseconds are medians; `ratio` is to `none`.
"""

import functools
import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import main_sharpening_script as script
from sharpening.image_pairs import demo_frame
from sharpening.runtime import Runtime, start_runtime
from tools.common import run_tool
from tools.machine import conditions, time_in_turn

CHOICES = ("none", "tone", "all")


@dataclass(frozen=True)
class RefineCostConfig:
    students: tyro.conf.Positional[tuple[str, ...]] = ("standard", "live")
    """Checkpoints or names."""
    backend: Literal["auto", "pytorch", "openvino"] = "auto"
    """What computes them, as in `--inference.backend`."""
    rounds: int = 15
    """Timed calls of each; medians are shown."""
    device: Literal["auto", "cpu", "cuda"] = "auto"


def frames(height: int, width: int) -> dict[str, np.ndarray]:
    """A frame (H, W, 3) uint8 as it is, and blurred by a motion of 15 pixels."""
    sharp = demo_frame(height, width)
    moved = [np.roll(sharp, shift, axis=1).astype(np.float32) for shift in range(-7, 8)]
    return {"sharp": sharp, "blurred": np.mean(moved, axis=0).round().astype(np.uint8)}


def measure(student: str, config: RefineCostConfig, runtime: Runtime) -> list[dict[str, Any]]:
    """A row for each size, frame and choice."""
    rows = []
    ways = {
        choice: script.Sharpener.load(
            student, runtime, script.InferenceConfig(refine=choice, backend=config.backend), np.inf
        )
        for choice in CHOICES
    }
    for size, (height, width, _) in script.SPEED_SIZES.items():
        for name, frame in frames(height, width).items():
            works = {choice: functools.partial(way.images, [frame]) for choice, way in ways.items()}
            seconds = time_in_turn(works, runtime, config.rounds, warm_up=3)
            middle = {choice: float(np.median(values)) for choice, values in seconds.items()}
            for choice, value in middle.items():
                rows.append({"student": student, "size": size, "frame": name, "refine": choice})
                rows[-1] |= {"backend": ways[choice].backend, "ms": 1000 * value}
                rows[-1] |= {"ratio": value / middle["none"]}
    return rows


def main(config: RefineCostConfig) -> None:
    with start_runtime(config.device) as runtime:
        rows = [*itertools.chain(*(measure(each, config, runtime) for each in config.students))]
        under = conditions(runtime.device.type)
    print(f"{'student':<20} {'size':<10} {'frame':<8} {'refine':<6} {'ms':>8} {'ratio':>6}")
    for row in rows:
        print(
            f"{row['student'][-20:]:<20} {row['size']:<10} {row['frame']:<8} {row['refine']:<6} "
            f"{row['ms']:8.1f} {row['ratio']:6.2f}"
        )
    print(json.dumps({"rows": rows, **under}))


if __name__ == "__main__":
    sys.exit(run_tool(main, RefineCostConfig, __doc__))
