"""Folders -> pairs of images, and pairs -> crops. Also the photographs of the demo."""

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from natsort import natsorted
from PIL import Image
from torch import Tensor

from sharpening import SharpeningError
from sharpening.media_files import read_picture
from sharpening.runtime import say

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
DEMO_TRAIN = [
    "astronaut.png",
    "camera.png",
    "rocket.jpg",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "page.png",
    "coins.png",
    "moon.png",
    "brick.png",
    "grass.png",
    "gravel.png",
    "color.png",
    "ihc.png",
]
DEMO_TEST = ["chelsea.png", "coffee.png", "motorcycle_left.png", "text.png"]


@dataclass(frozen=True)
class Pair:
    """A sharp image and its blurred one. If `blurry` is None, the blur is synthetic."""

    name: str
    sharp: Path
    blurry: Path | None = None
    taught: Path | None = None
    """The teacher's result for the blurred one, if it was stored."""
    root: int = 0
    """Which one of several `--data.root` it is from."""


def find_pairs(
    folder: Path, blurred_names: Sequence[str], sharp_names: Sequence[str]
) -> list[Pair]:
    """All pairs below `folder` in natural order, in time linear in their number.

    A folder with one of the `sharp_names` holds sharp images. If a folder with one of the
    `blurred_names` stands beside it, that one holds their blurred images. Raises SharpeningError if
    there is no image, a name has no partner, two images share a name, or images would be left
    out: in a folder beside a sharp folder without blurred one, or in folders below these.
    """
    pairs, seen = [], set()
    for parent, children, _ in os.walk(folder, followlinks=True):
        here = Path(parent)
        if here.resolve() in seen:  # a symbolic link that leads back
            children.clear()
            continue
        seen.add(here.resolve())
        sharp = next((name for name in sharp_names if name in children), None)
        if sharp is not None:
            blurred = next((name for name in blurred_names if name in children), None)
            others = {*children} - {sharp} if blurred_names and not blurred else ()
            if unread := first_with_images(here, others):
                raise SharpeningError(
                    f"{unread} stands beside {here / sharp} but is not read: if it holds the "
                    f"blurred images, give --data.blurred-names {unread.name}, else move it away"
                )
            pairs += match_pairs(here / sharp, blurred and here / blurred, here.relative_to(folder))
            read = {*sharp_names, *blurred_names}
            children[:] = [name for name in children if name not in read]
    if not pairs:
        raise SharpeningError(
            f"no images in {folder}: it needs a folder {' or '.join(sharp_names)} with "
            f"images, best beside one of {', '.join(blurred_names)} (GoPro_dataset/README.md); "
            "to try the script without data, run it with --demo"
        )
    return natsorted(pairs, key=lambda pair: pair.name)


class PairSettings(Protocol):
    """Where pairs are: the fields of the script's `DataConfig` that this module reads."""

    root: Path | tuple[Path, ...]
    shares: tuple[float, ...]
    test_share: float
    blurred_names: tuple[str, ...]
    sharp_names: tuple[str, ...]


def roots_of(settings: PairSettings) -> tuple[Path, ...]:
    """One `root` or several, as a tuple. Raises SharpeningError if the shares do not fit."""
    roots = settings.root if isinstance(settings.root, tuple) else (settings.root,)
    if settings.shares and (len(settings.shares) != len(roots) or min(settings.shares) <= 0):
        raise SharpeningError(
            f"--data.shares needs a number above 0 for each of the {len(roots)} folders of "
            f"--data.root: {settings.shares}"
        )
    return roots


def pairs_of_split(settings: PairSettings, split: Literal["train", "test"]) -> list[Pair]:
    """The pairs of a split of all roots. Where there are several, a number and the name of its root
    stand before a pair's name. A root that itself holds a sharp folder, without train/ and test/,
    is cut: the last `test_share` of its pairs, by name, are for tests."""
    roots, names = roots_of(settings), (settings.blurred_names, settings.sharp_names)
    pairs = []
    for index, root in enumerate(roots):
        split_up = any((root / name).is_dir() for name in ("train", "test"))
        if split_up or not any((root / name).is_dir() for name in settings.sharp_names):
            found = find_pairs(root / split, *names)
        else:
            found = cut_pairs(find_pairs(root, *names), root, split, settings.test_share)
        if len(roots) > 1:
            before = f"{index}_{root.resolve().name}"
            found = [
                dataclasses.replace(pair, name=f"{before}/{pair.name}", root=index)
                for pair in found
            ]
        pairs += found
    return pairs


def cut_pairs(
    pairs: list[Pair], root: Path, split: Literal["train", "test"], test_share: float
) -> list[Pair]:
    """One split of the pairs of a folder that has none, and a line that says so."""
    if len(pairs) < 2:
        raise SharpeningError(f"{root} holds a single image: at least two are needed, one to test")
    tests = min(max(1, round(test_share * len(pairs))), len(pairs) - 1)
    part = pairs[-tests:] if split == "test" else pairs[:-tests]
    how = f"{len(part)} of {len(pairs)} images are for {split} (--data.test-share {test_share:g})"
    say(f"{root} has no train/ and test/: {how}")
    return part


def draw_groups(
    synthetic: Sequence[Pair],
    real: Sequence[Pair],
    synthetic_share: float,
    shares: Sequence[float] = (),
) -> list[tuple[list[Pair], float]]:
    """Groups of pairs and the sum of their shares so far, from which `group_of` picks.

    A group is a kind of pairs (blurred synthetically or really) of all roots, or with `shares` of
    one root. `synthetic_share` counts where both kinds stand side by side.
    """
    groups: list[tuple[list[Pair], float]] = []
    end = 0.0
    for root, share in enumerate(shares or [1.0]):
        kinds = [[p for p in kind if not shares or p.root == root] for kind in (synthetic, real)]
        if shares and not any(kinds):
            raise SharpeningError(f"--data.root number {root + 1} has a share but gives no images")
        made = synthetic_share if all(kinds) else float(bool(kinds[0]))
        for kind, part in zip(kinds, (made, 1 - made), strict=True):
            if part:
                end += part * share / (sum(shares) or 1)
                groups.append((kind, end))
    return groups


def group_of(groups: Sequence[tuple[list[Pair], float]], coin: float) -> list[Pair]:
    """The group for a random number from 0 to 1."""
    return next((pairs for pairs, end in groups if coin < end), groups[-1][0])


def match_pairs(sharp: Path, blurred: Path | None, prefix: Path) -> list[Pair]:
    """Pairs of equal names in two folders."""
    sharps = images_by_name(sharp)
    if blurred is None:
        return [Pair((prefix / name).as_posix(), path) for name, path in sharps.items()]
    blurs = images_by_name(blurred)
    if lonely := natsorted(sharps.keys() ^ blurs.keys()):
        shown = ", ".join(lonely[:5]) + (" ..." if len(lonely) > 5 else "")
        raise SharpeningError(
            f"{len(lonely)} images in {sharp} and {blurred} have no partner in the other folder: "
            f"{shown}. Names must be equal, apart from _blurred, _blur or _sharp at the end"
        )
    return [Pair((prefix / n).as_posix(), path, blurs[n]) for n, path in sharps.items()]


def is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")


def first_with_images(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of the folders `names` in `folder` that holds images; hidden ones do not count."""
    shown = (folder / name for name in natsorted(names) if not name.startswith("."))
    return next((path for path in shown if any(is_image(p.name) for p in path.iterdir())), None)


def images_by_name(folder: Path) -> dict[str, Path]:
    """Name without `_blurred`, `_blur`, `_sharp` and suffix -> path, of the images in `folder`."""
    found: dict[str, Path] = {}
    entries = list(os.scandir(folder))
    if unread := first_with_images(folder, [entry.name for entry in entries if entry.is_dir()]):
        raise SharpeningError(
            f"{unread} is not read, because it stands inside {folder.name}: give each scene its "
            f"own, such as {folder.parent / unread.name / folder.name}"
        )
    for path in (Path(entry.path) for entry in entries if is_image(entry.name)):
        name = path.stem.removesuffix("_blurred").removesuffix("_blur").removesuffix("_sharp")
        if name in found:
            raise SharpeningError(f"{found[name]} and {path} share a name: remove one")
        found[name] = path
    return found


def demo_pairs(split: Literal["train", "test"]) -> list[Pair]:
    """Photographs inside the scikit-image wheel: people, animals, things, text, textures, sky."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    names = DEMO_TRAIN if split == "train" else DEMO_TEST
    return [Pair(Path(name).stem, folder / name) for name in names]


def add_teacher_results(pairs: Sequence[Pair], folder: Path, synthetic_share: float) -> list[Pair]:
    """The real pairs with a teacher's results from `folder`, where they have the same names.

    Raises SharpeningError if a result is missing or older than its image was, or if images without
    a blurred one would be drawn: their synthetic blur is new each time.
    """
    real = [pair for pair in pairs if pair.blurry]
    if not real or (len(real) < len(pairs) and synthetic_share):
        raise SharpeningError(
            "--teacher.results has nothing for synthetic blur, which is new each time: train on "
            "real pairs, with --data.synthetic-share 0 if there are other images"
        )
    images = (path for path in folder.rglob("*") if is_image(path.name))
    results = {path.relative_to(folder).with_suffix("").as_posix(): path for path in images}
    made_from = results_log(folder).get("made_from", {})
    missing = [pair.name for pair in real if pair.name not in results]
    stale = [p.name for p in real if p.name in made_from and made_from[p.name] != stamp(p.blurry)]
    for names, what in (
        (missing, "has no results for"),
        (stale, "has results of other images for"),
    ):
        if names:
            raise SharpeningError(
                f"{folder} {what} {len(names)} blurred images, such as {names[0]}: make them with "
                "tools/teacher_cache.py, or with your own program under these names"
            )
    return [dataclasses.replace(pair, taught=results[pair.name]) for pair in real]


RESULTS_LOG = "results.json"
"""File beside a teacher's results that says from which files they were made; optional."""


def results_log(folder: Path) -> dict[str, Any]:
    """What `RESULTS_LOG` in `folder` says; {} without one."""
    path = folder / RESULTS_LOG
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise SharpeningError(
            f"{path} is damaged ({error}): run tools/teacher_cache.py again, which keeps the "
            "results that are finished"
        ) from error


def stamp(path: Path) -> list[int]:
    """Size in bytes and time of change in nanoseconds: another file under the same name differs,
    even an older one."""
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns]


def read_rgb(path: Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8, upright."""
    rgb = read_picture(path).rgb
    return rgb if rgb.dtype == np.uint8 else (rgb >> 8).astype(np.uint8)


def read_pair(pair: Pair) -> tuple[np.ndarray, ...]:
    """(blurry, sharp) or (blurry, sharp, taught), each (H, W, 3) uint8; the same array twice if the
    blur is synthetic."""
    sharp = read_rgb(pair.sharp)
    if pair.blurry is None:
        return sharp, sharp
    blurry, *taught = (read_rgb(path) for path in (pair.blurry, pair.taught) if path)
    for path, image in zip((pair.blurry, pair.taught), (blurry, *taught), strict=False):
        if image.shape != sharp.shape:
            (h, w), (h2, w2) = image.shape[:2], sharp.shape[:2]
            raise SharpeningError(
                f"{path} is {w} x {h} pixels but {pair.sharp} is {w2} x {h2}: a pair must have one "
                "size; remove the pair or replace the file"
            )
    return blurry, sharp, *taught


def same_crop(
    images: Sequence[np.ndarray], size: int, rng: np.random.Generator, reduction: float = 1.0
) -> list[Tensor]:
    """One random square, flip and quarter turn of all (H, W, 3) images -> (3, size, size) tensors.

    The square has `reduction` times that side, as far as it fits, and is resized; images smaller
    than the crop are continued by reflection instead.
    """
    H, W, _ = images[0].shape
    side = min(round(size * reduction), max(size, min(H, W)))
    y, x = rng.integers(0, max(H - side, 0) + 1), rng.integers(0, max(W - side, 0) + 1)
    flip, turns = rng.integers(0, 2), rng.integers(0, 4)
    crops = []
    for image in images:
        crop = image[y : y + side, x : x + side]
        short = [(0, side - length) for length in crop.shape[:2]]
        crop = np.pad(crop, [*short, (0, 0)], mode="symmetric") if side > min(H, W) else crop
        if side != size:
            crop = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC))
        crop = np.rot90(crop[:, ::-1] if flip else crop, turns)
        crops.append(torch.from_numpy(crop.transpose(2, 0, 1).copy()))
    return crops


def cache_images(pairs: Sequence[Pair], budget: int) -> dict[Pair, tuple[np.ndarray, ...]]:
    """The first pairs, decoded: as many as fit into `budget` bytes."""
    cached, used = {}, 0
    if budget <= 0:
        return cached
    with ThreadPoolExecutor(4) as pool:
        for start in range(0, len(pairs), 16):  # in portions, so that few are decoded for nothing
            part = pairs[start : start + 16]
            for pair, images in zip(part, pool.map(read_pair, part), strict=True):
                used += sum(image.nbytes for image in {id(i): i for i in images}.values())
                if used > budget:
                    return cached
                cached[pair] = images
    return cached


def demo_frame(H: int, W: int) -> np.ndarray:
    """A photograph repeated to fill (H, W, 3) uint8: real texture, for timing."""
    photo = read_rgb(demo_pairs("test")[1].sharp)
    return np.tile(photo, (-(-H // photo.shape[0]), -(-W // photo.shape[1]), 1))[:H, :W].copy()


def save_strip(stem: Path, images: Sequence[np.ndarray]) -> None:
    """The second image as `stem`.png, and all of them side by side as `stem`_strip.png."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for suffix, image in (("", images[1]), ("_strip", np.concatenate(images, axis=1))):
        Image.fromarray(image).save(f"{stem}{suffix}.png", compress_level=1)
