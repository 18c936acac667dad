"""Files per second of `--infer` against its slowest stage: `tools/pipeline_rate.py CHECKPOINT`.

For folders of 720p PNG and of 12-megapixel JPEG: reading, computing and writing alone, with the
threads they have in the pipeline, and all three overlapping as `--infer` runs them. For a 720p
video: decoding with encoding, computing, and both. Where the network computes on the CPU, the
stages share its cores: `bound` is the rate at which every core would always be busy with them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import tyro
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import main_sharpening_script as script
from sharpening import media_files
from tools.common import run_tool
from tools.machine import conditions


@dataclass(frozen=True)
class PipelineConfig:
    checkpoint: tyro.conf.Positional[Path]
    """Student to run."""
    png: int = 48
    """720p PNG files."""
    jpeg: int = 6
    """12-megapixel JPEG files."""
    frames: int = 96
    """Frames of the 720p video."""
    rounds: int = 2
    """Measurements of each stage and of the whole, in turn; medians are shown."""
    backend: Literal["auto", "pytorch", "compiled", "openvino", "openvino-int8"] = "auto"
    """`--infer-config.backend`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"


def write_images(folder: Path, count: int, size: tuple[int, int], suffix: str) -> None:
    """`count` equal photographs of (height, width)."""
    folder.mkdir()
    image = Image.fromarray(script.demo_frame(*size))
    image.save(folder / f"0{suffix}", quality=95)
    for index in range(1, count):
        (folder / f"{index}{suffix}").write_bytes((folder / f"0{suffix}").read_bytes())


def write_video(path: Path, count: int) -> None:
    """A 720p video that moves sideways over a photograph."""
    path.parent.mkdir()
    wide = script.demo_frame(720, 1280 + 4 * count)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for index in range(count):
            view = wide[:, 4 * index : 4 * index + 1280].copy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view)))
        container.mux(stream.encode())


def computing(run: script.FileRun, image: np.ndarray, count: int) -> None:
    """The network on `count` images: side by side, or large ones one after the other in tiles."""
    if script.pick_tile(image.shape, run.settings, run.runtime):
        for _ in range(count):
            run.compute([image])
    else:
        with script.streams(run.runtime) as pool:
            for done in [pool.submit(run.compute, [image]) for _ in range(count)]:
                done.result()


def image_stages(run: script.FileRun, jobs: list[Any]) -> dict[str, Callable[[], Any]]:
    """Reading, computing and writing of all `jobs`, each alone."""
    picture = run.read(jobs[0])

    def in_threads(work: Callable) -> None:
        with script.thread_pool(run.threads) as pool:
            for _, done in script.ahead(pool, work, jobs, run.depth):
                done.result()

    return {
        "read": lambda: in_threads(run.read),
        "compute": lambda: computing(run, picture.rgb, len(jobs)),
        "write": lambda: in_threads(lambda job: run.write(job, picture, lambda: [picture.rgb])),
    }


def video_stages(run: script.FileRun, jobs: list[Any]) -> dict[str, Callable[[], Any]]:
    """Decoding with encoding, and computing, of the frames of the one job, each alone."""
    frame = script.demo_frame(720, 1280)
    count = media_files.frame_count_hint(jobs[0].source)
    media = (jobs[0].source, jobs[0].target, iter)
    return {
        "codec": lambda: media_files.transform_video(*media, crf=run.settings.crf),
        "compute": lambda: computing(run, frame, count),
    }


def measure(
    net: script.Net, folder: Path, runtime: script.Runtime, rounds: int
) -> tuple[dict[str, float], float]:
    """Seconds of each stage alone and of the whole, and those in which the cores could do the work
    of all stages; medians."""
    job = script.Config(input=folder, output=folder.parent / f"{folder.name}_out", overwrite=True)
    plan = script.plan_files(job)
    run = script.FileRun(net, runtime, job.infer_config, quiet=True)
    kind = video_stages if plan.jobs[0].kind == "video" else image_stages
    works = kind(run, plan.jobs)
    works["all"] = lambda: script.sharpen_files(net, plan, job.infer_config, runtime, quiet=True)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    busy: dict[str, list[float]] = {name: [] for name in works}
    for index in range(rounds + 1):  # the first warms up
        for name, work in works.items():
            start, begun = time.perf_counter(), time.process_time()
            work()
            if index:
                seconds[name].append(time.perf_counter() - start)
                busy[name].append(time.process_time() - begun)
    work = sum(statistics.median(values) for name, values in busy.items() if name != "all")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return medians, work / len(os.sched_getaffinity(0))


def main(config: PipelineConfig) -> None:
    settings = script.InferConfig(backend=config.backend)
    with (
        script.start_runtime(script.Config(device=config.device)) as runtime,
        tempfile.TemporaryDirectory() as name,
    ):
        net = script.deployed(script.load_student(config.checkpoint), settings, runtime)
        folders = {kind: Path(name) / kind for kind in ("png", "jpeg", "video")}
        write_images(folders["png"], config.png, (720, 1280), ".png")
        write_images(folders["jpeg"], config.jpeg, (3000, 4000), ".jpg")
        write_video(folders["video"] / "a.mp4", config.frames)
        counts = {"png": config.png, "jpeg": config.jpeg, "video": config.frames}
        rows = []
        for kind, folder in folders.items():
            seconds, bound = measure(net, folder, runtime, config.rounds)
            rates = {stage: counts[kind] / value for stage, value in seconds.items()}
            slowest = min((rate, stage) for stage, rate in rates.items() if stage != "all")
            share = rates["all"] / slowest[0]
            row = {"kind": kind, **rates, "slowest": slowest[1], "share": share}
            shown = ", ".join(f"{stage} {rate:.2f}" for stage, rate in rates.items())
            shown += f"; {share:.2f} of the slowest, {slowest[1]}"
            if runtime.device.type == "cpu":
                row |= {"bound": counts[kind] / bound, "share_of_bound": bound / seconds["all"]}
                shown += f"; bound {row['bound']:.2f}, {row['share_of_bound']:.2f} of it"
            rows.append(row)
            print(f"{kind:<6} per second: {shown}")
        under = conditions(runtime.device.type)
    print(
        json.dumps(
            {**dataclasses.asdict(config), "checkpoint": str(config.checkpoint)}
            | under
            | {"rows": rows}
        )
    )


if __name__ == "__main__":
    sys.exit(run_tool(main, PipelineConfig, __doc__))
