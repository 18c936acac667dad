"""What limits training: loading, the student's step or the teacher's pass.

    python tools/training_rate.py --data.root DIR --data.crop 128 --teacher.no-enabled
    python tools/training_rate.py --measure teacher --data.crop 128 --data.batch-size 1

loading: crops per second of the loader alone, of training, and of the same training on batches in
memory. Where training never waits for data it is as fast as on a held batch: the ratio is 1. What
it writes is thrown away. teacher: time of one pass of the teacher as published
(spandrel-extra-arches), of ours, in bf16 and compiled, and of the student's step, in turn on the
same crops. Flags beside those below are the script's.
"""

import contextlib
import dataclasses
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import main_sharpening_script as script
from sharpening.runtime import Runtime, require_package, start_runtime
from tools.common import exit_status, run_beside_script
from tools.machine import conditions, peak_resident, time_in_turn
from tools.networks import DTYPES

Batch = tuple[Tensor, ...]
HELD_BATCHES = 8  # enough to hold synthetic and real blur about as often as the loop meets them


@dataclass(frozen=True)
class RateConfig:
    measure: Literal["loading", "teacher"] = "loading"
    """What is timed beside the student's step."""
    steps: int = 30
    """Optimizer steps that are timed in each run, after as many that are not."""
    repeats: int = 3
    """Runs of each kind, in turn; the medians count."""
    teacher: str = "{}"
    """Arguments of the Restormer, JSON; the default is the released size."""
    rounds: int = 15
    """Timed passes of each, after three that are not; their medians count."""
    compiled: bool = True
    """Measure torch.compile too, which takes a C++ compiler and minutes."""


class Enough(Exception):
    """Ends a training after the steps that are timed, before it saves or evaluates."""


def limited(batches: Iterator[Batch], count: int) -> Iterator[Batch]:
    """The first `count` batches; the next one raises `Enough`."""
    with contextlib.closing(batches):
        yield from itertools.islice(batches, count)
    raise Enough


def loader_alone(
    config: script.Config, runtime: Runtime, steps: int
) -> tuple[float, list[Batch], Batch]:
    """Crops per second of the workers alone, some batches, and one that is blurred already."""
    pairs = script.split_pairs(config, "train")
    dataset = script.GoProSharpeningDataset(pairs, config.data, config.train.seed)
    with contextlib.closing(script.training_batches(dataset, 0, runtime)) as batches:
        loaded = list(itertools.islice(batches, HELD_BATCHES))
        start, count = time.perf_counter(), 4 * steps
        for _ in range(count):
            next(batches)
        rate = count * config.data.batch_size / (time.perf_counter() - start)
    settings = (config.degradation, config.train.seed, runtime.device)
    blurry = (script.prepare_batch(loaded[0], *settings)[0] * 255).round().byte().cpu()
    return rate, loaded, (blurry, *loaded[0][1:-1], torch.full_like(loaded[0][-1], -1))


def training_rate(
    config: script.Config, runtime: Runtime, steps: int, held: list[Batch] | None = None
) -> dict[str, float | None]:
    """Crops per second of one training on data as usual or on batches that are held, its share of
    time spent waiting for data, and the most memory that its process holds, MiB."""
    micros = 2 * steps * config.train.accumulation

    def load(*arguments: Any) -> Iterator[Batch]:
        endless = (batch for batch in itertools.cycle(held)) if held else None
        return limited(endless or script.training_batches(*arguments), micros)

    def run() -> None:
        with contextlib.suppress(Enough):
            script.train(job, runtime, load=load)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = {"epochs": 1, "steps_per_epoch": 2 * steps + 1, "save_every": 2 * steps + 1}
        plan |= {"log_every": steps, "folder": folder, "samples": folder / "samples"}
        job = dataclasses.replace(config, train=dataclasses.replace(config.train, **plan))
        if held:
            job = dataclasses.replace(job, data=dataclasses.replace(job.data, cache_gb=0))
        peak = peak_resident(run)
        steady = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    rates = {key: steady[key] for key in ("crops_per_second", "waiting_for_data")}
    return rates | {"peak_mib": peak and peak[1]}


def loading(config: script.Config, runtime: Runtime, rate: RateConfig) -> dict[str, Any]:
    """Every rate, in turn; the peak is that of the first run."""
    alone, loaded, ready = loader_alone(config, runtime, rate.steps)
    kinds = {"loop": None, "held": [ready], "held_with_blur": loaded}
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for _ in range(rate.repeats):
        for kind, held in kinds.items():
            runs[kind].append(training_rate(config, runtime, rate.steps, held))
    rounds = {kind: [run["crops_per_second"] for run in runs[kind]] for kind in kinds}
    middle = {kind: statistics.median(values) for kind, values in rounds.items()}
    result = {"loader_crops_per_second": alone, "crops_per_second": middle["loop"]}
    for kind in ("held", "held_with_blur"):
        result[f"{kind}_crops_per_second"] = middle[kind]
        result[f"ratio_to_{kind}"] = middle["loop"] / middle[kind]
    waiting = statistics.median(run["waiting_for_data"] for run in runs["loop"])
    result |= {"waiting_for_data": waiting, "peak_mib": runs["loop"][0]["peak_mib"]}
    return result | {"rounds": rounds, "steps": rate.steps}


def teachers(arguments: str, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """(published, ours) with the same random weights: time does not depend on them."""
    ours = script.Restormer(**json.loads(arguments))
    package = require_package("spandrel_extra_arches.architectures.Restormer")
    published = package.RestormerArch().load(ours.state_dict()).model
    ours = ours.to(memory_format=torch.channels_last)  # as restormer_from_weights has it
    return tuple(net.to(device).eval().requires_grad_(False) for net in (published, ours))


def run_once(net: nn.Module, blurry: Tensor, runtime: Runtime, training: bool = False) -> None:
    """Forward without gradients, or forward, L1 (any target costs this) and backward."""
    with torch.set_grad_enabled(training), runtime.autocast():
        restored = net(blurry)
    if training:
        nn.functional.l1_loss(restored.float(), 1 - blurry).backward()
        net.zero_grad(set_to_none=True)


def teacher_pass(config: script.Config, runtime: Runtime, rate: RateConfig) -> dict[str, Any]:
    """Milliseconds of the teacher's pass and of the student's step, and its share of both."""
    device, data = runtime.device, config.data
    published, ours = teachers(rate.teacher, device)
    student = script.build_network(config).to(device, memory_format=torch.channels_last)
    plain = torch.rand(data.batch_size, 3, data.crop, data.crop, device=device)
    blurry = plain.contiguous(memory_format=torch.channels_last)  # as prepare_batch gives it
    fp32, bf16 = (Runtime(device, DTYPES[name]) for name in ("fp32", "bf16"))
    works: dict[str, Callable] = {"published": partial(run_once, published, plain, fp32)}
    for kind, there in (("", fp32), ("_bf16", bf16)):
        works[f"ours{kind}"] = partial(run_once, ours, blurry, there)
        works[f"student_step{kind}"] = partial(run_once, student, blurry, there, training=True)
    if rate.compiled:
        compiled = fp32.compiled(ours, dynamic=False)
        works["ours_compiled"] = partial(run_once, compiled, blurry, fp32)
    seconds = time_in_turn(works, fp32, rate.rounds)
    ms = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    shares = [ms[f"ours{k}"] / (ms[f"ours{k}"] + ms[f"student_step{k}"]) for k in ("", "_bf16")]
    ratios = {name: ms["published"] / value for name, value in ms.items() if "step" not in name}
    result = {"ms": ms, "ratio_to_published": ratios, "teacher": json.loads(rate.teacher)}
    return result | {"teacher_share": shares[0], "teacher_share_bf16": shares[1]}


def main(rate: RateConfig, flags: list[str]) -> None:
    config = script.read_config(flags)
    measure = {"loading": loading, "teacher": teacher_pass}[rate.measure]
    with start_runtime(config.device, config.train.precision, config.train.seed) as runtime:
        result = measure(config, runtime, rate)
    result |= {"crop": config.data.crop, "batch": config.data.batch_size}
    result |= {"device": runtime.device_name, "dtype": runtime.precision}
    for name, value in result.items():
        print(f"{name:<32} {value}")
    print(json.dumps(result | conditions(runtime.device.type)))


if __name__ == "__main__":
    sys.exit(exit_status(lambda: run_beside_script(main, RateConfig, __doc__, sys.argv[1:])))
