"""Before and after on one page: `python tools/compare.py A B [--sharp DIR] -o page.html`.

A and B are folders, matched by file name without suffix, or two images. The page holds its images
and needs nothing else: drag the line, or use Tab and the arrow keys, Page Up and Down, Home, End.
"""

from __future__ import annotations

import base64
import html
import io
import json
import string
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated

import numpy as np
import tyro
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from main_sharpening_script import psnr, ssim
from sharpening import SharpeningError
from sharpening.image_pairs import IMAGE_SUFFIXES, read_rgb
from sharpening.media_files import atomic_write
from tools.common import run_tool

SIDES = ("before", "after")
PAGE = Path(__file__).with_name("compare_page.html")
FIGURE = string.Template("""\
<figure>
<figcaption>$name $notes</figcaption>
<div class="scroll"><div class="slider" style="--w: ${width}px">
<div class="before"><img $size alt="$name, $left" src="$before"><em>$left</em></div>
<div class="after"><img $size alt="$name, $right" src="$after"><em>$right</em></div>
<input type="range" min="0" max="100" value="50" data-side="$left"
 aria-label="$name: how much of it is shown as $left">
<div class="handle"></div>
</div></div>
</figure>
""")


@dataclass(frozen=True)
class CompareConfig:
    before: tyro.conf.Positional[Path]
    """Folder or image shown on the left."""
    after: tyro.conf.Positional[Path]
    """Folder or image shown on the right."""
    sharp: Path | None = None
    """Folder or image of sharp originals: adds PSNR and SSIM."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("compare.html")
    """The page to write."""
    names: tuple[str, str] = ("before", "after")
    """What the two sides are called."""
    quality: int = 0
    """0 embeds PNG, exact; 1 to 100 JPEG of that quality, for pages to send by mail."""


@dataclass(frozen=True)
class Match:
    """One name in both places; `sharp` None without originals."""

    name: str
    before: Path
    after: Path
    sharp: Path | None


def by_name(place: Path) -> dict[str, Path]:
    """Path below the folder -> image: without its suffix where no other file shares that name,
    else with it. A single image has the name ''."""
    if place.is_file():
        return {"": place}
    paths = sorted(p for p in place.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise SharpeningError(f"no images in {place}")
    relative = [path.relative_to(place) for path in paths]
    shared = Counter(path.with_suffix("") for path in relative)
    names = [p if shared[p.with_suffix("")] > 1 else p.with_suffix("") for p in relative]
    return {name.as_posix(): path for name, path in zip(names, paths, strict=True)}


def matches(config: CompareConfig) -> list[Match]:
    """What the two places have in common, in order of name."""
    before, after = by_name(config.before), by_name(config.after)
    sharp = by_name(config.sharp) if config.sharp else {}
    common = [name for name in before if name in after]
    if not common:
        raise SharpeningError(
            f"{config.before} and {config.after} have no name in common: give two images, or two "
            "folders whose files are named alike (suffixes may differ)"
        )
    if config.sharp and (lacking := [name for name in common if name not in sharp]):
        raise SharpeningError(f"{config.sharp} has no original of {lacking[0] or config.before}")
    return [
        Match(printable(name or before[name].stem), before[name], after[name], sharp.get(name))
        for name in common
    ]


def printable(name: str) -> str:
    """A file name with question marks for the bytes that are not UTF-8."""
    return name.encode("utf-8", "replace").decode()


def data_url(image: np.ndarray, quality: int) -> str:
    """An image as text for `src`."""
    buffer, kind = io.BytesIO(), "jpeg" if quality else "png"
    options = {"quality": quality, "subsampling": 0} if quality else {"compress_level": 6}
    Image.fromarray(image).save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def measured(match: Match, images: list[np.ndarray]) -> dict[str, float]:
    """psnr_ and ssim_ of before and after, if there is an original; raises if sizes differ."""
    sharp = [read_rgb(match.sharp)] if match.sharp else []
    if len({image.shape for image in (*images, *sharp)}) > 1:
        sizes = ", ".join(f"{i.shape[1]} x {i.shape[0]}" for i in (*images, *sharp))
        raise SharpeningError(f"the images of {match.name} differ in size: {sizes} pixels")
    values = {}
    for side, image in zip(SIDES, images, strict=True):
        for original in sharp:
            values[f"psnr_{side}"] = psnr(image, original)
            values[f"ssim_{side}"] = ssim(image, original)
    return values


def in_words(values: dict[str, float], names: tuple[str, str]) -> str:
    """Metrics as a piece of HTML."""
    if not values:
        return ""
    parts = []
    for side, name in zip(SIDES, names, strict=True):
        quality = f"{values[f'psnr_{side}']:.2f} dB, {values[f'ssim_{side}']:.4f}"
        parts.append(f"<span>{html.escape(name)} {quality}</span>")
    return " ".join(parts) + f" <b>{values['psnr_after'] - values['psnr_before']:+.2f} dB</b>"


def figure(match: Match, config: CompareConfig) -> tuple[str, dict[str, float]]:
    """One slider as HTML, and its metrics."""
    images = [read_rgb(match.before), read_rgb(match.after)]
    values = measured(match, images)
    left, right = (html.escape(name) for name in config.names)
    before, after = (data_url(image, config.quality) for image in images)
    height, width, _ = images[0].shape
    size = f'width="{width}" height="{height}"'
    name, notes = html.escape(match.name), in_words(values, config.names)
    return FIGURE.substitute(locals()), values


def main(config: CompareConfig) -> None:
    figures, rows = [], {}
    for match in matches(config):
        text, rows[match.name] = figure(match, config)
        figures.append(text)
    keys = next(iter(rows.values()))
    means = {key: mean(row[key] for row in rows.values()) for key in keys}
    count = f"{len(rows)} image{'s' * (len(rows) > 1)}"
    page = string.Template(PAGE.read_text()).substitute(
        title=html.escape(" / ".join(config.names)),
        summary=f"{count}{', mean: ' * bool(means)}{in_words(means, config.names)}",
        figures="".join(figures),
    )
    with atomic_write(config.output) as temporary:
        temporary.write_text(page)
    print(f"{'image':<32}", *(f"{key:>12}" for key in keys))
    for name, row in {**rows, "mean": means}.items():
        print(f"{name[-32:]:<32}", *(f"{value:>12.4f}" for value in row.values()))
    print(json.dumps({"page": str(config.output), "images": len(rows), **means}))


if __name__ == "__main__":
    sys.exit(run_tool(main, CompareConfig, __doc__))
