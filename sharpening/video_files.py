"""Videos, decoded, transformed and encoded in one pass. Nothing here knows a network.

    report = transform_video("clip.mp4", "sharp/clip.mp4", sharpen_frames)

As with pictures, every failure that belongs to one file is a `MediaError`, and a file that carries
its final name is complete. A decoder that crashes takes its whole process with it, so each video
is decoded and encoded (transcoding.py) in a process of its own, and only frames come here.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sharpening.media_files import CONTAINERS, MediaError, atomic_write

FrameTransform = Callable[[Iterator[np.ndarray]], Iterable[np.ndarray]]

# Unlike multiprocessing, this does not import the caller's script again in the new process.
PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from sharpening import transcoding as t; "
COMMAND = (sys.executable, "-P", "-c", PROGRAM + "t.main()", str(Path(__file__).parents[1]))
FRAME, END = b"F", b"E"  # begin each message once the frames flow


@dataclass(frozen=True)
class VideoReport:
    """What was written."""

    frames: int
    """Video frames, as many as in the source."""
    copied_streams: int
    """Audio, subtitle and attachment streams copied untouched."""
    notes: tuple[str, ...]
    """What a person should know, such as streams left out."""


def frame_count_hint(source: str | Path) -> int | None:
    """About how many frames a video has; None if the file does not say."""
    with closing(_Transcoder(Path(source))) as transcoder:
        return transcoder.expected


def transform_video(
    source: str | Path,
    target: str | Path,
    transform: FrameTransform,
    *,
    crf: int = 18,
    preset: str = "medium",
    progress: Callable[[int, int | None], object] | None = None,
) -> VideoReport:
    """Decode, transform and encode a video in one pass, a few frames in memory at a time.

    `transform` takes an iterator of (H, W, 3) uint8 RGB frames and yields as many of the same
    size in the same order; it may hold some back to work in batches. Frames come as they are
    stored: a rotation stays what it is in the file, an instruction to the player.

    Frame times are kept exactly (to 1 ms in Matroska, which knows no finer ones), audio,
    subtitles and attachments are copied packet by packet, metadata, chapters, captions, pixel
    shape and colour tags carried over. What a container cannot hold is named in the report; sound
    is then encoded anew. H.264 with `crf` (0 is lossless, 18 looks it, 51 is worst) and x264's
    `preset`; 8-bit 4:2:0, or 4:4:4 where the source has it or a side is odd, so that no row or
    column is lost. `progress(done, expected)` is called per frame; `expected` is what the source
    says, or None.

    Raises `MediaError` for what is no sound video, HDR, a decoder that crashes, or a target whose
    extension names no container of `CONTAINERS`; nothing is left then.
    """
    source, target = Path(source), Path(target)
    if target.suffix.lower() not in CONTAINERS:
        choices = " ".join(CONTAINERS)
        raise MediaError(target, f"this container is not written: use one of {choices}")
    with (
        closing(_Transcoder(source)) as transcoder,
        atomic_write(target) as temporary,
        closing(transcoder),  # ended before the temporary file is removed
    ):
        transcoder.begin(temporary, {"crf": str(crf), "preset": preset})
        for done, rgb in enumerate(transform(transcoder.frames), 1):
            transcoder.encode(rgb)
            if progress is not None:
                progress(done, transcoder.expected)
        return transcoder.finish()


class _Transcoder:
    """The process that decodes and encodes one video: frames come from it and return to it."""

    def __init__(self, source: Path):
        """Waits until the first frame is decoded, so that what is no video fails here."""
        self.source = source
        self.decoded = self.encoded = 0
        self.frames = self._frames()
        self.last_words: dict[str, Any] | None = None
        pipe = subprocess.PIPE
        try:
            self.process = subprocess.Popen(COMMAND, stdin=pipe, stdout=pipe, stderr=pipe)
        except OSError as error:
            reason = f"no process can be started for it ({error.strerror}): close other programs"
            raise MediaError(source, reason) from error
        try:
            self._send(json.dumps(str(source)).encode() + b"\n")
            first = self.process.stdout.readline()
            if not first.endswith(b"\n"):
                raise self._failure()
            self.shape, self.expected = json.loads(first)
        except BaseException:
            self.close()
            raise

    def begin(self, target: Path, options: dict[str, str]) -> None:
        """Have the result written to `target`."""
        format = CONTAINERS[target.suffix.lower()]
        self._send(json.dumps([str(target), format, options]).encode() + b"\n")

    def _frames(self) -> Iterator[np.ndarray]:
        """The decoded (H, W, 3) uint8 frames."""
        while self._received(bytearray(1)) == FRAME:
            frame = np.empty(self.shape, np.uint8)
            self._received(frame)
            self.decoded += 1
            yield frame

    def encode(self, rgb: np.ndarray) -> None:
        """Hand back one frame."""
        outstanding = self.decoded - self.encoded
        if not outstanding or rgb.shape != tuple(self.shape) or rgb.dtype != np.uint8:
            given = f"{rgb.shape} {rgb.dtype}, with {outstanding} frames outstanding"
            expected = f"one {tuple(self.shape)} uint8 each"
            raise ValueError(f"the transform yielded {given}: expected {expected}")
        self.encoded += 1
        self._send(FRAME, np.ascontiguousarray(rgb))

    def finish(self) -> VideoReport:
        """Wait until the result is complete."""
        if self.encoded != self.decoded or next(self.frames, None) is not None:
            reason = f"ended after {self.encoded} frames, before its input did"
            raise ValueError(f"the transform {reason}")
        self._send(END)
        said = self._ended()
        if self.process.returncode or "notes" not in said:
            raise self._failure()
        return VideoReport(self.encoded, said["copied_streams"], tuple(said["notes"]))

    def close(self) -> None:
        """End the process, if it still runs."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with suppress(OSError):  # what could not be sent to a process that has ended
                pipe.close()

    def _send(self, *parts: bytes | np.ndarray) -> None:
        try:
            for part in parts:
                self.process.stdin.write(part)
            self.process.stdin.flush()
        except OSError as error:
            raise self._failure() from error

    def _received(self, buffer: bytearray | np.ndarray) -> bytearray | np.ndarray:
        view = memoryview(buffer).cast("B")
        if self.process.stdout.readinto(view) < len(view):
            raise self._failure()
        return buffer

    def _ended(self) -> dict[str, Any]:
        """What the process said at its end."""
        if self.last_words is None:  # a pipe is read only once
            said = self.process.stderr.read().decode(errors="replace").strip()
            self.process.wait()
            try:
                self.last_words = json.loads(said.splitlines()[-1])
            except (ValueError, IndexError):
                self.last_words = {"traceback": said}
        return self.last_words

    def _failure(self) -> Exception:
        """Why the process has ended early."""
        said, status = self._ended(), self.process.returncode
        if "reason" in said:
            return MediaError(self.source, said["reason"])
        if "errno" in said:
            return OSError(said["errno"], said["strerror"])
        if status == 1:
            return RuntimeError(f"{self.source}: {said['traceback']}")
        how = f"signal {-status}" if status < 0 else f"status {status}"
        reason = f"its decoder ended the process ({how}): convert it with another program first"
        return MediaError(self.source, reason)
