"""What reduced precision costs in quality, on real pairs:

    python tools/quantisation_loss.py CHECKPOINT --pairs DIR

`--pairs` holds `blurred/` and `sharp/`. Every way that `--infer` computes: with OpenVINO in fp32,
bf16 and INT8 (its ranges from the demo's photographs), and with PyTorch, in half precision beside
fp32. Needs openvino and nncf.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from main_sharpening_script import (
    DataConfig,
    InferConfig,
    OpenVinoNet,
    Runtime,
    SEUNet,
    calibration_crops,
    deployed,
    load_student,
    openvino_model,
    psnr,
    quantised,
    read_pair,
    sharpen_image,
)
from tools.candidates import DTYPES
from tools.common import chosen_pairs, run_tool

Way = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class LossInQualityConfig:
    checkpoint: tyro.conf.Positional[Path]
    """Student checkpoint."""
    pairs: Path
    """Folder with `blurred/` and `sharp/` to measure on."""
    images: int = 30
    """Pairs measured, spread evenly."""
    threads: int | None = None
    """Threads; None: PyTorch's choice."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where PyTorch computes: bf16 on a CPU, bf16 and fp16 on a GPU."""


def openvino_ways(student: SEUNet) -> dict[str, Way]:
    """Name -> blurry image to restored one, in OpenVINO on this CPU."""
    model, crops = openvino_model(student), calibration_crops()
    eight, plain = quantised(model, crops), quantised(model, crops, keep_ends=False)
    full, half = torch.float32, torch.bfloat16
    kinds = {"fp32": (model, full), "bf16": (model, half), "int8": (eight, half)}
    kinds |= {"int8 fp32 rest": (eight, full), "int8 everywhere": (plain, full)}
    nets = {name: OpenVinoNet(*kind) for name, kind in kinds.items()}
    return {name: lambda image, net=net: net.on_images([image])[0] for name, net in nets.items()}


def pytorch_ways(student: SEUNet, device: str) -> dict[str, Way]:
    """Name -> blurry image to restored one, as `--infer` does without OpenVINO."""
    settings, ways = InferConfig(backend="pytorch"), {}
    for precision in ("fp32", "bf16", "fp16") if device == "cuda" else ("fp32", "bf16"):
        runtime = Runtime(torch.device(device), DTYPES[precision])
        net = deployed(student, settings, runtime)
        ways[f"pytorch {precision}"] = partial(sharpen_image, net, runtime=runtime, config=settings)
    return ways


def reference(name: str) -> str:
    """The way in fp32 that `name` is compared with: that of its own back end."""
    return "pytorch fp32" if name.startswith("pytorch") else "fp32"


def main(config: LossInQualityConfig) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    student = load_student(config.checkpoint)
    pairs = chosen_pairs(config.pairs, DataConfig(), config.images)
    ways = openvino_ways(student) | pytorch_ways(student, config.device)
    values: dict[str, list[float]] = {name: [] for name in ("blurry", *ways)}
    nearness: dict[str, list[float]] = {name: [] for name in ways}
    for pair in pairs:
        blurry, sharp = read_pair(pair)
        values["blurry"].append(psnr(blurry, sharp))
        restored = {name: way(blurry) for name, way in ways.items()}
        for name, image in restored.items():
            values[name].append(psnr(image, sharp))
            nearness[name].append(psnr(image, restored[reference(name)]))
    means = {name: statistics.mean(found) for name, found in values.items()}
    print(f"{len(values['blurry'])} pairs      PSNR dB   loss against fp32   PSNR to fp32's image")
    near = {name: statistics.mean(found) for name, found in nearness.items()}
    for name, value in means.items():
        shown = f"{near[name]:22.2f}" if name in near else ""
        print(f"{name:<16} {value:7.3f}  {means[reference(name)] - value:17.3f} {shown}")
    settings = {k: str(v) for k, v in dataclasses.asdict(config).items()}
    print(json.dumps({**settings, "psnr": means, "psnr_to_fp32": near}))


if __name__ == "__main__":
    sys.exit(run_tool(main, LossInQualityConfig, __doc__))
