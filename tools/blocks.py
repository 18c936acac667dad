"""Students with other blocks, stems and proportions: the candidates of `ablation.py`."""

import dataclasses
import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from main_sharpening_script import (
    STUDENT_SIZES,
    PixelNorm,
    ResidualBlock,
    SEUNet,
    SqueezeExcite,
    StudentConfig,
)


class DepthwiseBlock(nn.Module):
    """x + SE(1x1(relu(depthwise(relu(1x1(x)))))), twice as wide inside (arXiv 1801.04381)."""

    def __init__(self, channels: int, window: int | None):
        super().__init__()
        inner = 2 * channels
        self.expand = nn.Conv2d(channels, inner, 1)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.project = nn.Conv2d(inner, channels, 1)
        self.weigh = SqueezeExcite(channels, window)
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
        self.norm1, self.norm2 = (PixelNorm(channels, True) for _ in range(2))
        self.expand = nn.Conv2d(channels, inner, 1)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.weigh = SqueezeExcite(channels, window)
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


class FoldableBlock(ResidualBlock):
    """The student's block of `FoldableConv`."""

    def __init__(self, channels: int, window: int | None):
        super().__init__(channels, window)
        self.widen, self.merge = FoldableConv(channels), FoldableConv(channels)
        for weight in (self.merge.weight, self.merge.point):
            nn.init.kaiming_normal_(weight, a=14)


Block = Callable[[int, int | None], nn.Module]


class WithBlocks(SEUNet):
    """The student with blocks of another kind."""

    def __init__(self, config: StudentConfig, block: Block):
        super().__init__(config)
        for stage in (*self.encoder, self.middle, *self.decoder):
            for index, old in enumerate(stage):
                stage[index] = block(old.merge.out_channels, old.weigh.window)


LIVE = STUDENT_SIZES["live"]
change = functools.partial(dataclasses.replace, LIVE)
BLOCKS: dict[str, tuple[StudentConfig, Block]] = {
    "live": (LIVE, ResidualBlock),
    "foldable 3x3": (LIVE, FoldableBlock),
    "depthwise": (change(encoder=(0, 1, 2), middle=6, decoder=(0, 2, 2)), DepthwiseBlock),
    "gated (NAFNet)": (LIVE, GatedBlock),
    "full-resolution stem": (
        change(stem=1, width=8, encoder=(0, 0, 0, 1), middle=3, decoder=(0, 0, 1, 1)),
        ResidualBlock,
    ),
    "stem of 4": (
        change(stem=4, width=40, encoder=(0, 1), middle=5, decoder=(1, 1)),
        ResidualBlock,
    ),
    "deep and narrow": (
        change(width=12, max_width=64, encoder=(0, 1, 2), middle=8, decoder=(1, 2, 2)),
        ResidualBlock,
    ),
    "shallow and wide": (
        change(width=24, max_width=144, encoder=(0, 0, 0), middle=2, decoder=(0, 0, 1)),
        ResidualBlock,
    ),
}
"""Name -> sizes and block; each takes about the time of `live`."""


def at_inference(name: str) -> WithBlocks:
    """A candidate, untrained, as it computes after training: foldable blocks are plain ones."""
    sizes, block = BLOCKS[name]
    return WithBlocks(sizes, ResidualBlock if block is FoldableBlock else block)
