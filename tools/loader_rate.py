"""Crops per second of the loader alone, of training, and of the same training on data in memory.

`python tools/loader_rate.py --data.root DIR [--steps 30] [--repeats 3]` takes the flags of the main
script. Where training never waits for data it is as fast as on a held batch: the ratio is 1. What
it writes is thrown away; the last line is JSON.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import main_sharpening_script as script
from tools.common import exit_status
from tools.machine import conditions, peak_resident

HELD_BATCHES = 8  # enough to hold synthetic and real blur about as often as the loop meets them


@dataclass(frozen=True)
class RateConfig:
    steps: int = 30
    """Optimizer steps that are timed in each run, after as many that are not."""
    repeats: int = 3
    """Runs of each kind, in turn; the medians count."""


def loader_rate(
    dataset: script.GoProSharpeningDataset, runtime: script.Runtime, steps: int
) -> float:
    """Crops per second of the workers alone, after the first batches."""
    batches = script.training_batches(dataset, 0, runtime)
    for _ in range(8):
        next(batches)
    start, count = time.perf_counter(), 4 * steps
    for _ in range(count):
        next(batches)
    return count * dataset.config.batch_size / (time.perf_counter() - start)


def sources(
    dataset: script.GoProSharpeningDataset, config: script.Config, runtime: script.Runtime
) -> dict[str, dict[str, Callable]]:
    """Where each kind of run has its batches from -> functions of the script that it replaces.

    No run decodes the cache again or evaluates. `held` trains on one batch as it comes out of
    `prepare_batch`, `held_with_blur` on a few as the loader gives them: only loading is left out.
    """
    loaded = list(itertools.islice(script.training_batches(dataset, 0, runtime), HELD_BATCHES))
    ready = script.prepare_batch(loaded[0], config, runtime.device)
    loop = {"fill_cache": lambda *_: dataset.cache, "evaluate_training": lambda *_: None}
    held = loop | {"training_batches": lambda *_: (batch for batch in itertools.cycle(loaded))}
    return {
        "loop": loop,
        "held": held | {"prepare_batch": lambda *_: ready},
        "held_with_blur": held,
    }


def training_rate(
    config: script.Config, runtime: script.Runtime, steps: int, replaced: dict[str, Callable]
) -> dict[str, float | None]:
    """Crops per second of one training with these functions replaced in the script, its share of
    time spent waiting for data, and the most memory that its process holds, MiB."""
    with tempfile.TemporaryDirectory() as folder:
        short = dataclasses.replace(
            config.train,
            epochs=1,
            steps_per_epoch=2 * steps,
            log_every=steps,
            save_every=2 * steps,  # nothing is saved while the clock runs
            folder=Path(folder),
            samples=Path(folder) / "samples",
        )
        job = dataclasses.replace(config, train=short)
        with mock.patch.multiple(script, **replaced):
            held = peak_resident(lambda: script.train(job, runtime))
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    steady = json.loads(lines[-1])
    rates = {key: steady[key] for key in ("crops_per_second", "waiting_for_data")}
    return rates | {"peak_mib": held and held[1]}


def measure(config: script.Config, runtime: script.Runtime, rate: RateConfig) -> dict[str, Any]:
    """Every rate, in turn; the peak is that of the first run, before any other left memory."""
    pairs = script.split_pairs(config, "train")
    dataset = script.GoProSharpeningDataset(pairs, config.data, config.train.seed)
    alone = loader_rate(dataset, runtime, rate.steps)
    kinds = sources(dataset, config, runtime)
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for _ in range(rate.repeats):
        for kind, replaced in kinds.items():
            runs[kind].append(training_rate(config, runtime, rate.steps, replaced))
    rounds = {kind: [run["crops_per_second"] for run in runs[kind]] for kind in kinds}
    middle = {kind: statistics.median(values) for kind, values in rounds.items()}
    return {
        "loader_crops_per_second": alone,
        "crops_per_second": middle["loop"],
        "held_crops_per_second": middle["held"],
        "held_with_blur_crops_per_second": middle["held_with_blur"],
        "ratio_to_held": middle["loop"] / middle["held"],
        "ratio_to_held_with_blur": middle["loop"] / middle["held_with_blur"],
        "waiting_for_data": statistics.median(run["waiting_for_data"] for run in runs["loop"]),
        "peak_mib": runs["loop"][0]["peak_mib"],
        "rounds": rounds,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    if "--help" in (sys.argv[1:] if arguments is None else arguments):
        print(__doc__)  # below, the flags of the script
    rate, flags = tyro.cli(RateConfig, args=arguments, return_unknown_args=True, add_help=False)
    config = script.read_config(flags)
    with script.start_runtime(config) as runtime:
        result = measure(config, runtime, rate)
    result |= {
        "crop": config.data.crop,
        "batch": config.data.batch_size,
        **dataclasses.asdict(rate),
    }
    result |= {"device": script.device_name(runtime), "dtype": runtime.precision}
    print(f"crops of {config.data.crop} pixels per second on {result['device']}, {result['dtype']}")
    names = {"": "training", "held_": "on one batch in memory", "held_with_blur_": "blurred anew"}
    for kind, name in {"loader_": "loader alone", **names}.items():
        ratio = result.get(f"ratio_to_{kind}".removesuffix("_"))
        against = "" if ratio is None else f"   training is {ratio:.3f} of it"
        print(f"  {name:<24} {result[f'{kind}crops_per_second']:9.1f}{against}")
    peak = "unknown" if result["peak_mib"] is None else f"{result['peak_mib']:.0f} MiB"
    print(f"waiting for data {result['waiting_for_data']:.1%} of training, peak memory {peak}")
    print(json.dumps(result | conditions(runtime.device.type)))


if __name__ == "__main__":
    sys.exit(exit_status(main))
