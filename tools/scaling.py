"""What several processes should gain, on paper: `python tools/scaling.py --train.accumulation 4`.

Takes the flags of the main script. Measured: seconds of one optimizer step on this device, from
blurring to Adam, without waiting for data. Known: bytes of the gradients. Assumed: a ring
all-reduce, 2 (n - 1) / n times the gradients through the slowest link, after the backward pass
(DistributedDataParallel hides a part of it behind that).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import main_sharpening_script as script
from tools.common import exit_status
from tools.loader_rate import training_rate

STEPS = 20
LINKS = {"NVLink 4": 300e9, "PCIe 5": 40e9, "100 Gbit/s": 10e9, "10 Gbit/s": 1e9}
"""Bytes per second that all-reduce reaches, about two thirds of the nominal rate."""
PROCESSES = (2, 4, 8, 16, 32)


def main(arguments: Sequence[str] | None = None) -> None:
    config = script.read_config(arguments)
    with script.start_runtime(config) as runtime:
        replaced = {"evaluate_training": lambda *_: None}
        found = training_rate(config, runtime, STEPS, replaced)
        crops = config.data.batch_size * config.train.accumulation
        seconds = crops / found["crops_per_second"] * (1 - found["waiting_for_data"])
        device = script.device_name(runtime)
    gradients = 4.0 * script.parameters(script.build_network(config))
    print(f"\none step {seconds * 1e3:.1f} ms on {device}, gradients {gradients / 1e6:.1f} MB")
    print("share of linear speed-up by processes and slowest link:")
    print(f"{'':<12}", *(f"{n:>7}" for n in PROCESSES))
    shares: dict[str, dict[int, float]] = {}
    for name, rate in LINKS.items():
        waits = {n: 2 * (n - 1) / n * gradients / rate for n in PROCESSES}
        shares[name] = {n: seconds / (seconds + wait) for n, wait in waits.items()}
        print(f"{name:<12}", *(f"{share:7.3f}" for share in shares[name].values()))
    result = {"step_seconds": seconds, "gradient_bytes": gradients, "device": device}
    print(json.dumps(result | {"share_of_linear": shares}))


if __name__ == "__main__":
    sys.exit(exit_status(main))
