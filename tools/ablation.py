"""What each term of the loss, or each kind of block, is worth at equal budget.

    python tools/ablation.py                     L1 alone, with each other term, with all
    python tools/ablation.py --compare blocks    blocks, stems and proportions (tools/blocks.py)

Every variant is trained on the demo's photographs and blur from the same seeds (initial weights,
crops, blur). The terms are taught by the small teacher that ships, which is better than a student
of so few steps; the blocks have no teacher. Finished runs are stored in `--folder` and not
repeated. The perceptual term is added where VGG-19 weights are given.
"""

import dataclasses
import functools
import hashlib
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import main_sharpening_script as script
from sharpening.media_files import atomic_write
from sharpening.runtime import start_runtime
from tools.blocks import BLOCKS, WithBlocks
from tools.common import run_tool

WEIGHTS = {"feature": 1.0, "kl": 0.01, "ssim": 10.0, "frequency": 1.0}
"""Weight of each term beside L1 of weight 1: the starting values of the published formula,
and `frequency`, which it lacks."""


@dataclass(frozen=True)
class AblationConfig:
    compare: Literal["losses", "blocks"] = "losses"
    """What differs between the variants."""
    folder: Path = Path("runs/ablation")
    """Each run keeps its network and its figures here."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of every variant for each."""
    steps: int = 400
    """Optimizer steps of a run."""
    crop: int = 96
    """Side of the training crops, pixels."""
    student: tyro.conf.Suppress[script.StudentConfig] = script.STUDENT_SIZES["live"]
    vgg_weights: Path | None = None
    """VGG-19 ImageNet weights, which add the perceptual term."""
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True)
class Variant:
    """A loss, and a function that builds the network to train."""

    loss: script.LossConfig
    build: Callable[[script.Config], nn.Module] = script.build_network
    sizes: Any = ()
    """What else tells it from another variant, for the name of its folder."""


def losses(config: AblationConfig) -> dict[str, Variant]:
    """L1 alone, with each term, with all, with less of the features, without a teacher."""
    terms = WEIGHTS | ({"perceptual": 0.01} if config.vgg_weights else {})
    off = dict.fromkeys(script.LOSS_TERMS, 0.0) | {"recon": 1.0}
    chosen = {"L1": {}, **{f"+ {name}": {name: weight} for name, weight in terms.items()}}
    chosen["all"] = terms
    chosen |= {f"all, feature {w}": terms | {"feature": w} for w in (0.1, 0.01)}
    chosen["ssim, frequency"] = {name: terms[name] for name in ("ssim", "frequency")}
    vgg = {"vgg_weights": config.vgg_weights}
    return {
        name: Variant(script.LossConfig(**off | weights, **vgg), sizes=config.student)
        for name, weights in chosen.items()
    }


def blocks() -> dict[str, Variant]:
    """The candidates of tools/blocks.py, trained with L1 and the spectrum."""
    loss = script.LossConfig(perceptual=0, feature=0, kl=0, ssim=0, frequency=1)
    return {
        name: Variant(loss, lambda _, made=made: WithBlocks(*made), (made[0], made[1].__name__))
        for name, made in BLOCKS.items()
    }


def train_and_measure(
    variant: Variant, seed: int, folder: Path, config: AblationConfig
) -> dict[str, float]:
    """PSNR and SSIM of one run on the demo's test photographs."""
    demo, change = script.DEMO, dataclasses.replace
    steps = {"epochs": 1, "steps_per_epoch": config.steps, "evaluate_every": 2, "seed": seed}
    run = change(
        demo,
        student=config.student,
        data=change(demo.data, crop=config.crop),
        teacher=change(demo.teacher, enabled=bool(variant.loss.teacher_terms)),
        loss=variant.loss,
        train=change(demo.train, **steps, folder=folder, samples=folder / "samples"),
    )
    with start_runtime(config.device, run.train.precision, seed) as runtime:
        final = script.train(run, runtime, build=variant.build)
        net = variant.build(run).eval()
        script.load_strictly(net, script.network_weights(script.load_checkpoint(final)), final)
        images = script.EvaluationImages(script.split_pairs(run, "test"), run.degradation)
        return script.evaluate_quality({"student": script.Sharpener(net, runtime)}, images, runtime)


def stored_result(folder: Path, work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What `work` returns, or returned before, by the result.json in its `folder`."""
    done = folder / "result.json"
    if not done.exists():
        result = work()
        with atomic_write(done) as temporary:  # half a file would count as finished
            temporary.write_text(json.dumps(result))
    return json.loads(done.read_text())


def results_of(variants: dict[str, Variant], config: AblationConfig) -> dict[str, list[dict]]:
    """Variant -> its figures, seed by seed."""
    results: dict[str, list[dict]] = {name: [] for name in variants}
    teacher = script.DEMO.teacher.weights.read_bytes()
    for seed in config.seeds:
        for name, variant in variants.items():
            # changes where a run would differ, so that no result is taken for another's
            what = repr((variant.loss, variant.sizes, script.DEMO, teacher)).encode()
            parts = (name.replace(" ", ""), config.steps, config.crop, seed)
            tag = hashlib.sha256(what).hexdigest()[:8]
            folder = config.folder / "_".join(map(str, (*parts, tag)))
            work = functools.partial(train_and_measure, variant, seed, folder, config)
            results[name].append(stored_result(folder, work))
    return results


def summary(results: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """A row for each variant: means over the seeds, and its gain over the first, seed by seed."""
    rows, first = [], next(iter(results.values()))
    for name, runs in results.items():
        gains = [a["psnr_student"] - b["psnr_student"] for a, b in zip(runs, first, strict=True)]
        row: dict[str, Any] = {"variant": name}
        for metric in ("psnr_student", "ssim_student"):
            row[metric] = statistics.mean(run[metric] for run in runs)
        row |= {"gain": statistics.mean(gains)}
        row |= {"spread": statistics.stdev(gains) if len(gains) > 1 else 0.0}
        rows.append(row)
    return rows


def main(config: AblationConfig) -> None:
    variants = losses(config) if config.compare == "losses" else blocks()
    results, first = results_of(variants, config), next(iter(variants))
    blurry = results[first][0]["psnr_blurry"]
    print(f"\nblurred {blurry:.3f} dB, SSIM {results[first][0]['ssim_blurry']:.4f}")
    print(f"{len(config.seeds)} seeds    PSNR dB    SSIM   gain over {first}, mean +- deviation")
    rows = summary(results)
    for row in rows:
        print(f"{row['variant']:<22}{row['psnr_student']:8.3f} {row['ssim_student']:8.4f}", end="")
        print(f"   {row['gain']:+.3f} +- {row['spread']:.3f}")
    settings = {k: str(v) for k, v in dataclasses.asdict(config).items()}
    print(json.dumps({**settings, "blurry": blurry, "rows": rows}))


if __name__ == "__main__":
    sys.exit(run_tool(main, AblationConfig, __doc__))
