"""Train a student further with one more idea; measure what that gains and what it harms.

    python tools/trials.py --composites 0.4 --pairs talk=DIR --sharp photos=DIR FLAGS

FLAGS are those of main_sharpening_script.py, sets and figures those of tools/harm_table.py. What
each idea was worth: docs/EXPERIMENTS.md, "Ideas against harm and for long blur".
"""

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import main_sharpening_script as script
from sharpening.image_pairs import same_crop
from sharpening.runtime import Runtime, start_runtime
from sharpening.synthetic_blur import generators_for, soft_mask
from tools.common import exit_status, run_beside_script
from tools.harm_table import HarmConfig, measure

OPEN = 3.0
"""Logit of the gate at first. The residual is enlarged, so that the network begins as it was."""


@dataclass(frozen=True)
class TrialConfig:
    student: Path = script.SHIPPED_STUDENTS["live"]
    """Weights to begin with."""
    composites: float = 0.0
    """Share of the real pairs of which a soft random part is replaced by the sharp image."""
    blurred_of: int = 1
    """Crops that are cut from a real pair for each that is used: the one that is blurred most."""
    tone: float = 0.0
    """Weight of the L1 between means of 16 x 16 pixels."""
    gate: float = 0.0
    """Weight of the loss of a gate, one more output that the residual is multiplied by. It has to
    find where blurred and sharp image differ."""
    wide: int = 0
    """Side of two more depthwise convolutions at the bottom."""
    teacher: Path | None = None
    """A student that teaches: half of the loss is measured against its results."""
    orientations: int = 1
    """Of the eight flipped and turned images, how many the teacher averages (drawn anew)."""
    pairs: tuple[str, ...] = ()
    """Real pairs to measure, as name=folder."""
    sharp: tuple[str, ...] = ()
    """Sharp photographs to measure, as name=folder."""


class Wide(nn.Module):
    """x + 1x1(gelu(depthwise(x))), which begins as the identity."""

    def __init__(self, channels: int, side: int):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, side, padding=side // 2, groups=channels)
        self.mix = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.gelu(self.depthwise(x)))


class Candidate(script.SEUNet):
    """The student of `trial.student` with the trial's parts. `blurry` and `logit` (B, 1, H, W) are
    those of the last call, for the loss."""

    def __init__(self, trial: TrialConfig):
        student = script.load_student(trial.student)
        super().__init__(student.config)
        self.load_state_dict(student.state_dict())
        width, bottom = self.config.widths[0], self.config.widths[-1]
        if trial.wide:
            self.middle.extend(Wide(bottom, trial.wide) for _ in range(2))
        self.gate = nn.Conv2d(width, self.config.stem**2, 3, padding=1) if trial.gate else None
        if self.gate:
            nn.init.zeros_(self.gate.weight)
            nn.init.constant_(self.gate.bias, OPEN)
            for weights in self.last.parameters():
                weights.data /= torch.tensor(OPEN).sigmoid()
        self.blurry = self.logit = None

    def forward(self, blurry: Tensor, return_taps: bool = False) -> Any:
        self.blurry = blurry
        if self.gate is None:
            return super().forward(blurry, return_taps)
        restored, taps = super().forward(blurry, return_taps=True)
        H, W = blurry.shape[2:]
        self.logit = F.pixel_shuffle(self.gate(taps["half"]), self.config.stem)[..., :H, :W]
        restored = blurry + self.logit.sigmoid() * (restored - blurry)
        return (restored, taps) if return_taps else restored


def most_blurred_crop(count: int, images: Sequence[np.ndarray], *rest: Any) -> tuple[Tensor, ...]:
    """Of `count` crops the one whose blurry and sharp image differ most; the first if none do."""
    crops = [same_crop(images, *rest) for _ in range(count)]
    return max(crops, key=lambda crop: (crop[0].float() - crop[1]).abs().mean().item())


def with_composites(
    batches: Iterator[tuple[Tensor, ...]], trial: TrialConfig
) -> Iterator[tuple[Tensor, ...]]:
    """`batches` in which parts of real blurred crops are sharp already."""
    with contextlib.closing(batches):
        for draw, (blurry, sharp, blur_seeds) in enumerate(batches):
            for i in (blur_seeds < 0).nonzero()[:, 0].tolist():
                (generator,) = generators_for(draw, [i])
                if torch.rand((), generator=generator) < trial.composites:
                    mask = soft_mask(generator, *sharp.shape[2:])
                    blurry[i] = torch.lerp(sharp[i].float(), blurry[i].float(), mask).round().byte()
            yield blurry, sharp, blur_seeds


def taught_by(teacher: nn.Module, blurry: Tensor, orientations: int) -> Tensor:
    """Mean of the teacher's results for the image flipped and turned."""
    total = torch.zeros_like(blurry)
    for k in torch.randperm(8)[:orientations].tolist() if orientations > 1 else [0]:
        turned = torch.rot90(blurry.flip(3) if k & 4 else blurry, k & 3, (2, 3))
        result = torch.rot90(teacher(turned).float(), -(k & 3), (2, 3))
        total += result.flip(3) if k & 4 else result
    return total / orientations


def extended_loss(
    trial: TrialConfig, net: Candidate, teacher: nn.Module | None, runtime: Runtime
) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    """`distillation_loss` with the trial's terms, for images that `net` restored."""
    plain = script.distillation_loss

    def loss(restored: Tensor, sharp: Tensor, *rest: Any) -> tuple[Tensor, dict[str, Tensor]]:
        total, terms = plain(restored, sharp, *rest)
        if trial.tone:
            terms["tone"] = F.avg_pool2d(restored.float() - sharp, 16).abs().mean()
            total = total + trial.tone * terms["tone"]
        if trial.gate:
            differs = (net.blurry - sharp).abs().mean(1, keepdim=True)
            differs = F.avg_pool2d(differs, 7, 1, 3, count_include_pad=False)
            aim = ((differs - 0.004) / 0.02).clamp(0, 1)
            terms["gate"] = F.binary_cross_entropy_with_logits(net.logit.float(), aim)
            total = total + trial.gate * terms["gate"]
        if teacher:
            with torch.no_grad(), runtime.autocast():
                taught = taught_by(teacher, net.blurry, trial.orientations)
            total = 0.5 * total + 0.5 * plain(restored, taught, *rest)[0]
        return total, {name: term.detach() for name, term in terms.items()}

    return loss


def main(trial: TrialConfig, flags: list[str]) -> None:
    config = script.read_config(["--teacher.no-enabled", *flags])
    with start_runtime(config.device, config.train.precision, config.train.seed) as runtime:
        net = Candidate(trial)
        teacher = trial.teacher and script.load_student(trial.teacher).eval().to(runtime.device)
        loss = extended_loss(trial, net, teacher, runtime)

        def load(*arguments: Any) -> Iterator[tuple[Tensor, ...]]:
            return with_composites(script.training_batches(*arguments), trial)

        cut = functools.partial(most_blurred_crop, trial.blurred_of)
        with mock.patch.multiple(script, distillation_loss=loss, same_crop=cut):
            final = script.train(config, runtime, build=lambda _: net, load=load)
        net.load_state_dict(script.network_weights(script.load_checkpoint(final)))
        sharpen = script.Sharpener(net.eval(), runtime, script.InferenceConfig().as_trained())
        results = dict(measure(HarmConfig((), trial.pairs, trial.sharp), {"trial": sharpen}))
    print(json.dumps({"trial": script.to_dict(trial), "sets": results}))


if __name__ == "__main__":
    sys.exit(exit_status(lambda: run_beside_script(main, TrialConfig, __doc__, sys.argv[1:])))
