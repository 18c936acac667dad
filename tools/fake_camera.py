"""The page in Chromium with a fake camera: a film whose frames carry their number, and a probe
that reads the number from camera and canvas. For `page_rate.py` and the tests."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sharpening import SharpeningError
from sharpening.image_pairs import demo_pairs, read_rgb
from sharpening.runtime import require_package

WEB = Path(__file__).resolve().parents[1] / "web"

BITS, BLOCK = 8, 16  # the number is a row of black and white blocks in the upper left corner
HEIGHT, WIDTH = 360, 640


def motion_blurred(image: np.ndarray, length: int = 13) -> np.ndarray:
    """`image` (H, W, 3) float averaged along a slanted line of `length` pixels."""
    steps = np.linspace(-length / 2, length / 2, 4 * length)
    shifts = [(round(0.48 * step), round(0.88 * step)) for step in steps]
    return np.mean([np.roll(image, shift, (0, 1)) for shift in shifts], axis=0)


def window(image: np.ndarray, number: int) -> np.ndarray:
    """What the camera sees in frame `number`: it pans to the right and back, a pixel a frame."""
    reach = image.shape[1] - WIDTH
    x = abs((number + reach) % (2 * reach) - reach)
    return image[60 : 60 + HEIGHT, x : x + WIDTH]


def scene() -> tuple[np.ndarray, np.ndarray]:
    """(blurred, sharp), each (H, W, 3) float 0 to 255 and wider than a frame."""
    sharp = read_rgb(demo_pairs("test")[2].sharp).astype(np.float64)
    return motion_blurred(sharp), sharp


def with_number(frame: np.ndarray, number: int) -> np.ndarray:
    frame = frame.copy()
    for bit in range(BITS):
        left = bit * BLOCK
        frame[:BLOCK, left : left + BLOCK] = 255 * (number >> bit & 1)
    return frame


def write_y4m(path: Path, frames: list[np.ndarray], rate: int = 30) -> Path:
    """Frames (H, W, 3) 0 to 255 as YUV 4:2:0 in BT.601, limited range."""
    height, width = frames[0].shape[:2]
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F{rate}:1 Ip A1:1 C420jpeg\n".encode())
        for frame in frames:
            r, g, b = np.moveaxis(frame / 255, -1, 0)
            y = 16 + 65.481 * r + 128.553 * g + 24.966 * b
            u = 128 - 37.797 * r - 74.203 * g + 112 * b
            v = 128 + 112 * r - 93.786 * g - 18.214 * b
            halves = [c.reshape(height // 2, 2, width // 2, 2).mean((1, 3)) for c in (u, v)]
            file.write(b"FRAME\n")
            for plane in (y, *halves):
                file.write(plane.round().clip(0, 255).astype(np.uint8).tobytes())
    return path


def write_film(path: Path, count: int = 60) -> Path:
    """`count` blurred frames of the scene, numbered."""
    blurred, _ = scene()
    return write_y4m(path, [with_number(window(blurred, n), n) for n in range(count)])


@contextlib.contextmanager
def served(*flags: str) -> Iterator[str]:
    """The address at which `web/serve.js` serves the page, on a free port."""
    if not (WEB / "node_modules").is_dir():
        raise SharpeningError("the page's packages are missing: npm ci --prefix web")
    command = ["node", str(WEB / "serve.js"), "--port", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


@contextlib.contextmanager
def chromium() -> Iterator[Callable[..., Any]]:
    """Gives `launch(film, *flags)`: a headless Chromium from the PATH whose camera plays `film`,
    without questions; with None the flags say what camera there is."""
    path = shutil.which("chromium")
    if path is None:
        raise SharpeningError("no chromium on PATH: apt-get install chromium")

    with require_package("playwright.sync_api").sync_playwright() as playwright:

        def launch(film: Path | None = None, *flags: str) -> Any:
            camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
            camera += [f"--use-file-for-fake-video-capture={film}"]
            flags = (*(camera if film else ()), *flags)
            return playwright.chromium.launch(executable_path=path, args=list(flags))

        yield launch


PROBE = (
    """
window.numberIn = (source) => {
  const canvas = window.numberCanvas ??= Object.assign(document.createElement("canvas"),
    { width: BITS * BLOCK, height: BLOCK });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const size = (source.videoWidth || source.width) / WIDTH; // the page may show it smaller
  context.drawImage(source, 0, 0, canvas.width * size, BLOCK * size, 0, 0, canvas.width, BLOCK);
  const { data } = context.getImageData(0, BLOCK / 2, canvas.width, 1);
  let number = 0;
  for (let bit = 0; bit < BITS; bit++) {
    number |= (data[4 * (bit * BLOCK + BLOCK / 2)] > 127) << bit;
  }
  return number;
};
// [number, when captured] of each frame that the video gets, [number, when seen] on the canvas
window.captured = []; window.seen = [];
window.probe = () => {
  const video = document.querySelector("video");
  const note = (now, { captureTime }) => {
    const number = numberIn(video);
    if (number !== captured.at(-1)?.[0]) captured.push([number, captureTime ?? now]);
    video.requestVideoFrameCallback(note);
  };
  video.requestVideoFrameCallback(note);
  const look = () => {
    const number = numberIn(document.querySelector("canvas"));
    if (number !== seen.at(-1)?.[0]) seen.push([number, performance.now()]);
    requestAnimationFrame(look);
  };
  look();
};
""".replace("BITS", str(BITS))
    .replace("BLOCK", str(BLOCK))
    .replace("WIDTH", str(WIDTH))
)


def latencies(captured: list, seen: list, period: int) -> list[tuple[float, float]]:
    """(when seen, latency) in ms of every frame seen on the canvas: numbers repeat after `period`
    frames, so each is matched with its latest capture before it was seen."""
    found = []
    for number, when in seen:
        before = [at for same, at in captured if same == number and at <= when]
        if before and when - before[-1] < 1000 * period / 30:
            found.append((when, when - before[-1]))
    return found
