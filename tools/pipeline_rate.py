"""Files per second of `--infer` against its slowest stage: `tools/pipeline_rate.py CHECKPOINT`.

For folders of 720p PNG and of 12-megapixel JPEG: reading, computing and writing alone, with the
threads they have in the pipeline, and all three overlapping as `--infer` runs them. For a 720p
video: decoding with encoding, computing, and both. Where the network computes on the CPU, the
stages share its cores: `bound` is the rate at which every core would always be busy with them.
"""

import dataclasses
import json
import math
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
from sharpening import SharpeningError
from sharpening.file_inference import FileRun, Plan, plan_jobs, sharpen_files
from sharpening.image_pairs import demo_frame
from sharpening.runtime import prefetch, side_by_side, start_runtime, thread_pool
from sharpening.video_files import frame_count_hint, transform_video
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
    """`--inference.backend`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"


def write_images(folder: Path, count: int, size: tuple[int, int], suffix: str) -> None:
    """`count` equal photographs of (height, width)."""
    folder.mkdir()
    Image.fromarray(demo_frame(*size)).save(folder / f"0{suffix}", quality=95)
    for index in range(1, count):
        (folder / f"{index}{suffix}").write_bytes((folder / f"0{suffix}").read_bytes())


def write_video(path: Path, count: int) -> None:
    """A 720p video that moves sideways over a photograph."""
    path.parent.mkdir()
    wide = demo_frame(720, 1280 + 4 * count)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for index in range(count):
            view = wide[:, 4 * index : 4 * index + 1280].copy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view)))
        container.mux(stream.encode())


def computing(run: FileRun, image: np.ndarray, count: int) -> None:
    """The network on `count` images: side by side, or large ones one after the other in tiles."""
    if run.in_tiles(image.shape):
        for _ in range(count):
            run.sharpen([image])
    else:
        with side_by_side(run.runtime) as pool:
            for done in [pool.submit(run.sharpen, [image]) for _ in range(count)]:
                done.result()


def image_stages(run: FileRun, jobs: list[Any]) -> dict[str, Callable[[], Any]]:
    """Reading, computing and writing of all `jobs`, each alone."""
    picture = run.read(jobs[0])

    def in_threads(work: Callable) -> None:
        with thread_pool(run.threads) as pool:
            for _, done in prefetch(pool, work, jobs, run.depth):
                done.result()

    return {
        "read": lambda: in_threads(run.read),
        "compute": lambda: computing(run, picture.rgb, len(jobs)),
        "write": lambda: in_threads(lambda job: run.write(job, picture, lambda: [picture.rgb])),
    }


def video_stages(run: FileRun, jobs: list[Any]) -> dict[str, Callable[[], Any]]:
    """Decoding with encoding, and computing, of the frames of the one job, each alone."""
    source, target = jobs[0].source, jobs[0].target
    frame, count = demo_frame(720, 1280), frame_count_hint(source)
    return {
        "codec": lambda: transform_video(source, target, iter, crf=run.settings.crf),
        "compute": lambda: computing(run, frame, count),
    }


def plan_of(folder: Path) -> Plan:
    """The files of `folder`, to be sharpened into a folder beside it."""
    return plan_jobs(folder, folder.parent / f"{folder.name}_out", overwrite=True)


def run_all(sharpen: script.Sharpener, plan: Plan) -> None:
    """Reading, computing and writing at the same time. Raises SharpeningError if a file fails."""
    in_tiles, settings = tiles_of(sharpen), (sharpen.images, sharpen.runtime, sharpen.config)
    if failures := sharpen_files(plan, *settings, in_tiles=in_tiles, quiet=True):
        name = plan.jobs[0].source.parent.name
        raise SharpeningError(f"the measurement of {name} failed: {failures[0]}")


def tiles_of(sharpen: script.Sharpener) -> Callable[[tuple[int, ...]], bool]:
    """Whether images of a shape are cut into tiles."""
    return lambda shape: sharpen.tile(shape) is not None


def measure(sharpen: script.Sharpener, folder: Path, rounds: int) -> tuple[dict[str, float], float]:
    """Seconds of each stage alone and of the whole, and those in which the cores could do the work
    of all stages; medians."""
    plan = plan_of(folder)
    run = FileRun(sharpen.images, tiles_of(sharpen), sharpen.runtime, sharpen.config, True, [])
    works = (video_stages if plan.jobs[0].kind == "video" else image_stages)(run, plan.jobs)
    works["all"] = lambda: run_all(sharpen, plan)
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


def row_of(sharpen: script.Sharpener, folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """Files or frames per second of each stage and of the whole, and its share of the slowest."""
    seconds, bound = measure(sharpen, folder, rounds)
    rates = {stage: count / value for stage, value in seconds.items()}
    slowest = min((rate, stage) for stage, rate in rates.items() if stage != "all")
    row = {"kind": folder.name, **rates, "slowest": slowest[1], "share": rates["all"] / slowest[0]}
    if sharpen.runtime.device.type == "cpu":
        row |= {"bound": count / bound, "share_of_bound": bound / seconds["all"]}
    return row


def main(config: PipelineConfig) -> None:
    settings, rows = script.InferenceConfig(backend=config.backend), []
    with start_runtime(config.device) as runtime, tempfile.TemporaryDirectory() as name:
        sharpen = script.Sharpener.load(config.checkpoint, runtime, settings, math.inf)
        write_images(Path(name) / "png", config.png, (720, 1280), ".png")
        write_images(Path(name) / "jpeg", config.jpeg, (3000, 4000), ".jpg")
        write_video(Path(name) / "video" / "a.mp4", config.frames)
        for kind, count in {k: getattr(config, k) for k in ("png", "jpeg")}.items():
            rows.append(row_of(sharpen, Path(name) / kind, count, config.rounds))
        rows.append(row_of(sharpen, Path(name) / "video", config.frames, config.rounds))
        under = conditions(runtime.device.type)
    for row in rows:
        shown = (f"{n} {v:.2f}" if isinstance(v, float) else f"{n} {v}" for n, v in row.items())
        print(", ".join(shown))
    settings = {k: str(v) for k, v in dataclasses.asdict(config).items()}
    print(json.dumps(settings | under | {"rows": rows}))


if __name__ == "__main__":
    sys.exit(run_tool(main, PipelineConfig, __doc__))
