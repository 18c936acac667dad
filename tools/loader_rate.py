"""Crops per second of the loader alone and of training, for the data set and settings given.

`python tools/loader_rate.py --data.root DIR` takes the flags of the main script. Training is
measured on a copy that is thrown away; nothing is written but the last line, JSON.
"""

import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import main_sharpening_script as script  # noqa: E402

STEPS = 30


def loader_rate(config: script.Config, runtime: script.Runtime) -> float:
    """Crops per second of the workers alone, after the first batches."""
    pairs = script.split_pairs(config, "train")
    dataset = script.GoProSharpeningDataset(pairs, config.data, config.train.seed)
    batches = script.training_batches(dataset, 0, runtime)
    for _ in range(8):
        next(batches)
    start, count = time.perf_counter(), 4 * STEPS
    for _ in range(count):
        next(batches)
    return count * config.data.batch_size / (time.perf_counter() - start)


def training_rate(config: script.Config, runtime: script.Runtime) -> dict[str, float]:
    """Crops per second of the whole loop, and its share of time spent waiting for data."""
    with tempfile.TemporaryDirectory() as folder:
        short = dataclasses.replace(
            config.train,
            epochs=2,
            steps_per_epoch=STEPS,
            log_every=STEPS,
            evaluate_every=10**6,
            folder=Path(folder),
            samples=Path(folder) / "samples",
        )
        script.train(dataclasses.replace(config, train=short), runtime)
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    steady = [json.loads(line) for line in lines if "crops_per_second" in line][-1]
    return {key: steady[key] for key in ("crops_per_second", "waiting_for_data")}


def main() -> None:
    config = script.read_config()
    with script.start_runtime(config) as runtime:
        alone = loader_rate(config, runtime)
        training = training_rate(config, runtime)
        device = script.device_name(runtime)
    print(f"loader alone {alone:8.1f} crops/s of {config.data.crop} pixels")
    print(f"training     {training['crops_per_second']:8.1f} crops/s on {device}")
    print(json.dumps({"loader_crops_per_second": alone, **training, "device": device}))


if __name__ == "__main__":
    main()
