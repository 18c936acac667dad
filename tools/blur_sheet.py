"""Contact sheet of synthetic blur: `python tools/blur_sheet.py --images DIR --out sheet.png`.

Each row is one photograph: sharp first, then blurred by consecutive seeds. With `--pairs DIR`,
which holds `sharp/` and `blurred/`, rows of real pairs follow, sharp left and blurred right.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from main_sharpening_script import (  # noqa: E402
    IMAGE_SUFFIXES,
    DegradationConfig,
    SharpeningError,
    degrade,
    generators_for,
    psnr,
    read_rgb,
)
from sharpening.media_files import atomic_write  # noqa: E402
from tools.common import run_tool, spread  # noqa: E402


@dataclass(frozen=True)
class SheetConfig:
    images: Path
    """Folder of sharp photographs."""
    out: Path = Path("blur_sheet.png")
    """The PNG to write."""
    pairs: Path | None = None
    """Folder with `sharp/` and `blurred/`: real pairs to put below."""
    rows: int = 6
    """Photographs shown, and as many real pairs."""
    columns: int = 5
    """Blurred versions of each."""
    crop: int = 192
    """Side of a crop, pixels."""
    reduce: int = 1
    """Whole factor by which photographs are reduced first, for those larger than a video frame."""
    seed: int = 0
    """Seed of the blur."""
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    """Ranges of the blur."""


def some_images(folder: Path, count: int) -> list[Path]:
    """`count` images evenly spread over the sorted folder."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise SharpeningError(f"no images in {folder}: check the path")
    return spread(paths, count)


def centre(path: Path, crop: int, reduce: int = 1) -> np.ndarray:
    """Middle crop (crop, crop, 3) of an image file, uint8; black where the image is smaller."""
    image = Image.fromarray(read_rgb(path)).reduce(reduce)
    left, top = (image.width - crop) // 2, (image.height - crop) // 2
    return np.asarray(image.crop((left, top, left + crop, top + crop)))


def synthetic_row(sharp: np.ndarray, first: int, config: SheetConfig) -> list[np.ndarray]:
    """The crop and its blurred versions."""
    image = torch.from_numpy(sharp.copy()).permute(2, 0, 1).float() / 255
    generators = generators_for(config.seed, range(first, first + config.columns))
    batch, _ = degrade(image.repeat(config.columns, 1, 1, 1), generators, config.degradation)
    blurred = (batch * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [sharp, *blurred]


def real_row(paths: list[Path], config: SheetConfig) -> list[np.ndarray]:
    """Sharp and blurred crops of real pairs, alternating."""
    twins = [path.parents[1] / "blurred" / path.name for path in paths]
    return [centre(path, config.crop) for pair in zip(paths, twins, strict=True) for path in pair]


def main(config: SheetConfig) -> None:
    paths = some_images(config.images, config.rows)
    sharps = [centre(path, config.crop, config.reduce) for path in paths]
    rows = [synthetic_row(s, i * config.columns, config) for i, s in enumerate(sharps)]
    values = [psnr(row[0], blurry) for row in rows for blurry in row[1:]]
    if config.pairs is not None:
        across = (config.columns + 1) // 2
        paths = some_images(config.pairs / "sharp", config.rows * across)
        chunks = [paths[i : i + across] for i in range(0, len(paths), across)]
        rows += [real_row(chunk, config) for chunk in chunks]
    sheet = np.zeros((len(rows) * config.crop, (config.columns + 1) * config.crop, 3), np.uint8)
    for y, row in enumerate(rows):
        strip = np.concatenate(row, axis=1)
        sheet[y * config.crop : (y + 1) * config.crop, : strip.shape[1]] = strip
    with atomic_write(config.out) as temporary:
        Image.fromarray(sheet).save(temporary)
    quartiles = [round(q, 2) for q in np.percentile(values, [25, 50, 75]).tolist()]
    print(json.dumps({"sheet": str(config.out), "psnr_quartiles": quartiles}))


if __name__ == "__main__":
    sys.exit(run_tool(main, SheetConfig, __doc__))
