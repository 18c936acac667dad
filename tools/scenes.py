"""What the student does to motion blur, a face, text and a soft background, and where it fails.

    python tools/scenes.py model_checkpoints/student_pretrained.pth -o scenes.png
    python tools/scenes.py model_checkpoints/student_pretrained.pth -o limits.png --show limits

A column for each scene: photographs of scikit-image, and with `--pair` a real pair first. From top
to bottom: the input, the result, and the original, with the PSNR to it. A scene that is not blurred
first shows, in the place of the original, what the student changed: the difference, eight times as
large.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import skimage
import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import main_sharpening_script as script
from sharpening.image_pairs import Pair, read_rgb
from sharpening.media_files import atomic_write
from sharpening.runtime import Runtime
from tools.common import any_camera, run_tool
from tools.pictures import Cell, draw, most_blurred, some_images

SIDE = 190
"""Side of the crops, pixels: as high as the picture of text is."""


class Scene(NamedTuple):
    title: str
    photo: str
    place: tuple[int, int]
    """Row and column of the crop's first pixel."""
    length: float | None = None
    """Of the motion in pixels, up to a tenth more; None: the photograph as it is."""


SCENES = {
    "scenes": (
        Scene("motion", "motorcycle_left.png", (180, 300), 12),
        Scene("face", "astronaut.png", (20, 130), 8),
        Scene("text", "page.png", (0, 10), 6),
        Scene("soft background", "chelsea.png", (90, 261)),
    ),
    "limits": (
        Scene("long motion", "chelsea.png", (40, 120), 38),
        Scene("guessed letters", "page.png", (0, 10), 10),
        Scene("sharp already", "motorcycle_left.png", (180, 300)),
        Scene("soft on purpose", "chelsea.png", (90, 261)),
    ),
}


@dataclass(frozen=True)
class ScenesConfig:
    checkpoint: tyro.conf.Positional[Path]
    """Student whose results are shown."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("scenes.png")
    """The picture to write."""
    show: Literal["scenes", "limits"] = "scenes"
    """Scenes that the student is for, or where it fails."""
    pair: Path | None = None
    """Folder with `sharp/` and `blurred/`: its first pair, where it is blurred most."""


def crop(image: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    """The square of `SIDE` pixels that begins at `place`."""
    return image[place[0] : place[0] + SIDE, place[1] : place[1] + SIDE]


def column(scene: Scene, sharpen: script.Sharpener) -> list[Cell]:
    """The cells of a scene from top to bottom."""
    path = Path(skimage.__file__).parent / "data" / scene.photo
    length = scene.length or 0
    blur = any_camera(motion=1.0, video_call=0.0, length=(length, 1.1 * length))
    _, blurry, sharp = script.EvaluationImages([Pair(path.stem, path)], blur)[0]
    given = sharp if scene.length is None else blurry
    before, after, target = (crop(each, scene.place) for each in (given, sharpen(given), sharp))
    reached = f"{script.psnr(after, target):.1f} dB"
    if scene.length is None:
        change = np.clip(128 + 8.0 * (after.astype(np.float32) - target), 0, 255)
        last = "difference x 8", change.astype(np.uint8)
        return [(f"{scene.title}, as it is", before), (f"result: {reached}", after), last]
    return cells(scene.title, before, after, target)


def cells(title: str, before: np.ndarray, after: np.ndarray, target: np.ndarray) -> list[Cell]:
    """A column of three crops with their PSNR."""
    first, second = (f"{script.psnr(each, target):.1f} dB" for each in (before, after))
    return [(f"{title}: {first}", before), (f"result: {second}", after), ("original", target)]


def real_column(folder: Path, sharpen: script.Sharpener) -> list[Cell]:
    """The cells of the first real pair of a folder."""
    (path,) = some_images(folder / "sharp", 1)
    blurry, sharp = read_rgb(folder / "blurred" / path.name), read_rgb(path)
    place = most_blurred(blurry, sharp, SIDE)
    return cells("real", blurry[place], sharpen(blurry)[place], sharp[place])


def main(config: ScenesConfig) -> None:
    runtime = Runtime(torch.device("cpu"), torch.float32)
    sharpen = script.Sharpener.load(config.checkpoint, runtime)
    columns = [real_column(config.pair, sharpen)] if config.pair else []
    columns += [column(scene, sharpen) for scene in SCENES[config.show]]
    rows = [list(row) for row in zip(*columns, strict=True)]
    with atomic_write(config.output) as temporary:
        draw(rows, SIDE).save(temporary, "PNG")
    print(json.dumps({"picture": str(config.output), "titles": [[t for t, _ in r] for r in rows]}))


if __name__ == "__main__":
    sys.exit(run_tool(main, ScenesConfig, __doc__))
