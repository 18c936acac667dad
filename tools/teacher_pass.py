"""Time of one pass of the teacher, and its share of a distillation step.

`python tools/teacher_pass.py --crop 128 --batch 1`: Restormer as published (spandrel-extra-arches),
ours, in bf16 and compiled, and the student's forward, L1 and backward, in turn on the same crops.
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
from typing import Any, Literal

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import main_sharpening_script as script
from tools.benchmark import BenchmarkConfig, time_in_turn
from tools.common import run_tool
from tools.machine import conditions


@dataclass(frozen=True)
class PassConfig:
    crop: int = 128
    """Side of the square crops, pixels."""
    batch: int = 1
    """Crops per pass."""
    dim: int = 48
    """The teacher's channels at full resolution; the defaults are the released sizes."""
    blocks: tuple[int, int, int, int] = (4, 6, 6, 8)
    """Its transformer blocks per level."""
    refinement_blocks: int = 4
    """Its blocks after the decoder."""
    heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    """Its attention heads per level."""
    compile: bool = True
    """Measure torch.compile too, which takes a C++ compiler and minutes."""
    device: Literal["cpu", "cuda"] = "cpu"
    rounds: int = 15
    """Timed passes of each, after three that are not; their medians count."""


def teachers(config: PassConfig) -> tuple[nn.Module, nn.Module]:
    """(published, ours) with the same random weights: time does not depend on them."""
    ours = script.Restormer(config.dim, config.blocks, config.refinement_blocks, config.heads)
    package = script.need("spandrel_extra_arches.architectures.Restormer")
    published = package.RestormerArch().load(ours.state_dict()).model
    ours = ours.to(memory_format=torch.channels_last)  # as restormer_from_weights has it
    return tuple(net.to(config.device).eval().requires_grad_(False) for net in (published, ours))


def run(net: nn.Module, blurry: Tensor, runtime: script.Runtime, training: bool = False) -> None:
    """Forward without gradients, or forward, L1 (any target costs this) and backward."""
    with torch.set_grad_enabled(training), runtime.autocast():
        restored = net(blurry)
    if training:
        nn.functional.l1_loss(restored.float(), 1 - blurry).backward()
        net.zero_grad(set_to_none=True)


def works(config: PassConfig) -> dict[str, Callable[[], Any]]:
    """Name -> one call of what is timed."""
    (published, ours), device = teachers(config), torch.device(config.device)
    fp32, bf16 = (script.Runtime(device, dtype) for dtype in (torch.float32, torch.bfloat16))
    student = script.SEUNet(script.StudentConfig()).to(device, memory_format=torch.channels_last)
    plain = torch.rand(config.batch, 3, config.crop, config.crop, device=device)
    blurry = plain.contiguous(memory_format=torch.channels_last)  # as prepare_batch gives it
    made = {"published": partial(run, published, plain, fp32)}
    for kind, runtime in (("", fp32), ("_bf16", bf16)):
        made[f"ours{kind}"] = partial(run, ours, blurry, runtime)
        made[f"student_step{kind}"] = partial(run, student, blurry, runtime, training=True)
    if config.compile:
        made["ours_compiled"] = partial(run, fp32.compiled(ours, dynamic=False), blurry, fp32)
    return made


def main(config: PassConfig) -> None:
    script.keep_memory()
    runtime = script.Runtime(torch.device(config.device), torch.float32)
    seconds = time_in_turn(works(config), runtime, BenchmarkConfig(rounds=config.rounds))
    ms = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    ratios = {name: ms["published"] / value for name, value in ms.items() if "step" not in name}
    shares = [ms["ours" + k] / (ms["ours" + k] + ms["student_step" + k]) for k in ("", "_bf16")]
    print(f"{config.batch} crops of {config.crop} pixels  {'ms':>9}  times as fast as published")
    for name, value in ms.items():
        print(f"{name:<24} {value:>9.1f}", f"{ratios[name]:>9.2f}" if name in ratios else "")
    print("teacher's share of a step: {:.1%} in fp32, {:.1%} in bf16".format(*shares))
    result = {"ms": ms, "ratio_to_published": ratios, "teacher_share": shares[0]}
    result |= {"teacher_share_bf16": shares[1], **dataclasses.asdict(config)}
    print(json.dumps(result | conditions(config.device)))


if __name__ == "__main__":
    sys.exit(run_tool(main, PassConfig, __doc__))
