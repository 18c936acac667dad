"""PSNR of a student that is computed in other ways, on pairs of images.

    python tools/variants.py student.pth --pairs GoPro_dataset/test                     windows
    python tools/variants.py student.pth --pairs GoPro_dataset/test --vary blocks
    python tools/variants.py student.pth --pairs GoPro_dataset/test --vary precisions

windows: squeeze-and-excitation averages over a crop in training and over the whole image or tile at
use; windows of about the training size (TLC, arXiv 2112.04491) remove that gap. The table decided
the defaults of `StudentConfig.pool_window` and of the tiles. blocks: each residual block is left
out in turn. What that costs shows where blocks are worth their time; the table decided the
proportions of `STUDENT_SIZES`. precisions: every way that `--infer` computes, with OpenVINO in
fp32, bf16 and INT8, and with PyTorch. Needs openvino and nncf.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import main_sharpening_script as script
from main_sharpening_script import InferenceConfig, SEUNet, Sharpener, psnr
from sharpening.image_pairs import read_pair
from sharpening.openvino_backend import OpenVinoNet, openvino_model, quantised
from sharpening.runtime import Runtime, start_runtime
from tools.common import chosen_pairs, run_tool
from tools.networks import DTYPES

Variant = tuple[str, Callable[[np.ndarray], np.ndarray]]
"""Name, and blurry image (H, W, 3) uint8 -> restored one."""


@dataclass(frozen=True)
class VariantsConfig:
    checkpoint: tyro.conf.Positional[Path]
    """A student."""
    pairs: Path
    """Folder of pairs, as `--data.root` has them in test/."""
    vary: Literal["windows", "blocks", "precisions"] = "windows"
    """What differs between the variants."""
    count: int = 10
    """Pairs used, evenly spread over the folder."""
    windows: tuple[int, ...] = (0, 128, 192, 256, 384, 512)
    """Pooling windows, pixels; 0 pools over the whole image or tile."""
    tiles: tuple[int, ...] = (0, 256, 512)
    """Sides of tiles, pixels; 0 computes the image whole."""
    overlap: int = 64
    """Pixels shared by neighbouring tiles."""
    threads: int | None = None
    """Threads; None: PyTorch's choice."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where PyTorch computes."""
    data: script.DataConfig = field(default_factory=script.DataConfig)
    """Names of the folders of sharp and blurred images."""


def windows(student: SEUNet, runtime: Runtime, config: VariantsConfig) -> Iterator[Variant]:
    """Pooling over windows, whole and in tiles."""
    for tile in config.tiles:
        for window in config.windows:
            settings = InferenceConfig(
                tile=tile or 1 << 20, overlap=config.overlap, pool_window=window
            )
            name = f"{f'tiles of {tile}' if tile else 'whole'}, pooled over {window or 'all'}"
            yield name, Sharpener(student, runtime, settings)


def blocks(student: SEUNet, runtime: Runtime, config: VariantsConfig) -> Iterator[Variant]:
    """All blocks, then each left out: while its variant is measured, it is the identity."""
    yield "all blocks", Sharpener(student, runtime)
    stages = {f"encoder.{i}": stage for i, stage in enumerate(student.encoder)}
    stages["middle"] = student.middle
    stages |= {f"decoder.{i}": stage for i, stage in enumerate(student.decoder)}
    for name, stage in stages.items():
        for index, block in enumerate(stage):
            stage[index] = nn.Identity()
            yield f"without {name}.{index}", Sharpener(student, runtime)
            stage[index] = block


def precisions(student: SEUNet, runtime: Runtime, config: VariantsConfig) -> Iterator[Variant]:
    """PyTorch in each precision, then OpenVINO on this CPU."""
    on_gpu = runtime.device.type == "cuda"
    for precision in ("fp32", "bf16", "fp16") if on_gpu else ("fp32", "bf16"):
        there = dataclasses.replace(runtime, dtype=DTYPES[precision])
        yield f"pytorch {precision}", Sharpener(student, there, InferenceConfig(backend="pytorch"))
    model, crops = openvino_model(student.cpu()), script.calibration_crops()
    eight, plain = quantised(model, crops), quantised(model, crops, keep_ends=False)
    full, half = torch.float32, torch.bfloat16
    kinds = {"fp32": (model, full), "bf16": (model, half), "int8": (eight, half)}
    kinds |= {"int8 fp32 rest": (eight, full), "int8 everywhere": (plain, full)}
    for name, kind in kinds.items():
        net = OpenVinoNet(*kind)
        yield f"openvino {name}", lambda image, net=net: net.on_images([image])[0]


VARIANTS = {"windows": windows, "blocks": blocks, "precisions": precisions}


def main(config: VariantsConfig) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    pairs = [read_pair(pair) for pair in chosen_pairs(config.pairs, config.data, config.count)]
    student = script.load_student(config.checkpoint)
    blurred = float(np.mean([psnr(blurry, sharp) for blurry, sharp in pairs]))
    print(f"{len(pairs)} pairs of {config.pairs}; blurred: {blurred:.2f} dB")
    print(f"{'':<32}  PSNR dB   to the first   PSNR to the first's image")
    rows, first = [], []
    with start_runtime(config.device) as runtime:
        for name, sharpen in VARIANTS[config.vary](student, runtime, config):
            restored = [sharpen(blurry) for blurry, _ in pairs]
            first = first or restored
            values = [psnr(r, sharp) for r, (_, sharp) in zip(restored, pairs, strict=True)]
            near = [psnr(r, f) for r, f in zip(restored, first, strict=True)]
            row = {"variant": name, "psnr": float(np.mean(values))}
            row |= {"psnr_to_first": float(np.mean(near))}
            rows.append(row | {"gain": row["psnr"] - rows[0]["psnr"] if rows else 0.0})
            print(f"{name:<32} {row['psnr']:8.3f} {rows[-1]['gain']:+14.3f}", end="")
            print(f" {row['psnr_to_first']:27.2f}", flush=True)
    print(json.dumps({"checkpoint": str(config.checkpoint), "blurry": blurred, "rows": rows}))


if __name__ == "__main__":
    sys.exit(run_tool(main, VariantsConfig, __doc__))
