"""A sheet of pictures: what a student does, or what the synthetic blur looks like.

    python tools/pictures.py --checkpoint student.pth -o sheet.png
    python tools/pictures.py --images photos/ -o sheet.png

With a checkpoint: the demo's test photographs, blurred as `--blurs` says; in a row the blurred
crop, the student's result and the original, with their PSNR; `--pairs` adds rows of real pairs,
where they are blurred most. With a folder of photographs: in a row the sharp crop and its blur from
consecutive seeds; `--pairs` adds rows of real pairs, sharp left and blurred right.
"""

import itertools
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import main_sharpening_script as script
from sharpening import SharpeningError
from sharpening.image_pairs import IMAGE_SUFFIXES, demo_pairs, read_rgb
from sharpening.media_files import atomic_write
from sharpening.runtime import Runtime
from sharpening.synthetic_blur import DegradationConfig, degrade, generators_for
from tools.common import any_camera, run_tool, spread

BLURS = {
    "short": any_camera(motion=1.0, video_call=0.0, length=(6.0, 9.0)),
    "medium": any_camera(motion=1.0, video_call=0.0, length=(12.0, 15.0)),
    "long": any_camera(motion=1.0, video_call=0.0, length=(36.0, 40.0)),
    "call": any_camera(motion=0.0, video_call=1.0),
}
TITLE = 20
"""Height of the line of text above a crop, pixels."""
Cell = tuple[str, np.ndarray]
"""Title, which may be empty, and crop (H, W, 3) uint8."""


@dataclass(frozen=True)
class PicturesConfig:
    checkpoint: Path | None = None
    """Student whose results are shown."""
    images: Path | None = None
    """Folder of sharp photographs whose synthetic blur is shown."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("sheet.png")
    """The picture to write."""
    blurs: tuple[str, ...] = ("short", "medium", "call")
    """For a checkpoint: short, medium, long (motion of about 8, 14, 38 pixels) or call (a video
    call)."""
    pairs: Path | None = None
    """Folder with `sharp/` and `blurred/`: real pairs below the synthetic blur."""
    rows: int = 2
    """Photographs for each blur, or of the folder; as many rows of real pairs at most."""
    columns: int = 5
    """Blurred versions of a photograph of the folder."""
    crop: int = 224
    """Side of the crops, pixels."""
    reduce: int = 1
    """Whole factor by which photographs of the folder are reduced first, where they are larger than
    a video frame."""
    seed: int = 0
    """Seed of the blur of photographs of the folder."""
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    """Its ranges."""

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (self.images is None):
            raise ValueError("give either --checkpoint or --images")
        if unknown := set(self.blurs) - BLURS.keys():
            raise ValueError(f"blurs are {', '.join(BLURS)}: {', '.join(sorted(unknown))}")


def middle(image: np.ndarray, side: int) -> tuple[slice, slice]:
    """The square of `side` pixels in the middle of an image, or less where it is smaller."""
    top, left = (max(0, n - side) // 2 for n in image.shape[:2])
    return slice(top, top + side), slice(left, left + side)


def most_blurred(blurry: np.ndarray, sharp: np.ndarray, side: int) -> tuple[slice, slice]:
    """The square of `side` pixels, or less, in which two images differ most."""
    error = torch.from_numpy(np.abs(blurry.astype(np.float32) - sharp).mean(2))
    means = F.avg_pool2d(error[None], tuple(min(side, n) for n in error.shape), 16)[0]
    top, left = (16 * int(i) for i in np.unravel_index(int(means.argmax()), means.shape))
    return slice(top, top + side), slice(left, left + side)


def result_row(
    sharpen: script.Sharpener,
    name: str,
    blurry: np.ndarray,
    sharp: np.ndarray,
    place: tuple[slice, slice],
) -> list[Cell]:
    """The crops of a blurred, restored and sharp image."""
    crops = [image[place] for image in (blurry, sharpen(blurry), sharp)]
    before, after = (script.psnr(crop, crops[2]) for crop in crops[:2])
    titles = (f"{name}: {before:.2f} dB", f"student: {after:.2f} dB", "original")
    return list(zip(titles, crops, strict=True))


def results(config: PicturesConfig) -> tuple[list[list[Cell]], dict[str, Any]]:
    """Rows of a student's results, and PSNR before and after in each."""
    if config.rows > (there := len(demo_pairs("test"))):
        raise SharpeningError(f"the demo has {there} test photographs, not {config.rows}")
    runtime = Runtime(torch.device("cpu"), torch.float32)
    sharpen = script.Sharpener.load(config.checkpoint, runtime)
    rows = []
    for blur, index in itertools.product(config.blurs, range(config.rows)):
        _, blurry, sharp = script.EvaluationImages(demo_pairs("test"), BLURS[blur])[index]
        rows.append(result_row(sharpen, blur, blurry, sharp, middle(sharp, config.crop)))
    for path in some_images(config.pairs / "sharp", config.rows) if config.pairs else ():
        blurry, sharp = (read_rgb(p) for p in (path.parents[1] / "blurred" / path.name, path))
        place = most_blurred(blurry, sharp, config.crop)
        rows.append(result_row(sharpen, "real", blurry, sharp, place))
    found = [[script.psnr(crop, row[2][1]) for _, crop in row[:2]] for row in rows]
    names = [row[0][0].partition(":")[0] for row in rows]
    named = zip(names, found, strict=True)
    return rows, {"rows": [{"blur": b, "before": v[0], "after": v[1]} for b, v in named]}


def some_images(folder: Path, count: int) -> list[Path]:
    """`count` images evenly spread over the sorted folder."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise SharpeningError(f"no images in {folder}: check the path")
    return spread(paths, count)


def synthetic_row(path: Path, first: int, config: PicturesConfig) -> list[Cell]:
    """The crop and its blurred versions."""
    photo = np.asarray(Image.fromarray(read_rgb(path)).reduce(config.reduce))
    sharp = photo[middle(photo, config.crop)].copy()
    image = torch.from_numpy(sharp).permute(2, 0, 1).float() / 255
    generators = generators_for(config.seed, range(first, first + config.columns))
    batch, _ = degrade(image.repeat(config.columns, 1, 1, 1), generators, config.degradation)
    blurred = (batch * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [("", sharp), *(("", crop) for crop in blurred)]


def blur_rows(config: PicturesConfig) -> tuple[list[list[Cell]], dict[str, Any]]:
    """Rows of synthetic blur and of real pairs, and the quartiles of the synthetic blur's PSNR."""
    paths = some_images(config.images, config.rows)
    rows = [synthetic_row(path, i * config.columns, config) for i, path in enumerate(paths)]
    values = [script.psnr(row[0][1], crop) for row in rows for _, crop in row[1:]]
    if config.pairs is not None:
        across = (config.columns + 1) // 2
        paths = some_images(config.pairs / "sharp", config.rows * across)
        twins = [(path, path.parents[1] / "blurred" / path.name) for path in paths]
        images = (read_rgb(path) for pair in twins for path in pair)
        cells = [("", image[middle(image, config.crop)]) for image in images]
        rows += [cells[i : i + 2 * across] for i in range(0, len(cells), 2 * across)]
    return rows, {"psnr_quartiles": np.percentile(values, [25, 50, 75]).round(2).tolist()}


def draw(rows: list[list[Cell]], side: int) -> Image.Image:
    """All cells on one sheet, with their titles above if there are any."""
    title = TITLE if any(text for row in rows for text, _ in row) else 0
    width, height = max(map(len, rows)) * side, len(rows) * (side + title)
    sheet = Image.new("RGB", (width, height), "white" if title else "black")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for y, row in enumerate(rows):
        for x, (text, crop) in enumerate(row):
            place = (x * side, y * (side + title))
            pen.text((place[0] + 4, place[1] + 1), text, "black", font)
            sheet.paste(Image.fromarray(crop), (place[0], place[1] + title))
    return sheet


def main(config: PicturesConfig) -> None:
    rows, facts = results(config) if config.checkpoint else blur_rows(config)
    with atomic_write(config.output) as temporary:
        draw(rows, config.crop).save(temporary, "PNG")
    print(json.dumps({"picture": str(config.output), **facts}))


if __name__ == "__main__":
    sys.exit(run_tool(main, PicturesConfig, __doc__))
