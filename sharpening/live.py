"""Camera -> sharpened picture -> window, virtual camera or file, as it happens.

    report = run_live(sharpen, LiveConfig(camera="0", output="window"))

`sharpen` is any function from a picture (H, W, 3) uint8 to a sharper one; this module knows no
network. Three stages run at the same time: reading, computing, showing. Between two of them is
room for one frame, and a newer frame takes the place of one that waits. So nothing queues, the
latency does not grow, and a slow stage costs frames but holds no other stage up.

Sections: settings, frames and slots, camera, computing, outputs, stages, choosing what computes.
"""

import contextlib
import dataclasses
import functools
import math
import os
import signal
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

from sharpening import SharpeningError
from sharpening.image_pairs import demo_frame
from sharpening.media_files import atomic_write
from sharpening.runtime import Runtime, require_package, seconds_per_call
from sharpening.settings import check_limits
from sharpening.temporal_filter import TemporalFilter

Sharpen = Callable[[np.ndarray], np.ndarray]
"""A picture (H, W, 3) uint8 -> the sharpened one of the same size."""
Say = Callable[[str], object]

# --------------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LiveConfig:
    """Where the live picture comes from and where it goes."""

    camera: str = "0"
    """Number of a camera, its name for FFmpeg (/dev/video2, video=NAME on Windows), a file or a
    URL. A file plays at its own speed."""
    output: str = "window"
    """window, virtual (a camera that Zoom, Teams or OBS can choose) or the path of a new .mp4."""
    size: tuple[int, int] | None = None
    """Width and height to ask of the camera; None: what it gives by itself."""
    camera_rate: float | None = None
    """Frames per second to ask of the camera; None: what it gives by itself."""
    rate: float = 24.0
    """Frames per second that must be possible, otherwise less is computed, in steps. Off below
    half of it."""
    filter: bool = True
    """Average the result over time where nothing moves, against flicker."""
    repeat: bool = False
    """Play a file again and again."""

    def __post_init__(self) -> None:
        limits = {"size": (16, 16384), "camera_rate": (1, 1000), "rate": (1, 1000)}
        check_limits(self, limits, "live-config.")
        if self.output not in ("window", "virtual") and not self.output.endswith(".mp4"):
            raise ValueError(
                f"live-config.output must be window, virtual or end in .mp4: {self.output}"
            )


KEYS = "space: on/off, s: split view, + and -: strength, q: quit"


@dataclass
class Controls:
    """What the keys change while it runs."""

    strength: float = 1.0
    on: bool = True
    split: bool = False
    quit: bool = False

    def press(self, key: str) -> None:
        if key == " ":
            self.on = not self.on
        elif key == "s":
            self.split = not self.split
        elif key in "+=":
            self.strength = min(1.0, round(self.strength + 0.1, 1))
        elif key == "-":
            self.strength = max(0.0, round(self.strength - 0.1, 1))
        elif key in "q\x1b":
            self.quit = True


# --------------------------------------------------------------------------------------------------
# Frames and slots
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture on its way."""

    image: np.ndarray
    """(H, W, 3) uint8."""
    captured: float
    """When it came from the camera, in seconds of `time.monotonic`."""
    interval: float
    """Seconds since the frame before it."""


class Slot:
    """Room for one item between two threads. A newer item takes the place of one that waits."""

    def __init__(self) -> None:
        self.item: Frame | None = None
        self.closed, self.dropped = False, 0
        self.changed = threading.Condition()

    def put(self, item: Frame) -> None:
        with self.changed:
            self.dropped += self.item is not None
            self.item = item
            self.changed.notify()

    def take(self, timeout: float) -> Frame | None:
        """The newest item, or None if there is none within `timeout` seconds."""
        with self.changed:
            self.changed.wait_for(lambda: self.item is not None or self.closed, timeout)
            item, self.item = self.item, None
            return item

    def close(self) -> None:
        """No more items will come."""
        with self.changed:
            self.closed = True
            self.changed.notify()

    def ended(self) -> bool:
        """Whether no item waits and none will come."""
        with self.changed:
            return self.closed and self.item is None


# --------------------------------------------------------------------------------------------------
# Camera
# --------------------------------------------------------------------------------------------------

DEVICE_FORMATS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
OPEN_SECONDS, SILENT_SECONDS, RETRY_SECONDS = 10.0, 5.0, 1.0
LATEST = 0.5  # seconds that a file may lag behind its clock before the clock is set back


def device_of(camera: str, platform: str = sys.platform) -> tuple[str, str | None]:
    """(what FFmpeg opens, its input format) for a camera; for a file or URL the format is None."""
    kind = DEVICE_FORMATS.get(platform)
    if camera.isdecimal() and kind == "v4l2":
        return f"/dev/video{camera}", kind
    if camera.isdecimal() and kind == "dshow":
        names = [each.description for each in av.enumerate_input_devices(kind)]
        names = [name for name in names if name]
        if int(camera) >= len(names):
            found = ", ".join(names) or "none"
            raise SharpeningError(f"there is no camera {camera}: Windows lists {found}")
        return f"video={names[int(camera)]}", kind
    if camera.isdecimal() or camera.startswith(("/dev/video", "video=")):
        return camera, kind
    return camera, None


def open_camera(config: LiveConfig) -> av.container.InputContainer:
    """The opened camera, file or URL. Raises av.FFmpegError if it is not there."""
    name, kind = device_of(config.camera)
    options = {"fflags": "nobuffer"}
    if config.size and kind:
        options["video_size"] = f"{config.size[0]}x{config.size[1]}"
    if kind == "avfoundation" or (config.camera_rate and kind):  # macOS takes no rate by itself
        options["framerate"] = f"{config.camera_rate or 30:g}"
    if kind:
        return av.open(name, format=kind, options=options, timeout=(OPEN_SECONDS, SILENT_SECONDS))
    local = Path(name).exists()
    timeout = None if local else (OPEN_SECONDS, SILENT_SECONDS)
    return av.open(name, options={} if local else options, timeout=timeout)


def decoded(container: av.container.InputContainer) -> Iterator[av.VideoFrame]:
    """The frames of the first video stream; damaged ones are left out."""
    if not container.streams.video:
        raise SharpeningError(f"{container.name} holds no video: give another --live-config.camera")
    stream = container.streams.video[0]
    stream.thread_type = "SLICE"  # threads that take a frame each would delay every frame
    for packet in container.demux(stream):
        with contextlib.suppress(av.InvalidDataError):
            yield from packet.decode()


class Clock:
    """When each frame of a file is due, so that it plays at its own speed."""

    def __init__(self, stop: threading.Event):
        self.stop, self.offset, self.last = stop, None, 0.0

    def wait(self, frame: av.VideoFrame, step: float) -> None:
        """Sleep until `frame` is due. `step`: seconds per frame, for frames without a time."""
        at = self.last + step if frame.time is None else frame.time
        now, self.last = time.monotonic(), at
        early = at + (now - at if self.offset is None else self.offset) - now
        if self.offset is None or not -LATEST < early < OPEN_SECONDS:
            self.offset, early = now - at, 0.0
        self.stop.wait(max(0.0, early))


def camera_pictures(config: LiveConfig, stop: threading.Event) -> Iterator[np.ndarray]:
    """Pictures (H, W, 3) uint8 until the file ends or the camera is gone, which raises an error."""
    with open_camera(config) as container:
        finite = Path(config.camera).is_file() or container.duration is not None
        clock = Clock(stop) if finite else None
        for frame in decoded(container):
            if clock:
                clock.wait(frame, float(1 / (container.streams.video[0].average_rate or 25)))
            if stop.is_set():
                return
            yield frame.to_ndarray(format="rgb24")
    if not finite:
        raise EOFError("it gives no more frames")


def camera_frames(
    config: LiveConfig,
    stop: threading.Event,
    say: Say,
    pictures: Callable[..., Iterator[np.ndarray]] = camera_pictures,
) -> Iterator[Frame]:
    """Frames of the camera. When it goes away: says so, waits until it is back and goes on.

    Raises SharpeningError if it is not there at the very start.
    """
    count, gone, last = 0, False, time.monotonic()
    while not stop.is_set():
        before = count
        try:
            for image in pictures(config, stop):
                if gone:
                    say("the camera is back")
                now, gone = time.monotonic(), False
                yield Frame(image, now, now - last)
                count, last = count + 1, now
            if count == before and not stop.is_set():
                raise SharpeningError(f"{config.camera}: not one frame of it can be decoded")
            if not config.repeat:
                return
        except (av.FFmpegError, EOFError, OSError) as error:
            text = getattr(error, "strerror", None) or str(error)
            if count == 0:
                raise SharpeningError(
                    f"the camera {config.camera} cannot be opened ({text}): is it connected, and "
                    "not in use by another program? --live-config.camera takes another"
                ) from error
            if not gone:
                say(f"the camera is gone ({text}): waiting for it")
            gone = True
            stop.wait(RETRY_SECONDS)


# --------------------------------------------------------------------------------------------------
# Computing
# --------------------------------------------------------------------------------------------------

LEVELS = ((1, "full size"), (2, "half size"), (3, "a third of the size"), (0, "off"))
"""From most to least work: the residual is computed on a picture this many times smaller, then
enlarged and added to the full picture."""
OFF = len(LEVELS) - 1
MARGIN = 1.25  # a step up must promise this much more than the rate that is asked for
WINDOW, LEAST_FRAMES, UNCOUNTED = 2.0, 5, 3  # seconds; frames; first ones, which compile
OFF_FACTOR = 2  # it is switched off only where less work does not reach half of the rate
HOLD = 15.0  # seconds; a step up that lasts longer was right
PATIENCE = (4.0, 60.0)  # seconds until a step up is tried: the first time and at most


class RateControl:
    """How much to compute: the most that reaches `rate` frames per second, or the camera's rate
    if that is lower. The page in web/ follows the same rule.

    Down a level as soon as the median frame takes longer; to "off" only where it takes twice as
    long. Up again if the level above would, by
    its number of pixels, still reach MARGIN times the rate, and only after a while. Each time that
    a step up did not hold, the while doubles, so that it settles instead of swinging.
    """

    def __init__(self, rate: float, level: int = 0):
        self.rate, self.patience, self.raised = rate, PATIENCE[0], -math.inf
        self.enter(level, 0.0)

    def enter(self, level: int, now: float) -> None:
        self.level, self.frames, self.since = level, 0, now
        self.times: deque[tuple[float, float, float]] = deque()

    def frame(self, now: float, seconds: float, interval: float) -> bool:
        """Note that a frame was done at `now` and took `seconds`; the camera gives one every
        `interval` seconds -> whether the level changed."""
        if self.level == OFF:
            self.since = self.since or now
            return now - self.since > self.patience and self.up(now)
        self.frames += 1
        if self.frames <= UNCOUNTED:
            self.since = now
            return False
        self.times.append((now, seconds, interval))
        while len(self.times) > LEAST_FRAMES and self.times[0][0] < now - WINDOW:
            self.times.popleft()
        if len(self.times) < LEAST_FRAMES:
            return False
        _, seconds, interval = (
            statistics.median(column) for column in zip(*self.times, strict=True)
        )
        allowed = max(1 / self.rate, interval)
        if seconds > allowed * (OFF_FACTOR if self.level == OFF - 1 else 1):
            return self.down(now)
        if self.level == 0 or seconds * self.growth() * MARGIN > allowed:
            self.since = now
        return now - self.since > self.patience and self.up(now)

    def growth(self) -> float:
        """How many times as many pixels the level above computes."""
        return (LEVELS[self.level][0] / LEVELS[self.level - 1][0]) ** 2

    def down(self, now: float) -> bool:
        if now - self.raised < HOLD:
            self.patience = min(2 * self.patience, PATIENCE[1])
        self.enter(self.level + 1, now)
        return True

    def up(self, now: float) -> bool:
        self.raised = now
        self.enter(self.level - 1, now)
        return True


def reduced(image: np.ndarray, factor: int) -> np.ndarray:
    """Means of factor x factor pixels, rounded; smaller blocks at the right and the bottom."""
    return image if factor == 1 else np.asarray(Image.fromarray(image).reduce(factor))


def add_residual(image: np.ndarray, residual: np.ndarray, strength: float) -> np.ndarray:
    """image (H, W, 3) uint8 + strength * residual (h, w, 3) float32, enlarged bilinearly.

    The residual is rounded to levels, at most 127, before Pillow enlarges it: three times as fast
    as PyTorch with floats, and at most one level apart.
    """
    height, width, _ = image.shape
    levels = np.rint(residual * np.float32(255 * strength)).clip(-127, 127)
    levels = Image.fromarray((levels + 128).astype(np.uint8))
    factor = -(-height // levels.height)
    if factor > 1:
        size = (factor * levels.width, factor * levels.height)
        levels = levels.resize(size, Image.Resampling.BILINEAR)
    total = image.astype(np.int16)
    total += np.asarray(levels)[:height, :width]
    total -= 128
    return total.clip(0, 255, out=total).astype(np.uint8)


class LiveSharpener:
    """Frames -> sharpened frames, with as much work as `rate` allows."""

    def __init__(self, sharpen: Sharpen, config: LiveConfig, controls: Controls, say: Say):
        self.sharpen, self.controls, self.say = sharpen, controls, say
        self.control = RateControl(config.rate)
        self.filter = TemporalFilter() if config.filter else lambda picture, residual: residual
        self.failed = -math.inf  # when computing failed

    @property
    def level(self) -> str:
        return LEVELS[self.control.level][1]

    def __call__(self, frame: Frame) -> Frame:
        """The sharpened frame, or the frame as it is where computing is off or fails."""
        begun, factor = time.monotonic(), LEVELS[self.control.level][0]
        if not self.controls.on or begun - self.failed < 10 * RETRY_SECONDS:
            return frame
        image = self.compute(frame.image, factor) if factor else frame.image
        now = time.monotonic()
        if self.control.frame(now, now - begun, frame.interval):
            self.say(f"sharpening now: {self.level}")
        return Frame(image, frame.captured, frame.interval)

    def compute(self, image: np.ndarray, factor: int) -> np.ndarray:
        try:
            small = reduced(image, factor)
            sharp = self.sharpen(small)
        except (SharpeningError, RuntimeError, MemoryError) as error:  # the picture goes on
            self.say(f"not sharpened: {error}; the next try follows in {10 * RETRY_SECONDS:g} s")
            self.failed = time.monotonic()
            return image
        residual = (sharp.astype(np.float32) - small) / 255
        residual = self.filter(small.astype(np.float32) / 255, residual)
        result = add_residual(image, residual, self.controls.strength)
        if self.controls.split:
            middle = image.shape[1] // 2
            result[:, :middle] = image[:, :middle]
            result[:, middle - 1 : middle + 1] = 255
        return result


# --------------------------------------------------------------------------------------------------
# Outputs
# --------------------------------------------------------------------------------------------------


class Output:
    """Where the frames go. `in_main_thread`: whether it works in that thread only."""

    in_main_thread = False

    def show(self, frame: Frame) -> None:
        raise NotImplementedError

    def pressed(self) -> str:
        """The keys pressed since the last question, a character each."""
        return ""

    def title(self, text: str) -> None:
        """Show a line about rate and latency, where there is room for it."""

    def close(self) -> None:
        """Release everything."""


class Window(Output):
    """A window of pygame. Its system wants it in the main thread (macOS)."""

    in_main_thread = True

    def __init__(self) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        self.pygame, self.size = require_package("pygame"), None
        try:
            self.pygame.display.init()
        except self.pygame.error as error:
            raise SharpeningError(
                f"no window can be opened ({error}): use --live-config.output virtual or PATH.mp4"
            ) from error

    def show(self, frame: Frame) -> None:
        pygame, (height, width, _) = self.pygame, frame.image.shape
        if self.size != (width, height):
            self.size = (width, height)
            pygame.display.set_mode(self.size, pygame.RESIZABLE)
        screen = pygame.display.get_surface()
        picture = pygame.image.frombuffer(np.ascontiguousarray(frame.image), self.size, "RGB")
        if screen.get_size() != self.size:  # the user resized the window
            factor = min(s / p for s, p in zip(screen.get_size(), self.size, strict=True))
            picture = pygame.transform.scale_by(picture, factor)
            screen.fill(0)
        screen.blit(picture, picture.get_rect(center=screen.get_rect().center))
        pygame.display.flip()

    def pressed(self) -> str:
        events = self.pygame.event.get()
        if any(event.type == self.pygame.QUIT for event in events):
            return "q"
        return "".join(e.unicode for e in events if e.type == self.pygame.KEYDOWN)

    def title(self, text: str) -> None:
        self.pygame.display.set_caption(text)

    def close(self) -> None:
        self.pygame.display.quit()


def fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`image` enlarged or reduced to (height, width), for outputs whose size is fixed."""
    if image.shape[:2] == size:
        return np.ascontiguousarray(image)
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


class VirtualCamera(Output):
    """A camera that other programs can choose, by pyvirtualcam. Its size is the first frame's."""

    def __init__(self) -> None:
        self.package, self.camera = require_package("pyvirtualcam"), None

    def show(self, frame: Frame) -> None:
        if self.camera is None:
            height, width, _ = frame.image.shape
            try:
                self.camera = self.package.Camera(width=width, height=height, fps=30)
            except RuntimeError as error:
                raise SharpeningError(
                    f"there is no virtual camera ({error}): docs/LIVE.md says how to set one up"
                ) from error
        self.camera.send(fitted(frame.image, (self.camera.height, self.camera.width)))

    def close(self) -> None:
        if self.camera is not None:
            self.camera.close()


class Recording(Output):
    """An H.264 file whose frames keep the camera's times. Its size is the first frame's."""

    CLOCK = 90_000  # units of time per second

    def __init__(self, path: Path):
        if path.exists():
            raise SharpeningError(f"{path} exists: choose another --live-config.output")
        self.path, self.stack, self.container = path, contextlib.ExitStack(), None

    def open(self, frame: Frame) -> None:
        temporary = self.stack.enter_context(atomic_write(self.path))
        self.container = self.stack.enter_context(av.open(str(temporary), "w"))
        options = {"preset": "superfast", "tune": "zerolatency", "crf": "20"}
        self.stream = self.container.add_stream("libx264", rate=30, options=options)
        self.stream.height, self.stream.width = self.size = frame.image.shape[:2]
        odd = self.stream.width % 2 or self.stream.height % 2
        self.stream.pix_fmt = "yuv444p" if odd else "yuv420p"
        context = self.stream.codec_context
        context.time_base, context.colorspace, context.color_range = Fraction(1, self.CLOCK), 1, 1
        self.begun, self.time = frame.captured, -1

    def show(self, frame: Frame) -> None:
        if self.container is None:
            self.open(frame)
        image = av.VideoFrame.from_ndarray(fitted(frame.image, self.size), "rgb24")
        image = image.reformat(format=self.stream.pix_fmt, dst_colorspace=1, dst_color_range=1)
        now = round((frame.captured - self.begun) * self.CLOCK)
        self.time = image.pts = max(now, self.time + 1)
        image.time_base = Fraction(1, self.CLOCK)
        self.container.mux(self.stream.encode(image))

    def close(self) -> None:
        with self.stack:
            if self.container is not None:
                self.container.mux(self.stream.encode(None))


def make_output(name: str) -> Output:
    kinds = {"window": Window, "virtual": VirtualCamera}
    return kinds.get(name, functools.partial(Recording, Path(name)))()


# --------------------------------------------------------------------------------------------------
# Stages
# --------------------------------------------------------------------------------------------------

REPORT_SECONDS = 5.0
STOP_SECONDS = 0.8  # given to the stages when it ends; Ctrl-C ends within a second


@dataclass(frozen=True)
class LiveReport:
    """What happened so far."""

    seconds: float
    captured: int
    """Frames that came from the camera."""
    shown: int
    dropped_before: int
    """Frames replaced by newer ones before they were computed."""
    dropped_after: int
    """Computed frames replaced by newer ones before they were shown."""
    rate: float
    """Shown frames per second, over the last frames (1,000 at most)."""
    latency: float
    """Median seconds from the camera's frame to its picture shown, over the same frames."""
    level: str

    def __str__(self) -> str:
        return (
            f"{self.rate:.1f} frames per second, latency {1000 * self.latency:.0f} ms, "
            f"{self.level}, dropped: {self.dropped_before} before and {self.dropped_after} after "
            f"computing, of {self.captured}"
        )


class Live:
    """The three stages of one run and what they share."""

    def __init__(self, sharpen: Sharpen, config: LiveConfig, controls: Controls, say: Say):
        self.config, self.controls, self.say = config, controls, say
        self.sharpen = LiveSharpener(sharpen, config, controls, say)
        self.to_compute, self.to_show = Slot(), Slot()
        self.stop, self.errors = threading.Event(), []
        self.captured = self.shown = 0
        self.begun = time.monotonic()
        self.recent: deque[tuple[float, float]] = deque(maxlen=1000)  # (when shown, latency)

    def read(self) -> None:
        with contextlib.closing(camera_frames(self.config, self.stop, self.say)) as frames:
            for frame in frames:
                self.captured += 1
                self.to_compute.put(frame)
        self.to_compute.close()

    def compute(self) -> None:
        while not self.stop.is_set() and not self.to_compute.ended():
            if frame := self.to_compute.take(0.1):
                self.to_show.put(self.sharpen(frame))
        self.to_show.close()

    def show(self, output: Output) -> None:
        """Show frames until all are shown, then release the output, whatever happened."""
        try:
            while not self.stop.is_set() and not self.to_show.ended():
                if frame := self.to_show.take(0.05):
                    output.show(frame)
                    now = time.monotonic()
                    self.recent.append((now, now - frame.captured))
                    self.shown += 1
                for key in output.pressed():
                    self.controls.press(key)
                if self.controls.quit:
                    self.stop.set()
                if self.shown % 30 == 1 or not self.controls.on:
                    output.title(f"{self.report()} - {KEYS}")
        finally:
            output.close()
            self.stop.set()

    def stage(self, work: Callable[..., None], *arguments: Output) -> threading.Thread:
        """`work` in a thread. Its error ends all stages and is raised by `run`."""

        def guarded() -> None:
            try:
                work(*arguments)
            except BaseException as error:
                self.errors.append(error)
                self.stop.set()

        thread = threading.Thread(target=guarded, daemon=True, name=work.__name__)
        thread.start()
        return thread

    def report(self) -> LiveReport:
        recent = list(self.recent)
        passed = recent[-1][0] - recent[0][0] if len(recent) > 1 else math.inf
        return LiveReport(
            seconds=time.monotonic() - self.begun,
            captured=self.captured,
            shown=self.shown,
            dropped_before=self.to_compute.dropped,
            dropped_after=self.to_show.dropped,
            rate=(len(recent) - 1) / passed,
            latency=statistics.median(latency for _, latency in recent) if recent else math.nan,
            level=self.sharpen.level if self.controls.on else "off",
        )

    def report_now_and_then(self) -> None:
        while not self.stop.wait(REPORT_SECONDS):
            self.say(str(self.report()))

    def run(self, output: Output) -> None:
        """All stages, until the file ends, a key or Ctrl-C quits, or a stage fails."""
        threads = [self.stage(self.read), self.stage(self.compute)]
        reporter = self.stage(self.report_now_and_then)
        try:
            if output.in_main_thread:
                self.show(output)
            else:
                threads.append(self.stage(self.show, output))
                while not self.stop.wait(0.1):
                    pass
        except KeyboardInterrupt:
            self.say("stopped")
        finally:
            self.stop.set()
            end = time.monotonic() + STOP_SECONDS
            for thread in [*reversed(threads), reporter]:
                thread.join(max(0.0, end - time.monotonic()))
            for thread in threads:
                if thread.is_alive():
                    self.say(f"the stage {thread.name} does not answer and is left as it is")
        if self.errors:
            raise self.errors[0]


def read_keys(controls: Controls, stop: threading.Event) -> None:
    """Keys for outputs without a window: typed in the terminal, then Enter."""
    while not stop.is_set():
        typed = os.read(sys.stdin.fileno(), 100).decode(errors="ignore")
        for key in typed.rstrip("\r\n"):
            controls.press(key)
        if not typed:  # the end of the terminal's input
            return
        if controls.quit:
            stop.set()


def run_live(
    sharpen: Sharpen,
    config: LiveConfig,
    strength: float = 1.0,
    say: Say = print,
    output: Output | None = None,
) -> LiveReport:
    """Sharpen the camera's picture until it ends or the user ends it -> what happened.

    `output`: instead of the one that `config` names. Raises SharpeningError if the camera or the
    output is not there.
    """
    output = output or make_output(config.output)
    live = Live(sharpen, config, Controls(strength), say)
    say(KEYS if output.in_main_thread else f"{KEYS}; then Enter")
    if not output.in_main_thread and sys.stdin and sys.stdin.isatty():
        live.stage(read_keys, live.controls, live.stop)
    in_main = threading.current_thread() is threading.main_thread()
    previous = in_main and signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        live.run(output)
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, previous)
    report = live.report()
    say(f"{report.shown} frames shown in {report.seconds:.1f} s: {report}")
    return report


# --------------------------------------------------------------------------------------------------
# Choosing what computes
# --------------------------------------------------------------------------------------------------

AGREEMENT = 40.0  # dB of PSNR to the exact result


def agreement(image: np.ndarray, exact: np.ndarray) -> float:
    """PSNR in dB; infinite for equal images."""
    error = np.mean((image.astype(np.float64) - exact) ** 2)
    return 10 * math.log10(255**2 / error) if error else math.inf


def fastest(
    load: Callable[[Runtime, Any], Sharpen], runtime: Runtime, settings: Any, say: Say = print
) -> Sharpen:
    """What `load(runtime, settings)` gives for the back end that is fastest here, among those that
    agree with PyTorch in fp32. `settings`: a dataclass with the field `backend`; unless that is
    "auto", it is used as it is. A back end whose package is missing is left out."""
    if settings.backend != "auto":
        return load(runtime, settings)
    say("choosing what computes; --inference.backend NAME saves this time")
    picture, found = np.ascontiguousarray(demo_frame(360, 640)), {}
    exact = dataclasses.replace(runtime, dtype=torch.float32)
    wanted = load(exact, dataclasses.replace(settings, backend="pytorch"))(picture)
    for name in ("pytorch", "openvino", "openvino-int8"):
        try:
            sharpen = load(runtime, dataclasses.replace(settings, backend=name))
        except SharpeningError as error:
            say(f"{name} is left out: {error}")
            continue
        if (db := agreement(sharpen(picture), wanted)) < AGREEMENT:
            say(f"{name} is left out: {db:.1f} dB to fp32, less than {AGREEMENT:g}")
        else:
            seconds = seconds_per_call(functools.partial(sharpen, picture), runtime)
            found[name] = (seconds, sharpen)
    if not found:
        raise SharpeningError("no back end agrees with fp32: choose one with --inference.backend")
    name = min(found, key=lambda name: found[name][0])
    shown = ", ".join(f"{each} {1000 * seconds:.1f} ms" for each, (seconds, _) in found.items())
    say(f"computing with {name} ({shown} for 640 x 360)")
    return found[name][1]
