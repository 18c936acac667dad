"""Before long work on files: how much there is, how long it takes, and what makes it faster."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image

from sharpening.file_inference import Plan
from sharpening.runtime import Runtime

LONG = 120.0
"""Seconds from which advice is given."""
FASTER = (
    ("--size live", 3.6, "0.94 dB"),
    ("--inference.backend openvino-int8", 1.5, "0.14 dB"),
)
"""What makes `standard` faster on a CPU: how many times (docs/SPEED.md, OpenVINO), and the PSNR
that it costs on 60 REDS pairs (MODEL_CARD for the size, docs/SPEED.md for INT8)."""

Size = tuple[str, int, float]
"""Of a file: "image" or "video", frames, megapixels of all frames."""


def size_of(path: Path, kind: str) -> tuple[int, float]:
    """(frames, megapixels of all) of an image or a video from its header; (1, 0) if unreadable."""
    try:
        if kind == "image":
            with Image.open(path) as image:
                return 1, image.width * image.height / 1e6
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            frames = stream.frames
            if not frames and container.duration and stream.average_rate:
                frames = round(container.duration * stream.average_rate / av.time_base)
            return max(frames, 1), max(frames, 1) * stream.width * stream.height / 1e6
    except (OSError, ValueError, IndexError, Image.DecompressionBombError, av.FFmpegError):
        return 1, 0.0


def sizes_of(plan: Plan) -> list[Size]:
    """The sizes of what there is to do."""
    return [(job.kind, *size_of(job.source, job.kind)) for job in plan.jobs]


def seconds_per_megapixel(
    sharpen: Callable[[Sequence[np.ndarray]], list], side: int = 512
) -> float:
    """Of the network alone, by the last of three calls: OpenVINO compiles in the first two."""
    frame = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    for _ in range(3):
        start = time.perf_counter()
        sharpen([frame])
        passed = time.perf_counter() - start
    return passed / (side * side / 1e6)


def duration(seconds: float) -> str:
    """Seconds in words: 40 seconds, 5 minutes, 2.5 hours."""
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 1.95 * length:
            return f"{seconds / length:.{int(unit == 'hours')}f} {unit}"
    whole = max(1, round(seconds))
    return f"{whole} second{'s' * (whole > 1)}"


def estimate(sizes: Sequence[Size], sharpen: Callable, processes: int = 1) -> tuple[str, float]:
    """A line about the work on files of these sizes, and its seconds."""
    seconds = sum(size for *_, size in sizes) * seconds_per_megapixel(sharpen) / processes
    pictures = sum(kind == "image" for kind, *_ in sizes)
    frames = sum(count for kind, count, _ in sizes if kind == "video")
    parts = (f"{pictures} pictures" * bool(pictures), f"{frames} frames of video" * bool(frames))
    rate = (pictures + frames) / max(seconds, 1e-9)
    what = " and ".join(part for part in parts if part)
    return f"{what}: about {duration(seconds)}, {rate:.2g} a second", seconds


def advice(seconds: float, backend: str, standard: bool) -> list[str]:
    """What makes long work on a CPU faster, a line each; none for short work."""
    if seconds <= LONG:
        return []
    lines = []
    for flag, times, cost in FASTER if standard else ():
        if not flag.endswith(backend):
            less = duration(seconds / times)
            lines.append(f"faster: {flag}, about {less}, for {cost} less PSNR")
    return lines


def say_estimate(
    sizes: Sequence[Size], sharpen: Callable, runtime: Runtime, backend: str, student: str
) -> None:
    """The estimate and the advice, for more than a few pictures or any video. `student`: the name
    of its checkpoint without suffix."""
    standard = student == "student_pretrained"
    if runtime.is_main and (len(sizes) >= 8 or any(kind == "video" for kind, *_ in sizes)):
        line, seconds = estimate(sizes, sharpen, runtime.world)
        on_cpu = runtime.device.type == "cpu"
        for text in (line, *(advice(seconds, backend, standard) if on_cpu else ())):
            runtime.say(text)
