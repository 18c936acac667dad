"""The moving picture of the page for README: `python tools/page_film.py --clip clip.mp4`.

Headless Chromium shows the page with a camera that plays a clip, slowly, as if its camera had been
shaken; the divider moves from side to side, and the page's own pictures become an animated WebP.
"""

from __future__ import annotations

import io
import itertools
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import av
import numpy as np
import tyro
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sharpening.media_files import atomic_write
from tools.common import run_tool
from tools.fake_camera import HEIGHT, WIDTH, chromium, motion_blurred, served, write_y4m

EACH = 0.4
"""Seconds for which the camera shows each frame, and between two pictures."""


@dataclass(frozen=True)
class PageFilmConfig:
    clip: Path
    """A video, such as demo/data/gallery/01_dog.mp4 of SAM 2's repository (Apache-2.0)."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("live_page.webp")
    """The animated WebP to write."""
    pictures: int = 36
    """Pictures in it."""
    width: int = 640
    """Width in pixels."""
    quality: int = 85
    """Quality of the WebP, 1 to 100."""


def shaken(clip: Path, count: int) -> list[np.ndarray]:
    """The middle of the first frames of a video, (HEIGHT, WIDTH, 3), blurred along 9 pixels."""
    with av.open(clip) as container:
        frames = [f.to_image() for f in itertools.islice(container.decode(video=0), count)]
    W, H = frames[0].size
    middle = (W // 8, H // 8, W - W // 8, H - H // 8)
    small = [np.asarray(f.resize((WIDTH, HEIGHT), box=middle)) for f in frames]
    return [motion_blurred(frame, 9) for frame in small]


def recorded(film: Path, pictures: int) -> list[Image.Image]:
    """Screenshots of the page's picture, the divider going to the right and back."""
    with served() as url, chromium() as launch:
        page = launch(film).new_page(viewport={"width": 1100, "height": 900})
        page.goto(f"{url}?backend=wasm")
        page.locator("#figures", has_text="INT8").wait_for()
        page.select_option("#work", "full")
        page.click("#welcome [data-action=camera]")
        page.click("#mirror")  # off
        page.click("#compare")
        page.locator("#figures", has_text="full size").wait_for()
        found = []
        for turn in np.linspace(0, 2 * np.pi, pictures, endpoint=False):
            page.fill("#split", str(round(50 + 30 * np.sin(turn))))
            page.wait_for_timeout(1000 * EACH)  # a further frame comes
            found.append(Image.open(io.BytesIO(page.locator("#stage").screenshot())))
        return found


def main(config: PageFilmConfig) -> None:
    with tempfile.TemporaryDirectory() as folder:
        slow = [f for f in shaken(config.clip, config.pictures) for _ in range(round(30 * EACH))]
        film = write_y4m(Path(folder, "film.y4m"), slow)
        pictures = recorded(film, config.pictures)
    size = (config.width, round(config.width * pictures[0].height / pictures[0].width))
    first, *rest = [picture.convert("RGB").resize(size) for picture in pictures]
    with atomic_write(config.output) as temporary:
        settings = {"save_all": True, "append_images": rest, "duration": 120, "loop": 0}
        first.save(temporary, "WEBP", quality=config.quality, method=6, **settings)
    print(f"{config.output}: {len(pictures)} pictures, {size[0]} x {size[1]}")
    print(json.dumps({"megabytes": config.output.stat().st_size / 1e6, "size": size}))


if __name__ == "__main__":
    sys.exit(run_tool(main, PageFilmConfig, __doc__))
