"""What a student gains on each clip, and what it changes that was right.

    python tools/harm_table.py student.pth --pairs talk=DIR --sharp photos=DIR

A folder of `--pairs` holds blurred/ and sharp/. One of `--sharp` holds sharp/, measured twice:
as it is, and soft and compressed, where the soft image before compression is the target. For each
set: mean, median and lowest PSNR, the share of images that lose, the least gain, and the largest
shift of tone, which is the mean error of a window of 32 x 32 pixels in 8-bit levels.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import main_sharpening_script as script
from sharpening.image_pairs import find_pairs, read_pair
from sharpening.runtime import start_runtime
from sharpening.synthetic_blur import jpeg, lens_blur, to_levels
from tools.common import run_tool
from tools.validation_table import named_folders

SOFT_RADIUS, SOFT_QUALITY = 1.5, 50
"""Lens blur in pixels and JPEG quality of the soft, compressed version of a sharp photograph."""
WINDOW = 32
MOST_DB = 99.0
"""PSNR of two equal images, which would be infinite."""


@dataclass(frozen=True)
class HarmConfig:
    checkpoints: tyro.conf.Positional[tuple[Path, ...]]
    """Students to measure."""
    pairs: tuple[str, ...] = ()
    """Real pairs, as name=folder."""
    sharp: tuple[str, ...] = ()
    """Sharp photographs, as name=folder."""
    refine: Literal["auto", "all", "tone", "none"] = "auto"
    """What the whole image adds, as in `--inference.refine`. none: the networks alone."""
    self_ensemble: Literal[1, 2, 4] = 1
    """Orientations that are computed, as in `--inference.self-ensemble`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"


def tone_shift(image: np.ndarray, sharp: np.ndarray) -> float:
    """Largest mean error of a window of 32 x 32 pixels (H, W, 3), in 8-bit levels."""
    error = torch.from_numpy(image.astype(np.float32) - sharp).mean(2)
    return F.avg_pool2d(error[None], min(WINDOW, *error.shape)).abs().max().item()


def soft_and_compressed(sharp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(compressed, soft) versions of a sharp image."""
    image = torch.from_numpy(sharp).permute(2, 0, 1).float() / 255
    soft = to_levels(lens_blur(image, SOFT_RADIUS, gaussian=False)) / 255
    images = jpeg(soft, SOFT_QUALITY), soft
    return tuple((i * 255).round().byte().permute(1, 2, 0).numpy() for i in images)


def measured(image: np.ndarray, blurry: np.ndarray, sharp: np.ndarray) -> dict[str, float]:
    after, before = (min(script.psnr(each, sharp), MOST_DB) for each in (image, blurry))
    return {"psnr": after, "gain": after - before, "tone": tone_shift(image, sharp)}


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """The figures of one network on one set."""
    values = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return {
        "images": len(rows),
        "psnr": float(values["psnr"].mean()),
        "median": float(np.median(values["psnr"])),
        "lowest": float(values["psnr"].min()),
        "worse": float((values["gain"] < 0).mean()),
        "least_gain": float(values["gain"].min()),
        "tone": float(values["tone"].max()),
    }


def sets(config: HarmConfig) -> Iterator[tuple[str, list[tuple[np.ndarray, np.ndarray]]]]:
    """(name, pairs of blurry and sharp images) of each set."""
    names = script.DataConfig().blurred_names, script.DataConfig().sharp_names
    for name, folder in named_folders(config.pairs):
        yield name, [read_pair(pair)[:2] for pair in find_pairs(folder, *names)]
    for name, folder in named_folders(config.sharp):
        pairs = find_pairs(folder, *names)
        images = [read_pair(dataclasses.replace(p, blurry=None))[1] for p in pairs]
        yield name, [(image, image) for image in images]
        yield f"{name}, soft and compressed", [soft_and_compressed(image) for image in images]


def measure(
    config: HarmConfig, students: dict[str, script.Sharpener]
) -> Iterator[tuple[str, dict[str, dict[str, float]]]]:
    """(name, figures of the blurred images and of each student), printed too, of each set."""
    for name, images in sets(config):
        rows = {"blurry": [measured(blurry, blurry, sharp) for blurry, sharp in images]}
        for student, sharpen in students.items():
            rows[student] = [measured(sharpen(b), b, s) for b, s in images]
        figures = {student: summary(each) for student, each in rows.items()}
        print_set(name, figures)
        yield name, figures


def main(config: HarmConfig) -> None:
    with start_runtime(config.device) as runtime:
        inference = script.InferenceConfig(refine=config.refine, self_ensemble=config.self_ensemble)
        students = {
            str(path): script.Sharpener.load(path, runtime, inference)
            for path in config.checkpoints
        }
        results = dict(measure(config, students))
    print(json.dumps(results))


def print_set(name: str, result: dict[str, dict[str, float]]) -> None:
    print(f"\n{name}, {result['blurry']['images']} images")
    print(f"  {'':<40}    mean  median  lowest   worse  least gain   tone")
    for path, row in result.items():
        print(
            f"  {path[-40:]:<40}{row['psnr']:8.2f}{row['median']:8.2f}{row['lowest']:8.2f}"
            f"{100 * row['worse']:6.0f} %{row['least_gain']:12.2f}{row['tone']:7.1f}"
        )


if __name__ == "__main__":
    sys.exit(run_tool(main, HarmConfig, __doc__))
