"""Videos, decoded, transformed and encoded in one pass. Nothing here knows a network.

    report = transform_video("clip.mp4", "sharp/clip.mp4", sharpen_frames)

As with pictures, every failure that belongs to one file is a `MediaError`, and a file that carries
its final name is complete.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation

from sharpening.media_files import CONTAINERS, MediaError, atomic_write, unreachable

# FFmpeg's matrices, frame tag -> name in the scaler. Without exact rounding and full chroma the
# scaler shifts green by 1.4 levels on its way to RGB; with both, limited range returns unchanged.
MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
LIMITED_RANGE, FULL_RANGE = 1, 2
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}

FrameTransform = Callable[[Iterator[np.ndarray]], Iterable[np.ndarray]]


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
    """About how many frames a video has, for a progress bar; None if the file does not say."""
    with _opened_video(Path(source)) as container:
        stream = _main_stream(Path(source), container)
        if stream.frames or not (container.duration and stream.average_rate):
            return stream.frames or None
        return round(container.duration * stream.average_rate / av.time_base)


def transform_video(
    source: str | Path,
    target: str | Path,
    transform: FrameTransform,
    *,
    crf: int = 18,
    preset: str = "medium",
    progress: Callable[[int], object] | None = None,
) -> VideoReport:
    """Decode, transform and encode a video in one pass, a few frames in memory at a time.

    `transform` takes an iterator of (H, W, 3) uint8 RGB frames and yields as many of the same
    size in the same order; it may hold some back to work in batches. Frames come as they are
    stored: a rotation stays what it is in the file, an instruction to the player.

    Frame times are kept exactly (to 1 ms in Matroska, which knows no finer ones), audio,
    subtitles and attachments are copied packet by packet, metadata, chapters, pixel shape and
    colour tags carried over. H.264 with `crf` (0 is lossless, 18 looks it, 51 is worst) and x264's
    `preset`; 8-bit 4:2:0, or 4:4:4 where the source has it or a side is odd, so that no row or
    column is lost. `progress(1)` is called per frame.

    Raises `MediaError` for what is no sound video, HDR, or a target whose extension names no
    container of `CONTAINERS`; nothing is left then.
    """
    source, target = Path(source), Path(target)
    if target.suffix.lower() not in CONTAINERS:
        choices = " ".join(CONTAINERS)
        raise MediaError(target, f"this container is not written: use one of {choices}")
    with _opened_video(source) as container, atomic_write(target) as temporary:
        job = _Transcoding(source, container)
        with av.open(f"file:{temporary}", "w", format=CONTAINERS[target.suffix.lower()]) as result:
            return job.run(result, transform, {"crf": str(crf), "preset": preset}, progress)


@contextmanager
def _opened_video(source: Path) -> Iterator[av.container.InputContainer]:
    """The container; only local files, whatever a playlist posing as a video may name."""
    try:
        if not source.is_file():
            raise MediaError(source, "no such file: check the path")
        container = av.open(
            f"file:{source}",
            container_options={"protocol_whitelist": "file"},
            metadata_errors="replace",
        )
    except av.FFmpegError as error:
        raise MediaError(
            source, f"not a sound video ({error.strerror}): get a sound copy"
        ) from error
    except OSError as error:
        raise unreachable(source, error) from error
    with container:
        yield container


def _main_stream(source: Path, container: av.container.InputContainer) -> av.VideoStream:
    """The first video stream that is not a cover picture."""
    cover = av.stream.Disposition.attached_pic
    streams = [each for each in container.streams.video if not each.disposition & cover]
    if not streams or streams[0].codec_context is None:
        raise MediaError(source, "holds no video that can be decoded")
    return streams[0]


class _Transcoding:
    """One video on its way: decoding leads, encoding follows, packets to copy wait in between."""

    def __init__(self, source: Path, container: av.container.InputContainer):
        self.source, self.container = source, container
        self.stream = _main_stream(source, container)
        self.others = [each for each in container.streams if each.type in ("audio", "subtitle")]
        self.notes: list[str] = []
        self.waiting = deque()  # packets to copy, in the order of the file
        self.times = deque()  # of the frames that the transform has been given
        self.decoded, self.end = 0, 0.0
        frames = self._frames()
        first = next(frames, None)
        if first is None:
            raise MediaError(source, "not one frame of it can be decoded: get a sound copy")
        self.first, self.frames = first, chain([first], frames)
        self._take_colours(first)

    def _take_colours(self, frame: av.VideoFrame) -> None:
        """Matrix and range of the conversion to RGB and back, as players assume them."""
        if frame.color_trc in HDR_TRANSFERS:
            reason = f"HDR video ({HDR_TRANSFERS[frame.color_trc]}): tone-map it to SDR first"
            raise MediaError(self.source, reason)
        large = frame.width >= 1280 or frame.height > 576
        self.matrix = MATRICES.get(int(frame.colorspace), 1 if large else 5)
        full = frame.color_range == FULL_RANGE or frame.format.name.startswith("yuvj")
        self.range = FULL_RANGE if full else LIMITED_RANGE
        self.time_base = frame.time_base or self.stream.time_base
        parts = frame.format.components
        if parts[0].bits > 8:
            self.notes.append(f"the source has {parts[0].bits} bits, the result 8")
        if any(part.is_alpha for part in parts):
            self.notes.append("the video's transparency is left out")
        if frame.interlaced_frame:
            self.notes.append("the source is interlaced and was sharpened without deinterlacing")

    def _frames(self) -> Iterator[av.VideoFrame]:
        try:
            for packet in self.container.demux(self.stream, *self.others):
                if packet.pts is not None:
                    last = (packet.pts + (packet.duration or 0)) * packet.time_base
                    self.end = max(self.end, float(last))
                if packet.stream is self.stream:
                    yield from packet.decode()
                elif packet.dts is not None:
                    self.waiting.append(packet)
        except av.FFmpegError as error:
            reason = f"damaged after {self.decoded} frames ({error.strerror}): get a sound copy"
            raise MediaError(self.source, reason) from error

    def _rgb(self) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 frames for the transform; their times are kept aside."""
        step = max(1, round(1 / ((self.stream.average_rate or 25) * self.time_base)))
        time = None
        for frame in self.frames:
            if (frame.width, frame.height) != (self.first.width, self.first.height):
                reason = f"its size changes at frame {self.decoded}: split it there"
                raise MediaError(self.source, reason)
            # raw streams have no times, damaged ones repeat them, and H.264 refuses repeats
            following = 0 if time is None else time + step
            soonest = frame.pts if time is None else time + 1
            time = following if frame.pts is None else max(frame.pts, soonest)
            self.times.append(time)
            self.decoded += 1
            yield frame.to_ndarray(
                format="rgb24",
                src_colorspace=self.matrix,
                src_color_range=self.range,
                interpolation=EXACT,
            )

    def run(
        self,
        result: av.container.OutputContainer,
        transform: FrameTransform,
        options: dict[str, str],
        progress: Callable[[int], object] | None,
    ) -> VideoReport:
        """Fill `result`."""
        encoder = self._encoder(result, options)
        twins = self._twins(result)
        stale = {"major_brand", "minor_version", "compatible_brands", "encoder"}
        known = self.container.metadata.items()
        result.metadata.update({key: text for key, text in known if key.lower() not in stale})
        result.set_chapters(self.container.chapters())
        count = 0
        for rgb in transform(self._rgb()):
            result.mux(encoder.encode(self._encodable(rgb, encoder.pix_fmt)))
            self._copy_waiting(result, twins)
            count += 1
            if progress is not None:
                progress(1)
        if self.times or next(self.frames, None) is not None:
            raise ValueError(f"the transform ended after {count} frames, before its input did")
        result.mux(encoder.encode(None))
        self._copy_waiting(result, twins)
        self._refuse_truncated()
        return VideoReport(count, len(twins), tuple(self.notes))

    def _encoder(
        self, result: av.container.OutputContainer, options: dict[str, str]
    ) -> av.VideoStream:
        """An H.264 stream with size, times, colours, pixel shape and rotation of the source."""
        first = self.first
        stream = result.add_stream("libx264", rate=self.stream.average_rate or 25, options=options)
        stream.width, stream.height = first.width, first.height
        odd = first.width % 2 or first.height % 2
        shape = first.format
        whole = shape.is_rgb or (len(shape.components) > 2 and shape.chroma_width(16) == 16)
        stream.pix_fmt = "yuv444p" if odd or whole else "yuv420p"
        if odd:
            self.notes.append("a side is odd: written as 4:4:4, which some players cannot show")
        context = stream.codec_context
        context.time_base = self.time_base
        if self.stream.sample_aspect_ratio:
            context.sample_aspect_ratio = self.stream.sample_aspect_ratio
        context.color_range = self.range if int(first.color_range) or self.range == 2 else 0
        context.colorspace = first.colorspace if int(first.colorspace) else self.matrix
        context.color_primaries, context.color_trc = first.color_primaries, first.color_trc
        if (turn := first.side_data.get("DISPLAYMATRIX")) is not None:
            stream.set_display_matrix(np.frombuffer(turn, np.int32).tolist())
        stream.metadata.update(self.stream.metadata)
        return stream

    def _twins(self, result: av.container.OutputContainer) -> dict[int, av.stream.Stream]:
        """Streams of `result` that take the packets of the source's, by the source's index."""
        twins = {}
        for stream in self.container.streams:
            if stream is self.stream:
                continue
            try:
                if stream not in self.others and stream.type != "attachment":
                    raise ValueError("neither sound nor subtitles")
                twin = result.add_stream_from_template(stream)
            except (ValueError, av.FFmpegError) as error:
                self.notes.append(f"{stream.type} stream {stream.index} is left out ({error})")
                continue
            twin.metadata.update(stream.metadata)
            twin.disposition = stream.disposition
            twins[stream.index] = twin
        return twins

    def _encodable(self, rgb: np.ndarray, pix_fmt: str) -> av.VideoFrame:
        expected = (self.first.height, self.first.width, 3)
        if not self.times or rgb.shape != expected or rgb.dtype != np.uint8:
            given = f"{rgb.shape} {rgb.dtype}, with {len(self.times)} frames outstanding"
            raise ValueError(f"the transform yielded {given}: expected one {expected} uint8 each")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), "rgb24").reformat(
            format=pix_fmt,
            dst_colorspace=self.matrix,
            dst_color_range=self.range,
            interpolation=EXACT,
        )
        frame.pts, frame.time_base = self.times.popleft(), self.time_base
        return frame

    def _copy_waiting(self, result: av.container.OutputContainer, twins: dict) -> None:
        while self.waiting:
            packet = self.waiting.popleft()
            if twin := twins.get(packet.stream.index):
                packet.stream = twin
                result.mux(packet)

    def _refuse_truncated(self) -> None:
        """A file cut short decodes without an error; only its stated length tells."""
        if not self.container.duration:
            return
        stated = self.container.duration / av.time_base
        found = self.end - (self.container.start_time or 0) / av.time_base
        if stated - found > max(0.5, 0.05 * stated):
            reason = f"truncated: {found:.1f} of {stated:.1f} seconds are there: get a sound copy"
            raise MediaError(self.source, reason)
