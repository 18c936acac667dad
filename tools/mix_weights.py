"""The average of several checkpoints of one network: `python tools/mix_weights.py SHARE=FILE ...`.

    python tools/mix_weights.py 0.6=runs/a/best.pth 0.4=model_checkpoints/student_pretrained.pth \\
        -o model_checkpoints/mixed.pth

The mean of weights that began from the same ones is often better than each of them (arXiv
2203.05482). A share below 0 moves away from those weights. Of a last.pth the averaged weights
count. The result is rounded to half precision, which is what ships; with one file and the share 1
nothing else happens.
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from main_sharpening_script import load_checkpoint, network_weights, save_checkpoint
from sharpening import SharpeningError
from tools.common import run_tool


@dataclass(frozen=True)
class MixConfig:
    parts: tyro.conf.Positional[tuple[str, ...]]
    """SHARE=CHECKPOINT of each; the shares sum to 1."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("mixed.pth")
    """The checkpoint to write."""
    half: bool = True
    """Round the weights to half precision."""


def read_parts(parts: tuple[str, ...]) -> dict[Path, float]:
    """Checkpoint -> its share."""
    shares = {}
    for part in parts:
        share, equals, path = part.partition("=")
        try:
            shares[Path(path)] = float(share)
        except ValueError:
            equals = ""
        if not equals:
            raise SharpeningError(f"give SHARE=CHECKPOINT, such as 0.5=a.pth, not {part}")
    if len(shares) < len(parts):
        raise SharpeningError("give each checkpoint once")
    if not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise SharpeningError(f"the shares sum to {sum(shares.values()):g}, not to 1")
    return shares


def mixed(shares: dict[Path, float], half: bool) -> dict[str, Any]:
    """The payload of the average. Raises SharpeningError if the networks differ in their sizes."""
    payloads = {path: load_checkpoint(path) for path in shares}
    weights = {path: network_weights(payload) for path, payload in payloads.items()}
    first = next(iter(shares))
    for path, own in weights.items():
        shapes, wanted = ({n: w.shape for n, w in each.items()} for each in (own, weights[first]))
        settings = [payloads[each].get("student") for each in (path, first)]
        if shapes != wanted or settings[0] != settings[1]:
            raise SharpeningError(f"{path} and {first} are networks of different settings")

    def average(name: str) -> Tensor:
        total = sum(share * weights[path][name].float() for path, share in shares.items())
        return total.half() if half else total

    student = payloads[first].get("student")
    settings = {"student": student} if student else {}
    parts = {str(path.name): share for path, share in shares.items()}
    return {**settings, "params": {n: average(n) for n in weights[first]}, "mixed_from": parts}


def main(config: MixConfig) -> None:
    shares = read_parts(config.parts)
    payload = mixed(shares, config.half)
    save_checkpoint(config.output, payload)
    weights = sum(value.numel() for value in payload["params"].values())
    print(f"{config.output}: {weights} weights of {len(shares)} checkpoints")
    print(json.dumps({"checkpoint": str(config.output), "weights": weights, "half": config.half}))


if __name__ == "__main__":
    sys.exit(run_tool(main, MixConfig, __doc__))
