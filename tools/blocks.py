"""Which blocks, stem and proportions serve the student best: `python tools/blocks.py`.

Trains candidates of about the time of the live student alike (the demo's photographs and blur, L1
and the spectrum, no teacher; the same seeds) and times them in turn. Finished runs are kept in
`--folder` and not repeated. The table tells PSNR, and milliseconds at 512 x 512 in bfloat16.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import main_sharpening_script as script
from tools.ablation import AblationConfig, digest, kept_result, summary, train_and_measure
from tools.benchmark import BenchmarkConfig, time_in_turn
from tools.candidates import runner
from tools.common import run_tool


class DepthwiseBlock(nn.Module):
    """x + SE(1x1(relu(depthwise(relu(1x1(x)))))), twice as wide inside (arXiv 1801.04381)."""

    def __init__(self, channels: int, window: int | None):
        super().__init__()
        inner = 2 * channels
        self.expand = nn.Conv2d(channels, inner, 1)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.project = nn.Conv2d(inner, channels, 1)
        self.weigh = script.SqueezeExcite(channels, window)
        nn.init.kaiming_normal_(self.project.weight, a=10)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.depthwise(F.relu(self.expand(x))))
        return x + self.weigh(self.project(inner))


class GatedBlock(nn.Module):
    """NAFNet's block (arXiv 2204.04676) with SE: norm, expand, depthwise, gate, SE, project; then
    norm, expand, gate, project."""

    def __init__(self, channels: int, window: int | None):
        super().__init__()
        inner = 2 * channels
        self.norm1, self.norm2 = (script.PixelNorm(channels, True) for _ in range(2))
        self.expand = nn.Conv2d(channels, inner, 1)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.weigh = script.SqueezeExcite(channels, window)
        self.project = nn.Conv2d(channels, channels, 1)
        self.widen = nn.Conv2d(channels, inner, 1)
        self.merge = nn.Conv2d(channels, channels, 1)
        for last in (self.project, self.merge):
            nn.init.kaiming_normal_(last.weight, a=10)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.depthwise(self.expand(self.norm1(x))).chunk(2, dim=1)
        x = x + self.project(self.weigh(a * b))
        a, b = self.widen(self.norm2(x)).chunk(2, dim=1)
        return x + self.merge(a * b)


class FoldableConv(nn.Conv2d):
    """A 3x3 convolution trained as the sum of itself and a 1x1 (arXiv 2101.03697): both fold into
    one 3x3 at inference, which is how it is timed."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1)
        self.point = nn.Parameter(torch.empty(channels, channels, 1, 1))
        nn.init.kaiming_uniform_(self.point, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight + F.pad(self.point, (1, 1, 1, 1))
        return F.conv2d(x, weight, self.bias, padding=1)


class FoldableBlock(script.ResidualBlock):
    """The student's block of `FoldableConv`."""

    def __init__(self, channels: int, window: int | None):
        super().__init__(channels, window)
        self.widen, self.merge = FoldableConv(channels), FoldableConv(channels)
        for weight in (self.merge.weight, self.merge.point):
            nn.init.kaiming_normal_(weight, a=14)


class Candidate(script.SEUNet):
    """The student with blocks of another kind."""

    def __init__(self, config: script.StudentConfig, block: Callable[[int, int | None], nn.Module]):
        super().__init__(config)
        for stage in (*self.encoder, self.middle, *self.decoder):
            for index, old in enumerate(stage):
                stage[index] = block(old.merge.out_channels, old.weigh.window)


LIVE = script.STUDENT_SIZES["live"]
change = functools.partial(dataclasses.replace, LIVE)
CANDIDATES: dict[str, tuple[script.StudentConfig, Callable]] = {
    "live": (LIVE, script.ResidualBlock),
    "foldable 3x3": (LIVE, FoldableBlock),
    "depthwise": (change(encoder=(0, 1, 2), middle=6, decoder=(0, 2, 2)), DepthwiseBlock),
    "gated (NAFNet)": (LIVE, GatedBlock),
    "full-resolution stem": (
        change(stem=1, width=8, encoder=(0, 0, 0, 1), middle=3, decoder=(0, 0, 1, 1)),
        script.ResidualBlock,
    ),
    "stem of 4": (
        change(stem=4, width=40, encoder=(0, 1), middle=5, decoder=(1, 1)),
        script.ResidualBlock,
    ),
    "deep and narrow": (
        change(width=12, max_width=64, encoder=(0, 1, 2), middle=8, decoder=(1, 2, 2)),
        script.ResidualBlock,
    ),
    "shallow and wide": (
        change(width=24, max_width=144, encoder=(0, 0, 0), middle=2, decoder=(0, 0, 1)),
        script.ResidualBlock,
    ),
}
"""Name -> sizes and block: about the time of `live` each, what is said apart."""


@dataclass(frozen=True)
class BlocksConfig:
    folder: Path = Path("runs/blocks")
    """Where each run keeps its network and its figures."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of every candidate for each."""
    steps: int = 400
    """Optimizer steps of a run."""
    crop: int = 96
    """Side of the training crops, pixels."""
    side: int = 512
    """Side of the square image that is timed, pixels."""
    backends: tuple[Literal["pytorch", "openvino"], ...] = ("pytorch", "openvino")
    """What computes it."""
    rounds: int = 15
    """Timed calls of each candidate."""
    names: tuple[str, ...] = tuple(CANDIDATES)
    """Candidates to compare; the first is what the others are compared with."""
    device: Literal["auto", "cpu", "cuda"] = "auto"


def make(name: str) -> Candidate:
    sizes, block = CANDIDATES[name]
    return Candidate(sizes, block)


def deployed(name: str) -> Candidate:
    """As at inference, where foldable blocks are plain ones; untrained."""
    sizes, block = CANDIDATES[name]
    net = Candidate(sizes, script.ResidualBlock if block is FoldableBlock else block)
    return net.eval().requires_grad_(False)


def trained(name: str, seed: int, config: BlocksConfig) -> dict[str, float]:
    """Figures of a candidate after a run, see `ablation.train_and_measure`."""
    loss = script.LossConfig(perceptual=0, feature=0, kl=0, ssim=0, frequency=1)
    sizes, block = CANDIDATES[name]
    what = digest(sizes, block.__name__, loss, script.DEMO)
    folder = config.folder / f"{name.replace(' ', '_')}_{config.steps}_{config.crop}_{seed}_{what}"
    run = AblationConfig(steps=config.steps, crop=config.crop, device=config.device)
    build, script.build_network = script.build_network, lambda _: make(name)
    try:
        return kept_result(folder, lambda: train_and_measure(loss, seed, folder, run))
    finally:
        script.build_network = build


def milliseconds(config: BlocksConfig) -> dict[str, dict[str, float]]:
    """Back end -> candidate -> median time in bfloat16, the candidates in turn."""
    script.keep_memory()
    x = torch.rand(1, 3, config.side, config.side)
    runtime = script.Runtime(torch.device("cpu"), torch.bfloat16)
    times: dict[str, dict[str, float]] = {}
    for backend in config.backends:
        nets = {n: runner(deployed(n), backend, "bf16", "cpu") for n in config.names}
        works = {n: functools.partial(script.run_net, net, x, runtime) for n, net in nets.items()}
        seconds = time_in_turn(works, runtime, BenchmarkConfig(rounds=config.rounds))
        times[backend] = {n: 1e3 * statistics.median(values) for n, values in seconds.items()}
    return times


def main(config: BlocksConfig) -> None:
    times = milliseconds(config)
    results = {name: [trained(name, s, config) for s in config.seeds] for name in config.names}
    rows = summary(results, "block")
    print(f"\n{'':<22}{'GMACs':>6}", *(f"{backend + ' ms':>12}" for backend in times), end="")
    print(f"  PSNR dB   gain over {config.names[0]}, mean +- deviation")
    for row in rows:
        name = row["block"]
        row |= {f"ms_{backend}": values[name] for backend, values in times.items()}
        row["gmacs_256"] = script.gmacs(make(name))
        print(f"{name:<22}{row['gmacs_256']:6.2f}", end="")
        print(*(f"{row[f'ms_{backend}']:13.1f}" for backend in times), end="")
        print(f" {row['psnr_student']:8.3f}   {row['gain']:+.3f} +- {row['spread']:.3f}")
    settings = {name: str(value) for name, value in dataclasses.asdict(config).items()}
    print(json.dumps({**settings, "rows": rows}))


if __name__ == "__main__":
    sys.exit(run_tool(main, BlocksConfig, __doc__))
