"""Before and after on one page that a browser opens: what `--infer --compare` writes.

The page holds a preview of each picture, at most `LARGEST` bytes for both sides. "Actual pixels"
loads the files themselves, which lie beside the page. Videos are played from their files.
"""

import base64
import html
import io
import os
import string
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from sharpening import SharpeningError
from sharpening.file_inference import Job, Plan
from sharpening.image_pairs import read_rgb
from sharpening.media_files import atomic_write
from sharpening.runtime import Runtime

PAGE = Path(__file__).with_name("compare_page.html")
LARGEST = 600_000
"""Bytes of a figure, both previews together."""
SIDE = 1280
SHOWN_BY_BROWSERS = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif"}
FIGURE = string.Template("""\
<figure>
<figcaption>$name $notes</figcaption>
<div class="scroll"><div class="slider" style="--w: ${width}px">
<div class="before"><img $size alt="$name, $left" src="$before"$full_before><em>$left</em></div>
<div class="after"><img $size alt="$name, $right" src="$after"$full_after><em>$right</em></div>
<input type="range" min="0" max="100" value="50" data-side="$left"
 aria-label="$name: how much of it is shown as $left">
<div class="handle"></div>
</div></div>
$more</figure>
""")
VIDEO = string.Template("""\
<figure class="video">
<figcaption>$name $notes <button type="button">play</button></figcaption>
<div class="pair"><video muted playsinline preload="metadata" src="$before"></video>
<video muted playsinline preload="metadata" src="$after"></video></div>
</figure>
""")


def escaped(text: str | os.PathLike) -> str:
    """Text for HTML; bytes of a name that are no UTF-8 become a question mark."""
    return html.escape(os.fspath(text).encode("utf-8", "replace").decode())


def relative_url(path: Path, page: Path) -> str:
    """Where `path` is, seen from `page`; any bytes of a name are kept."""
    try:
        place = os.path.relpath(path.resolve(), page.resolve().parent)
        return quote(os.fsencode(place).replace(os.sep.encode(), b"/"))
    except ValueError:  # another drive
        return path.resolve().as_uri()


def data_url(image: np.ndarray, quality: int) -> str:
    """An image as text for `src`: PNG, exact, for a quality of 0, else JPEG."""
    buffer, kind = io.BytesIO(), "jpeg" if quality else "png"
    options = {"quality": quality, "subsampling": 0} if quality else {"compress_level": 6}
    Image.fromarray(image).save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def preview(image: np.ndarray, largest: int = LARGEST // 2 - 2000) -> str:
    """`data_url` of at most that many bytes: smaller, then of lower quality, then smaller again."""
    side, quality = SIDE, 90
    while True:
        shown = Image.fromarray(image)
        shown.thumbnail((side, side))
        text = data_url(np.asarray(shown), quality)
        if len(text) <= largest:
            return text
        side, quality = (side, quality - 15) if quality > 60 else (side * 3 // 4, 75)


def figure(
    name: str,
    images: Sequence[np.ndarray],
    names: Sequence[str],
    notes: str = "",
    quality: int | None = None,
    files: Sequence[str] = (),
    more: str = "",
) -> str:
    """A slider over two images of one size. `quality` None: previews; `files`: addresses of the
    whole images, where a browser can show them; `notes` and `more` are HTML."""
    height, width = images[0].shape[:2]
    before, after = (preview(i) if quality is None else data_url(i, quality) for i in images)
    full_before, full_after = (f' data-full="{url}"' for url in files) if files else ("", "")
    left, right = map(escaped, names)
    size, name = f'width="{width}" height="{height}"', escaped(name)
    return FIGURE.substitute(locals())


def strengths(images: Sequence[np.ndarray], values: Iterable[float], quality: int) -> str:
    """The blends of two images with these strengths, side by side, as HTML."""
    before, after = (image.astype(np.float32) for image in images)
    parts = []
    for value in values:
        blend = np.rint(before + value * (after - before)).astype(images[0].dtype)
        label = f"strength {value:g}"
        url = data_url(blend, quality)
        parts.append(f'<span><img alt="{label}" src="{url}"><em>{label}</em></span>')
    return f'<div class="strengths">{"".join(parts)}</div>\n' if parts else ""


def write_page(path: Path, title: str, summary: str, figures: Iterable[str]) -> None:
    """The page; `summary` and the figures are HTML."""
    page = string.Template(PAGE.read_text("utf-8")).substitute(
        title=escaped(title), summary=summary, figures="".join(figures)
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, "utf-8")


def notes_of(files: Sequence[Path], size: str) -> str:
    """Pixels and megabytes of both files, as HTML."""
    lengths = " → ".join(f"{file.stat().st_size / 1e6:.2f} MB" for file in files)
    return f"<span>{size}</span> <span>{lengths}</span>"


def file_figure(job: Job, name: str, page: Path) -> str:
    """The figure of one file and its result."""
    files = (job.source, job.target)
    urls = [relative_url(path, page) for path in files]
    if job.kind == "video":
        notes = notes_of(files, "video")
        return VIDEO.substitute(name=escaped(name), notes=notes, before=urls[0], after=urls[1])
    images = [read_rgb(path) for path in files]
    height, width = images[0].shape[:2]
    shown = {path.suffix.lower() for path in files} <= SHOWN_BY_BROWSERS
    notes = notes_of(files, f"{width} x {height} pixels")
    return figure(name, images, ("before", "after"), notes, files=urls if shown else ())


def write_comparison(plan: Plan, page: Path, failures: Sequence[str], runtime: Runtime) -> None:
    """A page of the sources of `plan` and their results, and of what failed."""
    if not runtime.is_main:
        return
    figures, failures = [], list(failures)
    for job in [*plan.finished, *plan.jobs]:
        if job.target.is_file():
            try:
                figures.append(file_figure(job, os.path.relpath(job.target, page.parent), page))
            except SharpeningError as error:
                failures.append(str(error))
    summary = (
        f"{len(figures)} file{'s' * (len(figures) != 1)}"
        + f", {len(failures)} failed" * bool(failures)
    )
    if failures:
        lines = "".join(f"<li>{escaped(failure)}</li>" for failure in failures)
        figures.append(f'<section class="failures"><h2>failed</h2><ul>{lines}</ul></section>')
    write_page(page, "before / after", summary, figures)
    runtime.say(f"before and after: {page}")
