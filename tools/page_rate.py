"""Frames a second and latency of the page, camera to canvas: `python tools/page_rate.py`.

Headless Chromium plays a numbered film as its camera. The latency of a frame is the time from its
capture, as the browser reports it, to its number appearing on the page's canvas. Needs chromium,
`npm ci --prefix web` and the package playwright.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sharpening import SharpeningError
from tools.common import run_tool
from tools.fake_camera import PROBE, chromium, latencies, served, write_film


@dataclass(frozen=True)
class PageRateConfig:
    seconds: float = 20
    """How long to measure, after three seconds of warming up."""
    work: Literal["auto", "full", "half", "off"] = "half"
    """The page's setting "Detail"; off: without sharpening, which shows what the rest costs."""
    backend: Literal["auto", "wasm", "webgpu"] = "wasm"
    """The page's setting "Compute with"."""
    isolation: bool = True
    """Send the headers without which the browser gives one thread."""
    busy: int = 0
    """Processes that keep the cores busy meanwhile."""


def busy_processes(count: int) -> list[int]:
    """Start `count` endless loops -> their process numbers."""
    found = []
    for _ in range(count):
        if (process := os.fork()) == 0:
            while True:
                pass
        found.append(process)
    return found


def measured(config: PageRateConfig, film: Path, frames: int) -> dict:
    flags = [] if config.isolation else ["--no-isolation"]
    with served(*flags) as url, chromium() as launch:
        page = launch(film).new_page(viewport={"width": 1280, "height": 800})
        page.goto(f"{url}?backend={config.backend}")
        page.evaluate(PROBE)
        page.locator("#figures", has_text="threads" if config.isolation else "thread").wait_for()
        if config.work == "off":
            page.click("#on")
        else:
            page.select_option("#work", config.work)
        page.click("#welcome [data-action=camera]")
        page.click("#mirror")  # off: the number is read from left to right
        page.evaluate("probe()")
        time.sleep(3)
        start = page.evaluate("captured.length = seen.length = 0, performance.now()")
        time.sleep(config.seconds)
        captured, seen, end = page.evaluate("[captured, seen, performance.now()]")
        figures, seconds = page.inner_text("#figures"), (end - start) / 1000
    found = [each for _, each in latencies(captured, seen, frames)]
    if not found:
        raise SharpeningError("no frame came through: does the page show the film?")
    half = len(found) // 2
    return {
        "camera_rate": len(captured) / seconds,
        "rate": len(seen) / seconds,
        "latency_ms": statistics.median(found),
        "latency_p90_ms": statistics.quantiles(found, n=10)[-1],
        "latency_first_half_ms": statistics.median(found[:half]),
        "latency_second_half_ms": statistics.median(found[half:]),
        "page_says": figures,
    }


def main(config: PageRateConfig) -> None:
    frames = 240
    with tempfile.TemporaryDirectory() as folder:
        film = write_film(Path(folder, "film.y4m"), frames)
        load = os.getloadavg()[0]
        loops = busy_processes(config.busy)
        try:
            result = measured(config, film, frames)
        finally:
            for process in loops:
                os.kill(process, 9)
                os.waitpid(process, 0)
    print(f"page says        {result['page_says']}")
    print(f"frames a second  {result['rate']:.1f} of {result['camera_rate']:.1f}")
    print(f"latency, median  {result['latency_ms']:.0f} ms; 90 % {result['latency_p90_ms']:.0f}")
    print(json.dumps({**asdict(config), **result, "load_before": load}))


if __name__ == "__main__":
    sys.exit(run_tool(main, PageRateConfig, __doc__))
