"""PSNR and SSIM of students, the teacher and unsharp masking on several validation sets.

    python tools/validation_table.py student.pth --pairs reds=DIR --sharp photos=DIR

A folder of `--pairs` holds blurred/ and sharp/; one of `--sharp` holds sharp/ and is measured under
motion blur, under longer motion, out of focus and under video-call conditions. How much a student
changes sharp images as they are: tools/harm_table.py.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import main_sharpening_script as script
from sharpening import SharpeningError
from sharpening.run_log import print_table
from sharpening.runtime import start_runtime
from tools.common import all_pairs, any_camera, real_pairs, run_tool
from tools.networks import other_network

CONDITIONS = {
    "motion": any_camera(motion=1.0, video_call=0.0),
    "long motion": any_camera(motion=1.0, video_call=0.0, length=(10.0, 35.0), length_power=1.0),
    "defocus": any_camera(
        motion=0.0,
        video_call=1.0,
        lens_chance=1.0,
        call_motion_chance=0.0,
        noise_chance=0.0,
        rescale_chance=0.0,
        jpeg_chance=0.0,
    ),
    "call": any_camera(
        motion=0.0,
        video_call=1.0,
        lens_chance=0.5,
        call_motion_chance=0.4,
        rescale_chance=1.0,
        noise_chance=1.0,
        jpeg_chance=1.0,
    ),
}


@dataclass(frozen=True)
class TableConfig:
    checkpoints: tyro.conf.Positional[tuple[Path, ...]]
    """Students to measure."""
    pairs: tuple[str, ...] = ()
    """Real pairs, as name=folder."""
    sharp: tuple[str, ...] = ()
    """Sharp photographs, as name=folder."""
    other: Path | None = None
    """Checkpoint of another network, trained by tools/train_other.py."""
    network: str | None = None
    """What it is: nafnet, restormer or package.module:Class."""
    arguments: str = "{}"
    """The arguments of its class, JSON."""
    teacher: Path | None = None
    """Weights of a Restormer to measure beside them."""
    device: Literal["auto", "cpu", "cuda"] = "auto"


class UnsharpMask(torch.nn.Module):
    """The classic: adds half of what a Gaussian of sigma 2 removes."""

    def forward(self, blurry: torch.Tensor) -> torch.Tensor:
        offsets = torch.arange(-6, 7, dtype=blurry.dtype, device=blurry.device)
        row = torch.softmax(-(offsets**2) / 8, 0)
        kernel = (row[:, None] * row).expand(3, 1, 13, 13)
        padded = torch.nn.functional.pad(blurry, (6, 6, 6, 6), mode="replicate")
        return 1.5 * blurry - 0.5 * torch.nn.functional.conv2d(padded, kernel, groups=3)


def named_folders(entries: Sequence[str]) -> list[tuple[str, Path]]:
    """(name, folder) of each `name=folder`."""
    parts = [entry.partition("=") for entry in entries]
    if nameless := [name for name, equals, _ in parts if not equals]:
        raise SharpeningError(f"give a name for the table: some_name={nameless[0]}")
    return [(name, Path(folder)) for name, _, folder in parts]


def sets(config: TableConfig) -> dict[str, script.EvaluationImages]:
    """Name of each validation set -> its images."""
    data, found = script.DataConfig(), {}
    real, sharp = named_folders(config.pairs), named_folders(config.sharp)
    names = [name for name, _ in (*real, *sharp)]
    if len(set(names)) < len(names):
        raise SharpeningError(f"give each set a name of its own: {', '.join(names)}")
    for name, folder in real:
        found[name] = script.EvaluationImages(real_pairs(folder, data), any_camera())
    for name, folder in sharp:
        pairs = [dataclasses.replace(p, blurry=None) for p in all_pairs(folder, data)]
        for condition, blur in CONDITIONS.items():
            found[f"{name} {condition}"] = script.EvaluationImages(pairs, blur)
    return found


def main(config: TableConfig) -> None:
    images_of, results = sets(config), {}
    nets: dict[str, torch.nn.Module] = {"unsharp": UnsharpMask()}
    nets |= {str(path): script.load_student(path) for path in config.checkpoints}
    if config.other is not None:
        if config.network is None:
            raise SharpeningError("--other needs its --network, such as nafnet")
        nets["other"] = other_network(config.network, config.arguments).eval()
        weights = script.network_weights(script.load_checkpoint(config.other))
        script.load_strictly(nets["other"], weights, config.other)
    if config.teacher is not None:
        nets["teacher"] = script.restormer_from_weights(config.teacher)
    given = script.InferenceConfig()
    settings = {str(path): script.for_student(path, given) for path in config.checkpoints}
    with start_runtime(config.device) as runtime:
        sharpeners = {
            name: script.Sharpener(net, runtime, settings.get(name)) for name, net in nets.items()
        }
        for name, images in images_of.items():
            results[name] = script.evaluate_quality(sharpeners, images, runtime)
            print(f"\n{name}")
            print_table(results[name], ("blurry", *nets))
    print(json.dumps(results))


if __name__ == "__main__":
    sys.exit(run_tool(main, TableConfig, __doc__))
