"""What a training shows and writes while it runs: progress bar, metrics.jsonl, TensorBoard; and
the table of an evaluation."""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from sharpening.runtime import Runtime

MICROS = "micro_batches"
"""Name of their number among the sums of the loss terms."""


class RunLog:
    """The log of a run of `steps` steps that begins, or goes on, after step `step`.

    Only the first process shows and writes; all must call. A line of metrics.jsonl has the step,
    the mean of each loss term since the line before, the learning rate, crops per second and the
    share of time spent waiting for data. Lines after `step`, from a run that was cut off, go. With
    the `begun` that `unwritten` gave at that step, the next line is that of an unbroken run.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        step: int,
        every: int,
        crops: int,
        runtime: Runtime,
        begun: dict[str, float] | None = None,
    ):
        """`every`: steps between lines; `crops`: images of one micro-batch in this process."""
        self.every, self.crops, self.runtime = every, crops * runtime.world, runtime
        self.sums: dict[str, Tensor | float] = dict(begun or {})
        if not runtime.is_main:  # the sums are those of all processes
            self.sums = dict.fromkeys(self.sums, 0.0)
        self.sums_of_steps = self.sums  # without those of a step that is not finished
        self.timed = 0  # micro-batches since the clock started
        self.waited, self.since = 0.0, time.perf_counter()
        self.bar = tqdm(total=steps, initial=step, unit="step", disable=not runtime.is_main)
        self.path = folder / "metrics.jsonl"
        if runtime.is_main:
            lines = self.path.read_text().splitlines() if step and self.path.is_file() else []
            lines = [line for line in lines if logged_step(line) <= step]
            folder.mkdir(parents=True, exist_ok=True)
            self.path.write_text("".join(f"{line}\n" for line in lines))
            self.board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.close()
        if self.runtime.is_main:
            self.board.close()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time inside out of the rates."""
        start = time.perf_counter()
        yield
        self.since += time.perf_counter() - start

    def add(self, terms: dict[str, Tensor]) -> None:
        """Terms of one micro-batch. They stay on the device until a line is written."""
        terms = {MICROS: 1, **terms}
        begun = self.sums if self.sums.keys() == terms.keys() else {}  # other terms at a resume
        self.sums = {name: begun.get(name, 0) + value for name, value in terms.items()}
        self.timed += 1

    def unwritten(self) -> dict[str, float]:
        """Sums of the whole steps since the last line, over the processes: `begun` of a resume."""
        sums = self.sums_of_steps
        totals = self.runtime.total([float(value) for value in sums.values()])
        return dict(zip(sums, totals, strict=True))

    def step(self, step: int, learning_rate: float) -> None:
        """Advance the bar after optimizer step `step`, and write a line if one is due."""
        self.bar.update()
        self.sums_of_steps = self.sums
        if step % self.every and step != self.bar.total:
            return
        sums = self.unwritten()
        count = sums.pop(MICROS)
        means = {name: value / count for name, value in sums.items()}
        self.bar.set_postfix({name: f"{value:.4f}" for name, value in means.items()})
        passed = time.perf_counter() - self.since
        rates = {"crops_per_second": self.timed * self.crops / passed}
        rates["waiting_for_data"] = self.waited / passed
        self.scalars(step, means | rates | {"learning_rate": learning_rate})
        self.sums = self.sums_of_steps = {}
        self.timed, self.waited, self.since = 0, 0.0, time.perf_counter()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line of metrics.jsonl, and the same in TensorBoard."""
        if not self.runtime.is_main:
            return
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def strips(self, step: int, paths: Sequence[Path]) -> None:
        """Evaluation strips, `blurry | restored | sharp`, as TensorBoard images."""
        if not self.runtime.is_main:
            return
        for path in filter(Path.is_file, paths):  # another node may hold the others
            strip = np.asarray(Image.open(path))
            self.board.add_image(path.stem.removesuffix("_strip"), strip, step, dataformats="HWC")


def logged_step(line: str) -> float:
    """The step of a line of metrics.jsonl; infinity if a power cut left half of the line."""
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
        return math.inf


def print_table(result: dict[str, Any], names: Sequence[str]) -> None:
    """The figures of an evaluation, for people: quality of the networks `names`, then speed."""
    print(f"\n{result['images']} test images      PSNR dB     SSIM  worse than blurry")
    if 0 < result["not_blurred"] < result["images"]:
        print(f"  without {result['not_blurred']} that are not blurred: both images are equal")
    for name in names:
        print(f"  {name:<18} {result[f'psnr_{name}']:8.2f} {result[f'ssim_{name}']:8.4f}", end="")
        print("" if name == "blurry" else f"{100 * result[f'worse_{name}']:7.0f} %")
    if "parameters" in result:
        print(f"\nstudent: {result['parameters'] / 1e6:.2f} M parameters, ", end="")
        print(f"{result['gmacs_256']:.2f} GMACs at 256 x 256")
        print("frames per second on {device}, {backend}, {dtype}:".format(**result))
        for name in (name for name in result if name.startswith("fps_")):
            print(f"  {name.removeprefix('fps_'):<10} {result[name]:8.2f}")
