"""A folder of pictures and videos: plan the work, sharpen, write beside each other, report.

    plan = plan_jobs("photos", "sharp")                    # what to do, in natural order
    failures = sharpen_files(plan, sharpen, runtime)       # one line for each file that failed

`sharpen` is any function from a list of images of one size, (H, W, 3) uint8 or uint16, to the same.
This module knows no network. It reads and writes files while `sharpen` computes.
"""

import errno
import functools
import itertools
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from natsort import natsorted
from tqdm import tqdm

from sharpening import SharpeningError
from sharpening.media_files import (
    CONTAINERS,
    FOREIGN_PICTURES,
    IMAGE_FORMATS,
    MEDIA_SUFFIXES,
    VIDEO_SUFFIXES,
    WRITABLE,
    MediaError,
    Picture,
    format_name,
    read_picture,
    remove_abandoned,
    unreachable,
    write_picture,
    written_layout,
)
from sharpening.runtime import SIDE_BY_SIDE, Runtime, prefetch, side_by_side, thread_pool
from sharpening.settings import check_limits
from sharpening.video_files import transform_video

Sharpen = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
"""Images of one size, (H, W, 3) uint8 or uint16 -> sharpened ones of the same size and type."""


@dataclass(frozen=True)
class FileSettings:
    """How files are read and results are written."""

    format: str | None = None
    """File format of the results, such as png; None: the format of the source."""
    quality: int = 95
    """Quality of JPEG, AVIF and lossy WebP results, 1 to 100."""
    crf: int = 18
    """Constant rate factor of H.264 video results, 0 (lossless) to 51."""
    tile_batch: int = 1
    """Tiles of a picture, or frames of a video, computed in one call of the network."""
    allow_huge: bool = False
    """Read images of more than 200 megapixels, which may be decompression bombs."""

    def __post_init__(self) -> None:
        limits = {"quality": (1, 100), "crf": (0, 51), "tile_batch": (1, 4096)}
        check_limits(self, limits, "inference.")
        if self.format is not None:
            format_name(self.format)


# --------------------------------------------------------------------------------------------------
# Planning
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One file to make from one file."""

    source: Path
    target: Path
    kind: Literal["image", "video"]


class Plan(NamedTuple):
    """What there is to do, in natural order, and what is left out and why."""

    jobs: list[Job]
    finished: list[Job]
    """Targets that exist. A target gets its name only when it is complete."""
    problems: list[MediaError]
    """Files that look like media but cannot be jobs. They are reported as failures."""
    ignored: list[Path]
    """Files whose extension says that they are neither images nor videos. They are no failures."""


def plan_jobs(
    source: str | Path, output: str | Path, *, format: str | None = None, overwrite: bool = False
) -> Plan:
    """Jobs for an image, a video or a folder with all its subfolders, whose structure is kept.

    In a folder the extension decides what is media; what then cannot be decoded fails when it is
    read. A file given by name counts as an image unless it ends like a video. Pictures that are
    known but not read (`FOREIGN_PICTURES`) are problems. Hidden files are left alone. `format` (an
    extension) applies to images. Videos keep a container that holds H.264, others become .mkv. If
    two sources would get the same target, their extensions tell the targets apart: a.png and a.jpg
    become a_png.webp and a_jpg.webp. Unfinished files that a killed run left beside the targets are
    removed.

    Raises `MediaError` if there is no such source, if it holds no images or videos, if `output`
    cannot be a folder, or if the outputs would be read as inputs. What concerns one file alone is
    in `problems` instead.
    """
    source, output = Path(source), Path(output)
    if format is not None:
        format_name(format)
    try:
        if not source.exists():
            raise MediaError(source, "no such file or folder: check the path")
        _refuse_file_for_folder(output)
    except OSError as error:
        raise unreachable(error.filename, error) from error
    problems, ignored = [], []
    if source.is_dir():
        _refuse_nested(source, output)
        files = list(_media_files(source, output, problems, ignored))
        root = source
    else:
        files, root = [source], source.parent
    files = _without_foreign(files, problems)
    targets = _distinct_targets(files, root, output, format)
    if source.is_dir():
        for folder in dict.fromkeys(target.parent for target in targets):
            _refuse_nested(source, folder)
    jobs, finished = [], []
    for path, target in zip(files, targets, strict=True):
        job = Job(path, target, "video" if path.suffix.lower() in VIDEO_SUFFIXES else "image")
        try:
            if problem := _problem_of(job, format):
                problems.append(problem)
            else:
                (finished if target.exists() and not overwrite else jobs).append(job)
        except OSError as error:
            problems.append(unreachable(error.filename, error))
    if not (jobs or finished or problems):
        raise MediaError(source, "holds no images or videos: check the path")
    for folder in dict.fromkeys(job.target.parent for job in jobs):
        remove_abandoned(folder)
    return Plan(jobs, finished, problems, ignored)


def _without_foreign(files: list[Path], problems: list) -> list[Path]:
    """The files that can be read; pictures of `FOREIGN_PICTURES` join the problems."""
    kept = []
    for path in files:
        if path.suffix.lower() in FOREIGN_PICTURES:
            advice = "convert it to JPEG, or to TIFF or PNG with 16 bits, first"
            problems.append(MediaError(path, f"{path.suffix[1:].upper()} is not read: {advice}"))
        else:
            kept.append(path)
    return kept


def _refuse_file_for_folder(output: Path) -> None:
    nearest = next(each for each in (output, *output.parents) if os.path.lexists(each))
    if not nearest.is_dir():
        reason = "" if nearest == output else f"cannot be made, since {nearest} "
        raise MediaError(output, f"{reason}is a file, not a folder: choose another output")


def _refuse_nested(source: Path, output: Path) -> None:
    # not `resolve`, which raises RuntimeError for a link to itself; that job fails when written
    inside, outside = (Path(os.path.realpath(each)) for each in (output, source))
    if inside == outside or outside in inside.parents:
        reason = f"lies in the input folder {source} and would be read again: choose another"
        raise MediaError(output, reason)


def _media_files(
    folder: Path, output: Path, problems: list, ignored: list, above: tuple[Path, ...] = ()
) -> Iterator[Path]:
    """Media files below `folder`; a linked folder that leads back to its parents is not entered."""
    real = folder.resolve()
    if real in above:
        return
    _refuse_nested(folder, output)
    try:
        entries = natsorted(sorted(folder.iterdir()), key=lambda path: path.name)
    except OSError as error:
        problems.append(MediaError(folder, f"folder cannot be read ({error.strerror})"))
        return
    for path in entries:
        if path.name.startswith("."):
            continue
        try:
            is_folder = path.is_dir()
        except OSError as error:
            problems.append(unreachable(path, error))
            continue
        if is_folder:
            yield from _media_files(path, output, problems, ignored, (*above, real))
        elif path.suffix.lower() in MEDIA_SUFFIXES:
            yield path
        else:
            ignored.append(path)


def _distinct_targets(
    files: list[Path], root: Path, output: Path, format: str | None
) -> list[Path]:
    """One target per file, no two alike, the same in every run over the same files."""
    plain = [
        output / path.relative_to(root).with_suffix(_new_suffix(path, format)) for path in files
    ]
    shared = Counter(plain)
    taken = {target for target, count in shared.items() if count == 1}
    targets = []
    for path, target in zip(files, plain, strict=True):
        if shared[target] > 1:
            stem = f"{target.stem}_{path.suffix[1:]}"
            while (target := target.with_name(stem + target.suffix)) in taken:
                stem += "_"
            taken.add(target)
        targets.append(target)
    return targets


def _new_suffix(path: Path, format: str | None) -> str:
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return path.suffix if suffix in CONTAINERS else ".mkv"
    return "." + format.lower().lstrip(".") if format else path.suffix


def _problem_of(job: Job, format: str | None) -> MediaError | None:
    """Why a job cannot be done, as far as that shows without opening the file."""
    if not job.source.is_file():
        reason = "a link that leads nowhere" if job.source.is_symlink() else "not a regular file"
        return MediaError(job.source, f"{reason}: replace it by the file itself")
    name = IMAGE_FORMATS.get(job.source.suffix.lower())
    if job.kind == "image" and not format and name and name not in WRITABLE:
        return MediaError(job.source, f"{name} cannot be written: choose a format such as png")
    if job.target.is_dir():
        return MediaError(job.target, "is a folder: move it away or choose another output")
    if job.target.exists() and job.target.samefile(job.source):
        return MediaError(job.target, "is the source itself: choose another output folder")
    return None


# --------------------------------------------------------------------------------------------------
# The work
# --------------------------------------------------------------------------------------------------

MEGAPIXELS_WAITING = 32
"""Read but not yet sharpened, and as many not yet written; a pixel takes 3 to 12 bytes."""
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def sharpen_files(
    plan: Plan,
    sharpen: Sharpen,
    runtime: Runtime,
    settings: FileSettings | None = None,
    *,
    in_tiles: Callable[[tuple[int, ...]], bool] = lambda shape: False,
    quiet: bool = False,
) -> list[str]:
    """Sharpen the images and videos of `plan` -> the failures, each with its file and reason.

    A file that fails does not end the run; a full disk does. `in_tiles(shape)` says whether
    `sharpen` cuts such an image into tiles: it is then computed alone, on all cores. `quiet`: no
    progress bars and no summary. Several processes share the jobs out: the first one's plan counts,
    and all get all failures.
    """
    plan = runtime.from_main(plan)
    jobs = plan.jobs[runtime.rank :: runtime.world]
    run = FileRun(sharpen, in_tiles, runtime, settings or FileSettings(), quiet)
    run.pictures([job for job in jobs if job.kind == "image"])
    for job in jobs:
        if job.kind == "video" and not run.disk_full:
            run.attempt(job, run.video, job)
            run.ended += 1
    failures = runtime.joined(run.failures)
    (ended,) = runtime.total([run.ended])
    if not quiet:
        runtime.say(summary(plan, int(ended), len(failures)))
    return [*map(str, plan.problems), *failures]


def summary(plan: Plan, ended: int, failed: int) -> str:
    """How many files ended in which way; `ended` jobs are done or have failed."""
    counts = {
        "sharpened": ended - failed,
        "failed": failed + len(plan.problems),
        "not begun, because the disk is full": len(plan.jobs) - ended,
        "already finished (--overwrite does them again)": len(plan.finished),
        "neither image nor video": len(plan.ignored),
    }
    told = [f"{n} {what}" for what, n in counts.items() if n or what == "sharpened"]
    if plan.ignored:
        names = [path.name.encode("utf-8", "replace").decode() for path in plan.ignored]
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        told[-1] += f" ({', '.join(names[:10])}{more})"
    return ", ".join(told)


@dataclass
class FileRun:
    """A run over files: what its parts share, and what has failed."""

    sharpen: Sharpen
    in_tiles: Callable[[tuple[int, ...]], bool]
    runtime: Runtime
    settings: FileSettings
    quiet: bool
    failures: list[str] = field(default_factory=list)
    ended: int = 0
    """Files that are done or have failed."""
    disk_full: bool = False
    """Ends the run, because every further file would fail in the same way."""
    largest: float = 0
    """Megapixels of the largest picture so far."""
    threads: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))
    """Threads that read, and as many that write."""

    def depth(self) -> int:
        """Pictures that may wait before and after the computation: the larger they are, the fewer,
        and none before the size of the first is known."""
        return min(self.threads, int(MEGAPIXELS_WAITING / self.largest)) if self.largest else 0

    def attempt(self, job: Job, work: Callable[..., Any], *arguments: Any) -> Any:
        """work(*arguments); None if it fails for a reason that concerns this file alone."""
        try:
            return work(*arguments)
        except (MemoryError, SharpeningError) as error:
            self.disk_full |= getattr(error.__cause__, "errno", None) in FULL_DISK
            reason = str(error) or "memory runs out: close other programs"
            known = error if isinstance(error, MediaError) else MediaError(job.source, reason)
            self.failures.append(str(known))

    def warn(self, job: Job, notes: Iterable[str]) -> None:
        for note in notes:
            tqdm.write(f"warning: {MediaError(job.source, note)}")

    def read(self, job: Job) -> Picture:
        picture = read_picture(job.source, allow_huge=self.settings.allow_huge)
        written_layout(picture, job.target, format=self.settings.format)
        self.largest = max(self.largest, picture.rgb.size / 3e6)
        return picture

    def write(
        self, job: Job, picture: Picture, restored: Callable[[], Sequence[np.ndarray]]
    ) -> None:
        settings = {"format": self.settings.format, "quality": self.settings.quality}
        write_picture(picture, restored()[0], job.target, **settings)

    def begin_writing(
        self, job: Job, reading: Future, computers: ThreadPoolExecutor, writers: ThreadPoolExecutor
    ) -> Future | None:
        """Sharpen what was read and give it to the writers; None if reading or computing failed.
        A picture in tiles is sharpened in this thread, its tiles side by side."""
        if (picture := self.attempt(job, reading.result)) is None:
            return None
        self.warn(job, picture.warnings)
        if self.in_tiles(picture.rgb.shape):
            if (restored := self.attempt(job, self.sharpen, [picture.rgb])) is None:
                return None
            return writers.submit(self.write, job, picture, lambda: restored)
        computing = computers.submit(self.sharpen, [picture.rgb])
        return writers.submit(self.write, job, picture, computing.result)

    def pictures(self, jobs: Sequence[Job]) -> None:
        """Sharpen image files; reading, computing and writing overlap."""
        writing: deque[tuple[Job, Future]] = deque()
        bar = tqdm(total=len(jobs), desc="sharpen", unit="image", disable=self.quiet or not jobs)

        def finish(count: int) -> None:
            while len(writing) > count:
                job, future = writing.popleft()
                self.attempt(job, future.result)
                self.ended += 1
                bar.update()

        with (
            bar,
            thread_pool(self.threads) as readers,
            side_by_side(self.runtime, min(SIDE_BY_SIDE, len(jobs) or 1)) as computers,
            thread_pool(self.threads) as writers,
        ):
            for job, reading in prefetch(readers, self.read, jobs, self.depth):
                future = self.begin_writing(job, reading, computers, writers)
                if future is not None:
                    writing.append((job, future))
                else:
                    self.ended += 1
                    bar.update()
                finish(2 * self.depth())  # half of them being computed, half being written
                if self.disk_full:
                    break
            finish(0)

    def frames(
        self, pool: ThreadPoolExecutor, frames: Iterator[np.ndarray]
    ) -> Iterator[np.ndarray]:
        """Frames sharpened in `pool`, in order, while the caller decodes and encodes others."""
        batches = iter(lambda: list(itertools.islice(frames, self.settings.tile_batch)), [])
        for _, restored in prefetch(pool, self.sharpen, batches, lambda: 3):
            yield from restored.result()

    def video(self, job: Job) -> None:
        """Sharpen one video; a few batches of frames are in memory at a time."""
        name = job.source.name.encode("utf-8", "replace").decode()[:40]
        bar = tqdm(desc=name, unit="frame", disable=self.quiet)

        def show(_: int, expected: int | None) -> None:
            bar.total = expected
            bar.update()

        with side_by_side(self.runtime) as pool, bar:
            report = transform_video(
                job.source,
                job.target,
                functools.partial(self.frames, pool),
                crf=self.settings.crf,
                progress=show,
            )
        self.warn(job, report.notes)
