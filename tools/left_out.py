"""PSNR of a student with each of its blocks left out, on pairs of images.

    python tools/left_out.py --checkpoint student.pth --pairs GoPro_dataset/test --count 20

A residual block that is left out is the identity. What its absence costs tells where blocks are
worth their time: the table decided the proportions of `STUDENT_SIZES`.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import main_sharpening_script as script  # noqa: E402
from tools.common import chosen_pairs, run_tool  # noqa: E402


@dataclass(frozen=True)
class LeftOutConfig:
    checkpoint: Path
    """A student."""
    pairs: Path
    """Folder of pairs, as `--data.root` has them in test/."""
    count: int = 10
    """Pairs used, evenly spread over the folder."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    data: script.DataConfig = field(default_factory=script.DataConfig)
    """Names of the folders of sharp and blurred images."""


def lacking_one(student: script.SEUNet) -> Iterator[tuple[str, float]]:
    """(name, level as 1/n of the picture) of each block, while the student lacks it."""
    stages = {f"encoder.{i}": stage for i, stage in enumerate(student.encoder)}
    stages["middle"] = student.middle
    stages |= {f"decoder.{i}": stage for i, stage in enumerate(student.decoder)}
    for name, stage in stages.items():
        level = len(student.encoder) if name == "middle" else int(name.split(".")[1])
        for index, block in enumerate(stage):
            stage[index] = nn.Identity()
            yield f"{name}.{index}", student.config.stem * 2**level
            stage[index] = block


def main(config: LeftOutConfig) -> None:
    pairs = [
        script.read_pair(pair) for pair in chosen_pairs(config.pairs, config.data, config.count)
    ]
    with torch.inference_mode(), script.start_runtime(script.Config(device=config.device)) as here:
        student = script.load_student(config.checkpoint).to(here.device)
        student = student.to(memory_format=torch.channels_last)

        def quality() -> float:
            settings = script.InferConfig()
            restored = (
                script.sharpen_image(student, blurry, here, settings) for blurry, _ in pairs
            )
            return float(
                np.mean([script.psnr(r, s) for r, (_, s) in zip(restored, pairs, strict=True)])
            )

        whole = quality()
        print(f"{len(pairs)} pairs of {config.pairs}; all blocks: {whole:.2f} dB")
        losses = {}
        for name, level in lacking_one(student):
            losses[name] = whole - quality()
            print(f"without {name:<12} at 1/{level:<3}{-losses[name]:+8.2f} dB", flush=True)
    print(json.dumps({"checkpoint": str(config.checkpoint), "psnr": whole, "losses": losses}))


if __name__ == "__main__":
    sys.exit(run_tool(main, LeftOutConfig, __doc__))
