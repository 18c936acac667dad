"""Pairs of blurred and sharp images from a video of 120 or 240 frames a second, as GoPro was made.

    python tools/pairs_from_video.py clip.mp4 my_pairs --window 11

A window of frames, averaged, is the blurred image; its middle frame is the sharp one. Windows with
a cut or without motion are left out. `sheet.jpg` shows the pairs: look at it before you train. The
student learns your camera with `--data.root my_pairs --train.initial-weights ...` (README).
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
import tyro
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sharpening import SharpeningError
from sharpening.media_files import atomic_write
from sharpening.settings import check_limits
from tools.common import run_tool


@dataclass(frozen=True)
class VideoPairsConfig:
    video: tyro.conf.Positional[Path]
    """Video of many frames a second, in which camera or things move."""
    output: tyro.conf.Positional[Path]
    """Folder that gets blurred/ and sharp/, numbered PNG files, and sheet.jpg."""
    window: int = 11
    """Frames averaged into one blurred image, an odd number; GoPro used 7 to 13 of 240 a second."""
    step: int | None = None
    """Frames from one window to the next; None: as many as a window has."""
    average: Literal["stored", "light"] = "light"
    """Average pixels as they are stored, or in light, as a sensor does (a gamma of 2.2)."""
    still: float = 1.0
    """Smallest mean difference of the first and the last frame, of 255: below, nothing moves."""
    cut: float = 4.0
    """A step between neighbours this many times as large as the median in the window is a cut."""
    most: int = 1000
    """Pairs at most."""

    def __post_init__(self) -> None:
        limits = {"window": (3, 99), "step": (1, 10_000), "still": (0, 255), "cut": (1.1, 1e9)}
        check_limits(self, limits | {"most": (1, 1_000_000)})
        if self.window % 2 == 0:
            raise ValueError(f"window must be odd, so that it has a middle frame: {self.window}")


def frames_of(path: Path) -> Iterator[np.ndarray]:
    """The frames of a video, (H, W, 3) uint8."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise SharpeningError(f"{path} holds no video")
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except (OSError, av.FFmpegError) as error:
        raise SharpeningError(f"{path} cannot be read ({error}): give a video") from error


def windows(frames: Iterator[np.ndarray], size: int, step: int) -> Iterator[list[np.ndarray]]:
    """Runs of `size` neighbouring frames, whose first frames are `step` apart."""
    held: list[np.ndarray] = []
    skip = 0
    for frame in frames:
        if skip:
            skip -= 1
            continue
        held.append(frame)
        if len(held) == size:
            yield held
            held, skip = held[step:], max(0, step - size)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference of every fourth pixel, of 255."""
    small = (image[::4, ::4].astype(np.int16) for image in (one, other))
    return float(np.abs(np.subtract(*small)).mean())


def verdict(frames: list[np.ndarray], still: float, cut: float) -> Literal["pair", "still", "cut"]:
    """What a window is good for."""
    steps = [difference(a, b) for a, b in zip(frames, frames[1:], strict=False)]
    if max(steps) > cut * np.median(steps) + still:
        return "cut"
    return "pair" if difference(frames[0], frames[-1]) >= still else "still"


def blurred(frames: list[np.ndarray], average: Literal["stored", "light"]) -> np.ndarray:
    """The mean of the frames, as stored or in light, (H, W, 3) uint8."""
    gamma = 2.2 if average == "light" else 1.0
    light = (np.arange(256, dtype=np.float32) / 255) ** gamma
    total = np.zeros(frames[0].shape, np.float32)
    for frame in frames:
        total += light[frame]
    return np.rint(255 * (total / len(frames)) ** (1 / gamma)).astype(np.uint8)


def save(image: np.ndarray, path: Path, **options: int) -> None:
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary, **options)


def contact_sheet(pairs: list[tuple[np.ndarray, np.ndarray]], columns: int = 4) -> np.ndarray:
    """Small pairs, blurred above sharp, in rows of `columns`."""
    cells = [np.concatenate(pair) for pair in pairs]
    cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
    rows = (np.concatenate(cells[i : i + columns], 1) for i in range(0, len(cells), columns))
    return np.concatenate(list(rows))


def small(image: np.ndarray, width: int = 320) -> np.ndarray:
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    return np.asarray(Image.fromarray(image).resize((width, height)))


def main(config: VideoPairsConfig) -> None:
    if any((config.output / name).exists() for name in ("blurred", "sharp")):
        raise SharpeningError(f"{config.output} holds pairs already: give another folder")
    counts: Counter[str] = Counter()
    shown: list[tuple[np.ndarray, np.ndarray]] = []
    runs = windows(frames_of(config.video), config.window, config.step or config.window)
    for frames in runs:
        counts[kind := verdict(frames, config.still, config.cut)] += 1
        if kind != "pair":
            continue
        pair = blurred(frames, config.average), frames[config.window // 2]
        for side, image in zip(("blurred", "sharp"), pair, strict=True):
            save(image, config.output / side / f"{counts['pair']:06d}.png", compress_level=3)
        if len(shown) < 40:
            shown.append((small(pair[0]), small(pair[1])))
        if counts["pair"] == config.most:
            break
    if not shown:
        raise SharpeningError(
            f"{config.video} gives no pair ({counts['still']} windows without motion, "
            f"{counts['cut']} with a cut): lower --still or --window"
        )
    save(contact_sheet(shown), config.output / "sheet.jpg", quality=85)
    print(f"look at {config.output / 'sheet.jpg'}: blurred above, sharp below")
    names = {"pair": "pairs", "still": "without_motion", "cut": "with_a_cut"}
    print(json.dumps({names[kind]: counts[kind] for kind in names}))


if __name__ == "__main__":
    sys.exit(run_tool(main, VideoPairsConfig, __doc__))
