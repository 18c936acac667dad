"""What each term of the loss is worth at equal budget: `python tools/ablation.py`.

Trains a student with L1 alone, with L1 and each other term, and with all, on the demo's photographs
and blur, where the small teacher that ships is better than a student of as few steps; the seeds
(initial weights, crops, blur) are the same for every variant. Finished runs are kept in `--folder`
and not repeated. The perceptual term joins in where VGG-19 weights are given.
"""

from __future__ import annotations

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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import main_sharpening_script as script
from sharpening.media_files import atomic_write
from tools.common import run_tool

WEIGHTS = {"feature": 1.0, "kl": 0.01, "ssim": 10.0, "frequency": 1.0}
"""Weight of each term beside L1 of weight 1: the starting values of the published formula,
and `frequency`, which it lacks."""


@dataclass(frozen=True)
class AblationConfig:
    folder: Path = Path("runs/ablation")
    """Where each run keeps its student and its figures."""
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


def variants(config: AblationConfig) -> dict[str, script.LossConfig]:
    """Name -> loss: L1 alone, with each term, with all, with less of the features, no teacher."""
    terms = WEIGHTS | ({"perceptual": 0.01} if config.vgg_weights else {})
    off = dict.fromkeys(script.LOSS_TERMS, 0.0) | {"recon": 1.0}
    chosen = {"L1": {}, **{f"+ {name}": {name: weight} for name, weight in terms.items()}}
    chosen["all"] = terms
    chosen |= {f"all, feature {w}": terms | {"feature": w} for w in (0.1, 0.01)}
    chosen["ssim, frequency"] = {name: terms[name] for name in ("ssim", "frequency")}
    return {
        name: script.LossConfig(**off | weights, vgg_weights=config.vgg_weights)
        for name, weights in chosen.items()
    }


def train_and_measure(
    loss: script.LossConfig, seed: int, folder: Path, config: AblationConfig
) -> dict[str, float]:
    """PSNR and SSIM of one run of `script.build_network` on the demo's test photographs."""
    demo = script.DEMO
    train = dataclasses.replace(
        demo.train,
        epochs=1,
        steps_per_epoch=config.steps,
        evaluate_every=2,
        seed=seed,
        folder=folder,
        samples=folder / "samples",
    )
    run = dataclasses.replace(
        demo,
        device=config.device,
        student=config.student,
        data=dataclasses.replace(demo.data, crop=config.crop),
        teacher=dataclasses.replace(demo.teacher, enabled=bool(loss.teacher_terms)),
        loss=loss,
        train=train,
    )
    with script.start_runtime(run) as runtime:
        final = script.train(run, runtime)
        student = script.build_network(run).to(runtime.device).eval()
        script.load_strictly(student, script.network_weights(script.load_checkpoint(final)), final)
        images = script.TestImages(script.split_pairs(run, "test"), run)
        return script.evaluate_quality({"student": student}, images, runtime)


def digest(*what: Any) -> str:
    """Changes where a run would differ, so that its kept result is not taken for another's."""
    return hashlib.sha256(repr(what).encode()).hexdigest()[:8]


def kept_result(folder: Path, work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What `work` returns, or returned before, by the result.json in its `folder`."""
    done = folder / "result.json"
    if not done.exists():
        result = work()
        with atomic_write(done) as temporary:  # half a file would count as finished
            temporary.write_text(json.dumps(result))
    return json.loads(done.read_text())


def summary(results: dict[str, list[dict[str, float]]], kind: str = "loss") -> list[dict[str, Any]]:
    """A row for each variant: means over the seeds, and its gain over the first, seed by seed."""
    rows, first = [], next(iter(results.values()))
    for name, runs in results.items():
        gains = [a["psnr_student"] - b["psnr_student"] for a, b in zip(runs, first, strict=True)]
        row: dict[str, Any] = {kind: name}
        for metric in ("psnr_student", "ssim_student"):
            row[metric] = statistics.mean(run[metric] for run in runs)
        row |= {"gain": statistics.mean(gains)}
        row |= {"spread": statistics.stdev(gains) if len(gains) > 1 else 0.0}
        rows.append(row)
    return rows


def main(config: AblationConfig) -> None:
    results: dict[str, list[dict[str, float]]] = {name: [] for name in variants(config)}
    teacher = script.DEMO.teacher.weights.read_bytes()
    for seed in config.seeds:
        for name, loss in variants(config).items():
            what = digest(loss, config.student, script.DEMO, teacher)
            run = f"{name.replace(' ', '')}_{config.steps}_{config.crop}_{seed}_{what}"
            folder = config.folder / run
            work = functools.partial(train_and_measure, loss, seed, folder, config)
            results[name].append(kept_result(folder, work))
    rows = summary(results)
    blurry = results["L1"][0]
    print(f"\nblurred {blurry['psnr_blurry']:.3f} dB, SSIM {blurry['ssim_blurry']:.4f}")
    print(f"{len(config.seeds)} seeds            PSNR dB    SSIM   gain over L1, mean +- deviation")
    for row in rows:
        print(f"{row['loss']:<18} {row['psnr_student']:8.3f} {row['ssim_student']:8.4f}", end="")
        print(f"   {row['gain']:+.3f} +- {row['spread']:.3f}")
    settings = {k: str(v) for k, v in dataclasses.asdict(config).items()}
    print(json.dumps({**settings, "blurry": blurry["psnr_blurry"], "rows": rows}))


if __name__ == "__main__":
    sys.exit(run_tool(main, AblationConfig, __doc__))
