"""Files per second of `--infer` against its slowest stage: `tools/pipeline_rate.py CHECKPOINT`.

For folders of 720p PNG and of 12-megapixel JPEG: reading alone and writing alone with the threads
they have in the pipeline, the network alone, and all three overlapping as `--infer` runs them. For
a 720p video: decoding and encoding without the network, the network alone, and both.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import tyro
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import main_sharpening_script as script
import media_files
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
    backend: str = "auto"
    """`--infer-config.backend`."""
    device: str = "auto"
    """cpu, cuda, or auto."""


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


def image_stages(run: script.FileRun, jobs: list[Any]) -> dict[str, Callable[[], Any]]:
    """Reading, computing and writing of all `jobs`, each alone."""
    pictures = [run.read(job) for job in jobs[:1]] * len(jobs)

    def in_threads(work: Callable, items: list[Any]) -> None:
        with script.thread_pool(run.threads) as pool:
            for _, done in script.ahead(pool, work, items, run.depth):
                done.result()

    return {
        "read": lambda: in_threads(run.read, jobs),
        "compute": lambda: [run.compute([picture.rgb]) for picture in pictures],
        "write": lambda: in_threads(lambda job: run.write(job, pictures[0], pictures[0].rgb), jobs),
    }


def video_stages(run: script.FileRun, jobs: list[Any]) -> dict[str, Callable[[], Any]]:
    """Decoding with encoding, and computing, of the frames of the one job, each alone."""
    frame = script.demo_frame(720, 1280)
    count = media_files.frame_count_hint(jobs[0].source)
    media = (jobs[0].source, jobs[0].target, iter)
    return {
        "codec": lambda: media_files.transform_video(*media, crf=run.settings.crf),
        "compute": lambda: [run.compute([frame]) for _ in range(count)],
    }


def measure(
    net: script.Net, folder: Path, runtime: script.Runtime, rounds: int
) -> dict[str, float]:
    """Seconds of each stage alone and of the whole, medians."""
    job = script.Config(input=folder, output=folder.parent / f"{folder.name}_out", overwrite=True)
    plan = script.plan_files(job)
    run = script.FileRun(net, runtime, job.infer_config, quiet=True)
    kind = video_stages if plan.jobs[0].kind == "video" else image_stages
    works = kind(run, plan.jobs)
    works["all"] = lambda: script.sharpen_files(net, plan, job.infer_config, runtime, quiet=True)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for index in range(rounds + 1):  # the first warms up
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if index:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


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
            seconds = measure(net, folder, runtime, config.rounds)
            rates = {stage: counts[kind] / value for stage, value in seconds.items()}
            slowest = min((rate, stage) for stage, rate in rates.items() if stage != "all")
            share = rates["all"] / slowest[0]
            rows.append({"kind": kind, **rates, "slowest": slowest[1], "share": share})
            shown = ", ".join(f"{stage} {rate:.2f}" for stage, rate in rates.items())
            print(f"{kind:<6} per second: {shown}; {share:.2f} of the slowest, {slowest[1]}")
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
