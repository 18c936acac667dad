"""PSNR of a student whole, tiled and with windowed pooling, on pairs of images.

    python tools/pooling_table.py --checkpoint student.pth --pairs GoPro_dataset/test --count 20

Squeeze-and-excitation averages over a crop in training and over the whole image or tile at use;
averages over windows of about the training size (TLC, arXiv 2112.04491) remove that gap. The table
decided the defaults of `StudentConfig.pool_window` and of the tiles.
"""

import itertools
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import main_sharpening_script as script  # noqa: E402
from tools.common import chosen_pairs, run_tool  # noqa: E402


@dataclass(frozen=True)
class TableConfig:
    checkpoint: Path
    """A student."""
    pairs: Path
    """Folder of pairs, as `--data.root` has them in test/."""
    count: int = 10
    """Pairs used, evenly spread over the folder."""
    windows: tuple[int, ...] = (0, 128, 192, 256, 384, 512)
    """Pooling windows, pixels; 0 pools over the whole image or tile."""
    tiles: tuple[int, ...] = (0, 256, 512)
    """Sides of tiles, pixels; 0 computes the image whole."""
    overlap: int = 64
    """Pixels shared by neighbouring tiles."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    data: script.DataConfig = field(default_factory=script.DataConfig)
    """Names of the folders of sharp and blurred images."""


def measure(config: TableConfig, runtime: script.Runtime) -> tuple[dict, dict, int]:
    """PSNR (decibels, mean over the pairs) by (tile, window), of the blurred images, and count."""
    student = script.load_student(config.checkpoint)
    nets = {
        window: script.with_pool_window(student, window or None).to(runtime.device)
        for window in config.windows
    }
    cells = list(itertools.product(config.tiles, config.windows))
    values: dict = {cell: [] for cell in ["blurry", *cells]}
    pairs = chosen_pairs(config.pairs, config.data, config.count)
    for pair in tqdm(pairs, unit="pair"):
        blurry, sharp = script.read_pair(pair)
        values["blurry"].append(script.psnr(blurry, sharp))
        for tile, window in cells:
            settings = script.InferConfig(tile=tile or 1 << 20, overlap=config.overlap)
            restored = script.sharpen_image(nets[window], blurry, runtime, settings)
            values[tile, window].append(script.psnr(restored, sharp))
    means = {cell: float(np.mean(each)) for cell, each in values.items()}
    return {cell: means[cell] for cell in cells}, means["blurry"], len(pairs)


def main(config: TableConfig) -> None:
    with torch.inference_mode(), script.start_runtime(script.Config(device=config.device)) as here:
        table, blurry, count = measure(config, here)
    print(f"PSNR in dB over {count} pairs of {config.pairs}; blurred: {blurry:.2f}")
    print("tile     pool: " + "".join(f"{window or 'global':>9}" for window in config.windows))
    for tile in config.tiles:
        row = "".join(f"{table[tile, window]:9.3f}" for window in config.windows)
        print(f"{tile or 'whole':<15}{row}")
    cells = [{"tile": t, "pool_window": w, "psnr": value} for (t, w), value in table.items()]
    print(json.dumps({"checkpoint": str(config.checkpoint), "blurry": blurry, "cells": cells}))


if __name__ == "__main__":
    sys.exit(run_tool(main, TableConfig, __doc__))
