"""One video, decoded and encoded in a process of its own: `main`, started by video_files.py.

Three pipes lead to the parent. Stdin brings the source's path, the target's, then frames; stdout
takes the frames' shape, then frames; stderr takes one line of JSON at the end: the report, or why
there is none.

Read from top to bottom: the process, the source, its clock, the result, its sound.
"""

import functools
import gc
import io
import json
import math
import mmap
import os
import re
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

import av
import numpy as np
from av.video.reformatter import Interpolation

from sharpening.media_files import MediaError, unreachable
from sharpening.video_files import END, FRAME

# FFmpeg's matrices, frame tag -> name in the scaler. Without exact rounding and full chroma the
# scaler shifts green by 1.4 levels on its way to RGB; with both, limited range returns unchanged.
MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
LIMITED_RANGE, FULL_RANGE = 1, 2
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}

MAX_DELAY = 17  # packets that a decoder may hold before it gives the first of their frames
HELD = 6  # frames without a sound time that wait for the next that has one
SMALL_STEP = Fraction(1, 10)  # seconds; a clock that goes back further has started anew
WRAPPED = Fraction(1 << 32, 90_000)  # seconds; MPEG's clock of 33 bits counted past its end

STALE = {"major_brand", "minor_version", "compatible_brands", "encoder"}  # tags of the old file
SIDE_DATA_LEFT_OUT = {
    "SPHERICAL": "the mark of a 360-degree video (spherical projection)",
    "STEREO3D": "the mark of a 3D video (stereo layout)",
}

# Where decoders do not mark damaged frames: FFmpeg's logger -> its lines about damage.
DAMAGE_LINES = {
    "mjpeg": "error y=|overread",
    "ffv1": "CRC mismatch",
    "hevc": "mismatching checksum",  # where the encoder stored checksums of its frames
    "ogg": "CRC mismatch",
}
TOLERANT_DECODERS = {"wmv1", "wmv2", "msmpeg4v1", "msmpeg4v2", "msmpeg4"}
ONE_PART = {"mov", "matroska", "asf"}  # formats that may be read only as far as their first part

# Container -> the encoder for sound that cannot be copied; AAC where none is without loss.
SOUND_ENCODERS = {"matroska": "flac", "mp4": "flac", "mov": "alac"}
CRASHES = {("flv", "speex")}  # FFmpeg aborts the process when it writes these
NONSTRICT = 0x20000  # FFmpeg's flag of containers in which two packets may have one time

Frame = TypeVar("Frame")

# ----------------------------------------------------------------------------------------------
# The process
# ----------------------------------------------------------------------------------------------


def main() -> None:
    """Decode the video that stdin names, and encode the frames that come back."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent decides what an interruption ends
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):  # where memory runs out, Linux ends this process and not the network's
        Path("/proc/self/oom_score_adj").write_text("500")
    frames_in, frames_out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    gc.freeze()  # what was imported is not searched again for what is no longer needed
    os.dup2(2, 1)  # what a library prints must not come between the frames
    try:
        report = _transcode(frames_in, frames_out)
    except BaseException as error:
        _end(error)
    print(json.dumps(report), file=sys.stderr)


def _end(error: BaseException) -> NoReturn:
    """End the process at once, whatever its other thread waits for, and say why."""
    if isinstance(error, EOFError):  # the parent has gone
        os._exit(0)
    if isinstance(error, MediaError):
        said = json.dumps({"reason": error.reason})
    elif isinstance(error, MemoryError):
        said = json.dumps({"reason": "memory runs out: close other programs"})
    elif isinstance(error, OSError | av.FFmpegError):
        said = json.dumps({"errno": error.errno, "strerror": error.strerror or str(error)})
    else:
        said = "".join(traceback.format_exception(error))
    print(said, file=sys.stderr, flush=True)
    os._exit(1)


def _transcode(frames_in: BinaryIO, frames_out: BinaryIO) -> dict[str, Any]:
    path = Path(json.loads(frames_in.readline() or _gone()))
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    with av.logging.Capture(local=False) as log, open_video(path) as container:
        source = Source(path, container, log)
        shape = (source.first.height, source.first.width, 3)
        frames_out.write(json.dumps([shape, source.expected_frames()]).encode() + b"\n")
        frames_out.flush()
        target, format, options = json.loads(frames_in.readline() or _gone())
        sender = threading.Thread(target=_send_frames, args=(source, frames_out), daemon=True)
        settings = options_of_container(format, container.metadata)
        try:
            with av.open(f"file:{target}", "w", format=format, container_options=settings) as file:
                result = Result(file, source, options)
                sender.start()
                for rgb in _received_frames(frames_in, shape):
                    result.add(rgb)
                result.finish()
        except BaseException as error:  # here, since the other thread may still read the source
            _end(error)
        notes = source.remarks() + losses(source, Path(target))
        return {"copied_streams": result.copied, "notes": notes}


def _gone() -> NoReturn:
    raise EOFError


def _send_frames(source: "Source", frames_out: BinaryIO) -> None:
    """The thread that decodes, no more than a frame further than the parent reads."""
    try:
        for rgb in source.rgb_frames():
            frames_out.write(FRAME)
            frames_out.write(rgb)
            frames_out.flush()
        frames_out.write(END)
        frames_out.flush()
    except BaseException as error:
        _end(error)


def _received_frames(frames_in: BinaryIO, shape: tuple[int, int, int]) -> Iterator[np.ndarray]:
    while (kind := frames_in.read(1)) == FRAME:
        rgb = np.empty(shape, np.uint8)
        if frames_in.readinto(memoryview(rgb).cast("B")) < rgb.size:
            _gone()
        yield rgb
    if kind != END:
        _gone()


# ----------------------------------------------------------------------------------------------
# The source
# ----------------------------------------------------------------------------------------------


@contextmanager
def open_video(source: Path) -> Iterator[av.container.InputContainer]:
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


class Source:
    """A video on its way out: frames of the main stream, and packets of others that wait."""

    def __init__(
        self,
        path: Path,
        container: av.container.InputContainer,
        log: list[tuple[int, str, str]],
    ):
        self.path, self.container, self.log = path, container, log
        # PyAV asks FFmpeg to invent missing times: H.264 in AVI then is one or two frames late
        container.flags &= ~av.container.Flags.gen_pts.value
        self.stream = _main_stream(path, container)
        self.others = [each for each in container.streams if each.type in ("audio", "subtitle")]
        self.notes: list[str] = []
        self.waiting: deque[av.Packet] = deque()  # to be copied, in the order of the file
        self.times: deque[int] = deque()  # of the frames that the parent has been given
        self.captions: deque[av.VideoFrame | None] = deque()  # of the same frames
        self.decoded = 0
        self.damaged: list[int] = []  # numbers of frames
        self.damage_seen = False  # since the last frame
        self.strict = _strict_decoder(self.stream)
        self.last_position = 0  # in the file, of a packet
        self.side_data: set[str] = set()
        self.clock = Clock()
        self.ends: dict[int, float] = {}  # stream -> seconds, by the file's own clock
        self.step = max(1, round(1 / ((self.stream.average_rate or 25) * self.stream.time_base)))
        self.frames = increasing(self._timed_frames(), self.step)
        if (first := next(self.frames, None)) is None:
            raise MediaError(path, "not one frame of it can be decoded: get a sound copy")
        self.first_time, self.first = first
        self._take_colours(self.first)

    def expected_frames(self) -> int | None:
        """About how many frames there are, as far as the file says."""
        if self.stream.frames or not (self.container.duration and self.stream.average_rate):
            return self.stream.frames or None
        return round(self.container.duration * self.stream.average_rate / av.time_base)

    def _take_colours(self, frame: av.VideoFrame) -> None:
        """Matrix and range of the conversion to RGB and back, as players assume them."""
        if frame.color_trc in HDR_TRANSFERS:
            reason = f"HDR video ({HDR_TRANSFERS[frame.color_trc]}): tone-map it to SDR first"
            raise MediaError(self.path, reason)
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

    def _timed_frames(self) -> Iterator[tuple[int | None, av.VideoFrame]]:
        """Frames with their times as the file has them.

        Where it has times for packets but not for frames (AVI), the first frame to be shown takes
        the time of the first packet, and so on: a decoder's delay is no delay of the picture.
        """
        of_packets: deque[int] | None = None
        try:
            for packet in self.container.demux():
                self._note_end(packet)
                if packet.stream is self.stream:
                    self.clock.move(packet)
                    if of_packets is None and packet.dts is not None and packet.pts is None:
                        of_packets = deque(maxlen=MAX_DELAY)
                    if of_packets is not None and packet.dts is not None:
                        of_packets.append(packet.dts)
                    for frame in self._decoded(packet):
                        time = frame.dts if frame.pts is None else frame.pts
                        yield of_packets.popleft() if of_packets else time, frame
                elif packet.dts is not None and packet.stream in self.others:
                    self.clock.move(packet)
                    self.waiting.append(packet)
        except MemoryError:
            raise
        except av.FFmpegError as error:
            reason = f"damaged after {self.decoded} frames ({error.strerror}): get a sound copy"
            raise MediaError(self.path, reason) from error

    def _decoded(self, packet: av.Packet) -> list[av.VideoFrame]:
        """The frames of `packet`; `opaque` is set in those that are damaged."""
        frames = packet.decode()
        self.damage_seen |= any(frame.is_corrupt for frame in frames)
        while self.log:
            _, logger, line = self.log.pop(0)
            pattern = DAMAGE_LINES.get(logger)
            self.damage_seen |= pattern is not None and re.search(pattern, line) is not None
        if self.strict is not None and packet.size:
            try:
                self.damage_seen |= any(each.is_corrupt for each in self.strict.decode(packet))
            except av.FFmpegError:
                self.damage_seen = True
        for frame in frames:
            frame.opaque = self.damage_seen or None
            self.damage_seen = False
        return frames

    def _note_end(self, packet: av.Packet) -> None:
        self.last_position = max(self.last_position, packet.pos or 0)
        time = packet.dts if packet.pts is None else packet.pts
        if time is not None:
            end = float((time + (packet.duration or 0)) * packet.time_base)
            self.ends[packet.stream_index] = max(end, self.ends.get(packet.stream_index, 0))

    def rgb_frames(self) -> Iterator[np.ndarray]:
        """(H, 3 W) uint8 frames for the parent; their times and captions are kept aside."""
        for time, frame in chain([(self.first_time, self.first)], self.frames):
            if (frame.width, frame.height) != (self.first.width, self.first.height):
                reason = f"its size changes at frame {self.decoded}: split it there"
                raise MediaError(self.path, reason)
            if frame.opaque:
                self.damaged.append(self.decoded)
            side_data = {each.type.name for each in frame.side_data}
            self.side_data |= side_data
            # a frame as small as can be still carries what FFmpeg knows about the large one
            captions = frame.reformat(width=16, height=16) if "A53_CC" in side_data else None
            self.captions.append(captions)
            self.times.append(time)
            self.decoded += 1
            picture = frame.reformat(
                format="rgb24",
                src_colorspace=self.matrix,
                src_color_range=self.range,
                interpolation=EXACT,
            )
            rows = np.frombuffer(picture.planes[0], np.uint8).reshape(picture.height, -1)
            yield np.ascontiguousarray(rows[:, : 3 * picture.width])  # a copy if rows are padded
            if self.decoded % 4 == 0:
                gc.collect()  # a frame whose side data was looked at refers to itself

    def check_whole(self) -> None:
        """A file cut short decodes without an error; only its stated lengths tell."""
        container, read = self.container, (self.stream, *self.container.streams.audio)
        start = (container.start_time or 0) / av.time_base
        end = max(self.ends.values(), default=start)
        stated = [((container.duration or 0) / av.time_base, start, end)]
        for stream in read:
            if stream.duration and stream.index in self.ends:
                start = float((stream.start_time or 0) * stream.time_base)
                length = float(stream.duration * stream.time_base)
                stated.append((length, start, self.ends[stream.index]))
        for length, start, end in stated:
            if length - (end - start) > max(0.5, 0.05 * length):
                there = f"{end - start:.1f} of {length:.1f} seconds are there"
                raise MediaError(self.path, f"truncated: {there}: get a sound copy")

    def _goes_on(self) -> bool:
        """Whether the file begins again behind the last packet that FFmpeg has read."""
        if self.container.format.name.split(",")[0] not in ONE_PART:
            return False
        with (
            self.path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return content.find(content[:16], self.last_position + 1) > 0

    def remarks(self) -> list[str]:
        """What a person should know, once all is read."""
        remarks = list(self.notes)
        if self.damaged:
            first = f"the first is number {self.damaged[0]}"
            count = f"{len(self.damaged)} of {self.decoded} frames"
            remarks.append(f"{count} are damaged in the source ({first}): get a sound copy")
        if again := len(self.clock.offsets) - 1:
            times = f"{again} times" if again > 1 else "once"
            remarks.append(f"its clock starts anew {times}: each part follows the one before")
        if self._goes_on():
            reason = "joined to it by cat? Split them, or join them with a video program"
            remarks.append(f"another recording follows and is left out ({reason})")
        for name in sorted(self.side_data & SIDE_DATA_LEFT_OUT.keys()):
            remarks.append(f"{SIDE_DATA_LEFT_OUT[name]} is left out: set it again in the result")
        return remarks


def _strict_decoder(stream: av.VideoStream) -> av.VideoCodecContext | None:
    """Has the decoder of `stream` look for damage as well as it can without a change to pictures.

    In old Windows codecs FFmpeg finds most of it only if a frame's data have to end with the
    picture, and then spoils sound frames with bytes behind them: for these, returns another
    decoder whose frames are not used.
    """
    context = stream.codec_context
    if context.name == "h264":
        context.thread_count = 1  # several threads, which few files can use, miss half of it
    if context.name not in TOLERANT_DECODERS:
        context.options = {"err_detect": "crccheck"}
        return None
    strict = av.CodecContext.create(context.name, "r")
    strict.width, strict.height, strict.extradata = context.width, context.height, context.extradata
    strict.options = {"err_detect": "buffer"}
    return strict


def increasing(
    frames: Iterable[tuple[int | None, Frame]], step: int
) -> Iterator[tuple[int, Frame]]:
    """Frames with times that increase, as H.264 demands; times that do so already stay exact.

    Frames without a time, or whose time repeats or goes back a little, wait (at most `HELD` of
    them) for the next that is later, and are spread evenly before it. `step` is the usual distance
    of two frames.
    """
    last, held = None, []

    def spread(gap: int) -> Iterator[tuple[int, Frame]]:
        nonlocal last
        for _, frame in held:
            last += gap
            yield last, frame
        held.clear()

    for time, frame in frames:
        if last is None:
            last = time or 0
            yield last, frame
        elif time is not None and time > last:
            yield from spread(max(1, min(step, (time - last) // (len(held) + 1))))
            last = max(time, last + 1)
            yield last, frame
        else:
            held.append((time, frame))
            if len(held) == HELD:
                runs = len({time for time, _ in held}) > 1  # the clock runs: let it catch up
                yield from spread(max(1, step // 2) if runs else step)
    yield from spread(step)


# ----------------------------------------------------------------------------------------------
# Its clock
# ----------------------------------------------------------------------------------------------


class Clock:
    """Times that go on where a file's clock starts anew: recordings joined by `cat`, a receiver
    that was started again.

    Each part of such a file is moved as a whole to where the parts before it ended, so its
    picture and sound keep together. Packets of two parts may be mixed where they meet.
    """

    def __init__(self):
        self.offsets = [Fraction(0)]  # seconds, one for each part
        self.part: dict[int, int] = {}  # stream -> the part that it has reached
        self.last: dict[int, Fraction] = {}  # stream -> time of its last packet
        self.ends: dict[int, Fraction] = {}  # stream -> when its last packet ends
        self.now = Fraction(0)

    def move(self, packet: av.Packet) -> None:
        """Change the times of `packet` to those of the result."""
        unit, kind = packet.time_base, packet.stream.type
        if packet.dts is not None:
            self._find_part(packet, packet.dts * unit, kind != "subtitle")
        ticks = round(self.offsets[self.part.get(packet.stream_index, 0)] / unit)
        if packet.pts is not None:
            packet.pts += ticks
        if packet.dts is not None:
            packet.dts += ticks
            self.now = self.last[packet.stream_index] = packet.dts * unit
        if kind != "subtitle" and packet.size:
            rate = packet.stream.average_rate if kind == "video" else None
            length = packet.duration * unit or 1 / (rate or Fraction(25))
            end = self.ends.get(packet.stream_index, Fraction(0))
            begin = end if packet.pts is None else packet.pts * unit
            self.ends[packet.stream_index] = max(end, begin + length)

    def _find_part(self, packet: av.Packet, time: Fraction, may_begin: bool) -> None:
        """Note the part that `packet` belongs to: that of its stream, a newer one if its time fits
        better there, or one that begins here."""
        stream, newest = packet.stream_index, len(self.offsets) - 1
        candidates = (self.part.get(stream, 0), newest)
        part = min(candidates, key=lambda each: abs(time + self.offsets[each] - self.now))
        step = time + self.offsets[part] - self.last.get(stream, time + self.offsets[part])
        if may_begin and not -SMALL_STEP <= step <= WRAPPED:
            part = newest + 1
            shown = time if packet.pts is None else packet.pts * packet.time_base
            self.offsets.append(max(self.ends.values(), default=shown) - shown)
        self.part[stream] = part


# ----------------------------------------------------------------------------------------------
# The result
# ----------------------------------------------------------------------------------------------


class Result:
    """The file that is written: H.264, and whatever came with the picture."""

    def __init__(
        self, container: av.container.OutputContainer, source: Source, options: dict[str, str]
    ):
        self.container, self.source = container, source
        self.encoder = self._encoder(options)
        self.carriers: dict[int, Callable[[av.Packet | None], Iterable[av.Packet]]] = {}
        self.copied = 0
        self.repeats = bool(container.format.flags & NONSTRICT)
        self.last: dict[int, Fraction] = {}  # stream -> time of its last packet
        for stream in source.container.streams:
            if stream is not source.stream:
                self._add_stream(stream)
        if source.container.streams.audio and not container.streams.audio:
            names = ", ".join(_codec_name(each) for each in source.container.streams.audio)
            reason = f"its sound ({names}) can be neither copied nor decoded"
            raise MediaError(source.path, f"{reason}: convert it, or remove the sound, first")
        known = source.container.metadata.items()
        container.metadata.update({key: text for key, text in known if key.lower() not in STALE})
        container.set_chapters(source.container.chapters())

    def _encoder(self, options: dict[str, str]) -> av.VideoStream:
        """An H.264 stream with size, times, colours, pixel shape and rotation of the source."""
        source, first = self.source, self.source.first
        rate = source.stream.average_rate or 25
        stream = self.container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height = first.width, first.height
        odd = first.width % 2 or first.height % 2
        shape = first.format
        whole = shape.is_rgb or (len(shape.components) > 2 and shape.chroma_width(16) == 16)
        stream.pix_fmt = "yuv444p" if odd or whole else "yuv420p"
        if odd:
            source.notes.append("a side is odd: written as 4:4:4, which some players cannot show")
        context = stream.codec_context
        context.time_base = source.time_base
        if source.stream.sample_aspect_ratio:
            context.sample_aspect_ratio = source.stream.sample_aspect_ratio
        context.color_range = source.range if int(first.color_range) or source.range == 2 else 0
        context.colorspace = first.colorspace if int(first.colorspace) else source.matrix
        context.color_primaries, context.color_trc = first.color_primaries, first.color_trc
        if (turn := first.side_data.get("DISPLAYMATRIX")) is not None:
            stream.set_display_matrix(np.frombuffer(turn, np.int32).tolist())
        stream.metadata.update(source.stream.metadata)
        return stream

    def _add_stream(self, stream: av.stream.Stream) -> None:
        """Have `stream` copied, or its sound encoded anew, or say that it is left out."""
        name, format = _codec_name(stream), self.container.format.name
        copies = stream.type in ("audio", "subtitle", "attachment")
        if copies and (add_twin := way_to_copy(format, stream)):
            twin = add_twin(self.container, stream)
            self.carriers[stream.index] = functools.partial(copied, twin)
            self.copied += 1
        elif stream.type == "audio" and stream.codec_context is not None and stream.rate:
            codec = SOUND_ENCODERS.get(format, "aac")
            recoding = Recoding(self.container, stream, codec, self.source.notes)
            self.carriers[stream.index], twin = recoding, recoding.encoder
            what = f"its sound ({name}) cannot be copied into {format}"
            self.source.notes.append(f"{what} and is encoded anew ({codec})")
        else:
            reason = {"video": "only the first is sharpened"}.get(
                stream.type, f"{name} cannot be copied into {format}"
            )
            self.source.notes.append(f"{stream.type} stream {stream.index} is left out ({reason})")
            return
        twin.metadata.update(stream.metadata)
        twin.disposition = stream.disposition

    def add(self, rgb: np.ndarray) -> None:
        """Encode the next frame, and copy what was read meanwhile."""
        frame = av.VideoFrame.from_numpy_buffer(rgb, "rgb24").reformat(
            format=self.encoder.pix_fmt,
            dst_colorspace=self.source.matrix,
            dst_color_range=self.source.range,
            interpolation=EXACT,
        )
        if (captions := self.source.captions.popleft()) is not None:
            frame = _with_captions(frame, captions)
        frame.pts, frame.time_base = self.source.times.popleft(), self.source.time_base
        self.container.mux(self.encoder.encode(frame))
        self._copy_waiting()

    def finish(self) -> None:
        """Encode and copy what is left."""
        self.source.check_whole()
        self.container.mux(self.encoder.encode(None))
        self._copy_waiting()
        for carrier in self.carriers.values():
            self._write(carrier(None))

    def _copy_waiting(self) -> None:
        while self.source.waiting:
            packet = self.source.waiting.popleft()
            if carrier := self.carriers.get(packet.stream.index):
                self._write(carrier(packet))

    def _write(self, packets: Iterable[av.Packet]) -> None:
        """Write packets of sound or text; times that repeat or go back move just past the last,
        because containers refuse them."""
        for packet in packets:
            unit, index = packet.time_base, packet.stream.index
            time, last = packet.dts * unit, self.last.get(index)
            if last is not None and (time < last or (time == last and not self.repeats)):
                packet.dts = math.ceil((last + max(unit, packet.stream.time_base)) / unit)
                packet.pts = max(packet.dts, packet.pts or packet.dts)
            self.last[index] = packet.dts * unit
            self.container.mux(packet)


def _with_captions(frame: av.VideoFrame, captions: av.VideoFrame) -> av.VideoFrame:
    """`frame` with the side data of `captions`: PyAV lets side data pass from frame to frame only
    where it scales one."""
    size = {"width": frame.width, "height": frame.height}
    result = captions.reformat(**size, format=frame.format.name)
    for plane, values in zip(result.planes, frame.planes, strict=True):
        plane.update(values)
    result.pict_type = 0  # the encoder is free to choose
    return result


def _codec_name(stream: av.stream.Stream) -> str:
    return stream.codec_context.name if stream.codec_context else "an unknown codec"


def options_of_container(format: str, tags: Iterable[str]) -> dict[str, str]:
    """FFmpeg's settings with which a container holds most of what a source may bring."""
    if format not in ("mp4", "mov"):
        return {}
    vendors = any(tag.startswith("com.") for tag in tags)  # com.apple.quicktime.make
    return {"strict": "experimental"} | ({"movflags": "use_metadata_tags"} if vendors else {})


def losses(source: Source, target: Path) -> list[str]:
    """Tags of the source that the finished result does not have, in words."""
    with av.open(f"file:{target}", metadata_errors="replace") as result:
        written = {tag.lower() for tag in result.metadata}
    lost = [tag for tag in source.container.metadata if tag.lower() not in written | STALE]
    if not lost:
        return []
    names = ", ".join(lost[:6]) + (f" and {len(lost) - 6} more" if len(lost) > 6 else "")
    return [f"this container has no place for the tags {names}"]


# ----------------------------------------------------------------------------------------------
# Its sound
# ----------------------------------------------------------------------------------------------


AddTwin = Callable[[av.container.OutputContainer, av.stream.Stream], av.stream.Stream]


def way_to_copy(format: str, stream: av.stream.Stream) -> AddTwin | None:
    """What adds a stream for the same packets to a container, or None if it cannot hold them.

    Tried by writing a header with that stream alone: FFmpeg's list of codecs promises more than
    its headers keep, and leaves out sound that Matroska can hold.
    """
    if (format, _codec_name(stream)) in CRASHES:
        return None
    ways: list[AddTwin] = [av.container.OutputContainer.add_stream_from_template]
    if format == "matroska" and stream.type == "audio":
        ways.append(_with_parameters_of)
    options = options_of_container(format, ())
    for add_twin in ways:
        with suppress(ValueError, av.FFmpegError):
            with av.open(io.BytesIO(), "w", format=format, container_options=options) as scratch:
                add_twin(scratch, stream)
                scratch.start_encoding()
            return add_twin
    return None


def _with_parameters_of(
    container: av.container.OutputContainer, stream: av.AudioStream
) -> av.AudioStream:
    """A stream for sound of any codec: a filter that changes nothing sets all its parameters."""
    twin = container.add_mux_stream("flac", time_base=stream.time_base)
    av.bitstream.BitStreamFilterContext("null", stream, twin)
    return twin


def copied(twin: av.stream.Stream, packet: av.Packet | None) -> list[av.Packet]:
    """The packet as it is, for another stream."""
    if packet is None:
        return []
    packet.stream = twin
    return [packet]


class Recoding:
    """Sound decoded and encoded anew, without loss where the container has a codec for that."""

    def __init__(
        self,
        container: av.container.OutputContainer,
        stream: av.AudioStream,
        codec: str,
        notes: list[str],
    ):
        self.stream, self.notes = stream, notes
        self.next = self.damaged = 0
        layout = f"{stream.channels}c"  # the usual one: old formats only count their channels
        self.encoder = container.add_stream(codec, rate=stream.rate, layout=layout)
        self.encoder.bit_rate = stream.channels * min(96_000, 4 * stream.rate)  # if it has a loss
        formats = [each.name for each in self.encoder.codec.audio_formats]
        deep = stream.format is not None and stream.format.name.startswith("s32")
        wanted = "s32" if deep else "s16"
        chosen = next((each for each in formats if each.startswith(wanted)), formats[0])
        self.encoder.format = chosen
        self.resampler = av.AudioResampler(chosen, layout, stream.rate)

    def __call__(self, packet: av.Packet | None) -> Iterator[av.Packet]:
        try:
            frames = self.stream.decode(packet)
        except av.InvalidDataError:
            frames = []
            self.damaged += 1
        for frame in frames:
            yield from self._encoded(frame)
        if packet is None:
            yield from self._encoded(None)
            yield from self.encoder.encode(None)
            if self.damaged:
                self.notes.append(f"{self.damaged} packets of its sound are damaged and left out")

    def _encoded(self, frame: av.AudioFrame | None) -> Iterator[av.Packet]:
        if frame is not None:
            if frame.pts is None:  # what a decoder gives at its end
                frame.pts, frame.time_base = self.next, Fraction(1, frame.sample_rate)
            self.next = round(frame.pts * frame.time_base * frame.sample_rate) + frame.samples
        for part in self.resampler.resample(frame):
            yield from self.encoder.encode(part)
