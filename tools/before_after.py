"""A sheet of before and after: `python tools/before_after.py CHECKPOINT -o sheet.png`.

The demo's test photographs, each blurred by fixed seeds as the rows say; in a row the blurred
crop, the student's result and the original, with the PSNR of the two crops above them.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import main_sharpening_script as script
from sharpening.media_files import atomic_write
from tools.common import any_camera, run_tool

BLURS = {
    "short": any_camera(motion=1.0, video_call=0.0, length=(6.0, 9.0)),
    "medium": any_camera(motion=1.0, video_call=0.0, length=(12.0, 15.0)),
    "long": any_camera(motion=1.0, video_call=0.0, length=(36.0, 40.0)),
    "call": any_camera(motion=0.0, video_call=1.0),
}


@dataclass(frozen=True)
class SheetConfig:
    checkpoint: tyro.conf.Positional[Path]
    """Student."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("before_after.png")
    """The picture to write."""
    blurs: tuple[str, ...] = ("short", "medium", "call")
    """short, medium, long (motion of about 8, 14, 38 pixels) or call (a video call)."""
    photos: int = 2
    """Photographs a blur is shown on."""
    crop: int = 224
    """Side of the crops, pixels."""

    def __post_init__(self) -> None:
        if unknown := set(self.blurs) - BLURS.keys():
            raise ValueError(f"blurs are {', '.join(BLURS)}: {', '.join(sorted(unknown))}")


def row(
    net: script.Net, blur: str, index: int, side: int, runtime: script.Runtime
) -> list[np.ndarray]:
    """The middle crops of blurred, restored and sharp photograph number `index`."""
    images = script.TestImages(script.demo_pairs("test"), script.Config(degradation=BLURS[blur]))
    _, blurry, sharp = images[index]
    restored = script.sharpen_whole(net, blurry, runtime)
    top, left = (max(0, n - side) // 2 for n in sharp.shape[:2])
    return [image[top : top + side, left : left + side] for image in (blurry, restored, sharp)]


def main(config: SheetConfig) -> None:
    if config.photos > (there := len(script.demo_pairs("test"))):
        raise script.SharpeningError(f"the demo has {there} test photographs, not {config.photos}")
    script.need("matplotlib").use("Agg")
    plt = script.need("matplotlib.pyplot")
    runtime = script.Runtime(torch.device("cpu"), torch.float32)
    net = script.load_student(config.checkpoint)
    cells = [
        (blur, row(net, blur, index, config.crop, runtime))
        for blur in config.blurs
        for index in range(config.photos)
    ]
    figure, axes = plt.subplots(
        len(cells), 3, figsize=(7.2, 2.5 * len(cells)), layout="constrained", squeeze=False
    )
    figures = []
    for line, (blur, images) in zip(axes, cells, strict=True):
        before, after = (script.psnr(image, images[2]) for image in images[:2])
        titles = (f"{blur}: {before:.2f} dB", f"student: {after:.2f} dB", "original")
        for axis, image, title in zip(line, images, titles, strict=True):
            axis.imshow(image, interpolation="nearest")
            axis.set_title(title, fontsize=9)
            axis.axis("off")
        figures.append({"blur": blur, "before": before, "after": after})
    with atomic_write(config.output) as temporary:
        figure.savefig(temporary, dpi=110)
    print(json.dumps({"picture": str(config.output), "rows": figures}))


if __name__ == "__main__":
    sys.exit(run_tool(main, SheetConfig, __doc__))
