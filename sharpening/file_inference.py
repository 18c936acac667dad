"""A folder of pictures and videos, sharpened: what there is to do, the work, and a report.

This is the first half: `plan_jobs` lists what there is to do.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from natsort import natsorted

from sharpening.media_files import (
    CONTAINERS,
    FOREIGN_PICTURES,
    IMAGE_FORMATS,
    MEDIA_SUFFIXES,
    VIDEO_SUFFIXES,
    WRITABLE,
    MediaError,
    format_name,
    remove_abandoned,
    unreachable,
)


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
    """Targets that exist; a target only gets its name when it is complete."""
    problems: list[MediaError]
    """Files that look like media and cannot become jobs: to be reported as failures."""
    ignored: list[Path]
    """Files in a folder that are neither images nor videos by their extension: no failures."""


def plan_jobs(
    source: str | Path, output: str | Path, *, format: str | None = None, overwrite: bool = False
) -> Plan:
    """Jobs for an image, a video or a folder (with all its folders, their structure kept).

    Within a folder the extension decides what is media (what then cannot be decoded fails when
    read); a file given by name is taken for an image unless it ends like a video. Pictures known
    but not read (`FOREIGN_PICTURES`) are problems, hidden files are passed over in silence.
    `format` (an extension) applies to images; videos keep their container where it holds H.264,
    else become .mkv. Sources that would meet in one target are told apart by their extension,
    a.png and a.jpg becoming a_png.webp and a_jpg.webp. What a killed run left unfinished beside
    the targets of the jobs is removed.

    Raises `MediaError` if there is no such source, if `output` cannot be a folder, or if the
    outputs would be read as inputs. What concerns one file only is among the problems instead.
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
