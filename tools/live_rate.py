"""Rate, latency and memory of `--live` on a file that plays as a camera: `tools/live_rate.py`.

The clip is a photograph that moves sideways. Latency is the time from the decoded frame to the
moment at which the output has taken the picture. A load above what the machine carries shows
whether latency and memory stay flat: `--camera-rate 60 --lowest-rate 1 --seconds 60`.
"""

import dataclasses
import functools
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import main_sharpening_script as script
from sharpening.image_pairs import demo_frame
from sharpening.live import Frame, LiveConfig, Output, fastest, run_live
from sharpening.runtime import start_runtime
from tools.common import run_tool
from tools.machine import conditions, memory_line


@dataclass(frozen=True)
class LiveRateConfig:
    size: tuple[int, int] = (640, 360)
    """Width and height of the camera's picture."""
    camera_rate: int = 30
    """Frames per second of the camera."""
    lowest_rate: float = 24.0
    """`--live-config.rate`; 1 keeps the full size, however slow it is."""
    seconds: float = 30.0
    """Length of the measurement, of which the first 5 are not counted."""
    backend: Literal["auto", "pytorch", "openvino", "openvino-int8"] = "auto"
    """`--inference.backend`."""


UNCOUNTED = 5.0  # seconds, in which OpenVINO compiles for the size and the level settles


class Meter(Output):
    """Notes when each frame is shown, its latency and the memory in use; ends after a time."""

    def __init__(self, seconds: float):
        self.seconds, self.begun, self.notes = seconds, 0.0, []

    def show(self, frame: Frame) -> None:
        now, memory = time.monotonic(), memory_line("VmRSS") / 2**20
        self.begun = self.begun or now
        self.notes.append((now - self.begun, 1000 * (now - frame.captured), memory))

    def pressed(self) -> str:
        return "q" if self.begun and time.monotonic() - self.begun > self.seconds else ""

    def rows(self, parts: int = 5) -> list[dict[str, float]]:
        """Rate, median latency and memory of equal parts of the counted time."""
        length, rows = (self.seconds - UNCOUNTED) / parts, []
        for start in np.linspace(UNCOUNTED, self.seconds, parts, endpoint=False):
            inside = [note[1:] for note in self.notes if start <= note[0] < start + length]
            late, memory = np.array(inside).reshape(-1, 2).T
            row = {"from_s": start, "fps": len(inside) / length, "latency_ms": np.median(late)}
            row |= {"latency_ms_p90": np.quantile(late, 0.9), "mib": max(memory)} if inside else {}
            rows.append(row)
        return rows


def write_clip(path: Path, size: tuple[int, int], rate: int, seconds: int = 4) -> None:
    wide = demo_frame(size[1], size[0] + 2 * rate * seconds)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"tune": "fastdecode"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for left in range(0, 2 * rate * seconds, 2):
            view = np.ascontiguousarray(wide[:, left : left + size[0]])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view)))
        container.mux(stream.encode())


def main(config: LiveRateConfig) -> None:
    meter, settings = Meter(config.seconds), script.InferenceConfig(backend=config.backend)
    load = functools.partial(script.Sharpener.load, script.SHIPPED_STUDENTS["live"])
    with start_runtime() as runtime, tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_clip(clip, config.size, config.camera_rate)
        live = LiveConfig(camera=str(clip), rate=config.lowest_rate, repeat=True)
        report = run_live(fastest(load, runtime, settings), live, output=meter)
        under = conditions(runtime.device.type)
    result = dataclasses.asdict(config) | under | {"rows": meter.rows()}
    for row in result["rows"]:
        print(", ".join(f"{name} {value:.1f}" for name, value in row.items()))
    print(json.dumps(result | dataclasses.asdict(report)))


if __name__ == "__main__":
    sys.exit(run_tool(main, LiveRateConfig, __doc__))
