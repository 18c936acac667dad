"""video_files.py: every frame keeps its time, and whatever is not a frame is copied."""

import hashlib
import itertools
import os
import queue
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from stress_corpus import (
    damage,
    join,
    make_talkie,
    make_two_videos,
    make_video,
    make_with_captions,
    make_with_speex,
    make_with_times,
    mark_as_sphere,
)
from test_media_files import output_on_a_full_disk

from sharpening import transcoding, video_files
from sharpening.file_inference import plan_jobs
from sharpening.media_files import MediaError
from sharpening.video_files import transform_video


def frames_of(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def packets_of(path: Path, kind: str) -> list[str]:
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        # MP4 fills the silence between two subtitles with empty ones of two bytes
        packets = [bytes(packet) for packet in container.demux(stream) if packet.size > 2]
    return [hashlib.sha256(packet).hexdigest() for packet in packets]


def times_of(path: Path) -> list[Fraction]:
    return [frame.pts * frame.time_base for frame in frames_of(path)]


def unchanged(frames):
    return frames


def in_batches_of_3(frames):
    held = []
    for frame in frames:
        held.append(frame)
        if len(held) == 3:
            yield from held
            held = []
    yield from held


UNEVEN = (0, 1000, 1500, 4000, 9000, 9100, 12345)


def test_chapters_and_attachments_are_kept(tmp_path):
    chapters = [
        {
            "id": 1,
            "start": 0,
            "end": 80,
            "time_base": Fraction(1, 1000),
            "metadata": {"title": "a"},
        },
        {"id": 2, "start": 80, "end": 160, "time_base": Fraction(1, 1000), "metadata": {}},
    ]
    font = bytes(range(256)) * 5
    plain, source = make_video(tmp_path / "plain.mkv", audio="aac"), tmp_path / "source.mkv"
    with av.open(str(plain)) as container, av.open(str(source), "w") as result:
        twins = [result.add_stream_from_template(stream) for stream in container.streams]
        result.add_attachment("letters.ttf", "font/ttf", font)
        result.set_chapters(chapters)
        for packet in container.demux():
            if packet.size:
                packet.stream = twins[packet.stream.index]
                result.mux(packet)
    report = transform_video(source, tmp_path / "b.mkv", unchanged)
    assert report.copied_streams == 2 and not report.notes
    with av.open(str(source)) as before, av.open(str(tmp_path / "b.mkv")) as after:
        assert after.chapters() == before.chapters() and len(after.chapters()) == 2
        (attached,) = after.streams.attachments
        assert (attached.name, attached.mimetype, attached.data) == (
            "letters.ttf",
            "font/ttf",
            font,
        )


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".ts"])
@pytest.mark.parametrize("transform", [unchanged, in_batches_of_3])
def test_uneven_frame_times_are_kept_exactly(tmp_path, suffix, transform):
    source = make_video(tmp_path / f"a{suffix}", times=UNEVEN, audio="aac")
    seen = []
    report = transform_video(
        source,
        tmp_path / f"out/b{suffix}",
        transform,
        preset="veryfast",
        progress=lambda done, expected: seen.append((done, expected)),
    )
    assert times_of(tmp_path / f"out/b{suffix}") == times_of(source)
    assert report.frames == len(UNEVEN)
    assert [done for done, _ in seen] == list(range(1, len(UNEVEN) + 1))
    if suffix == ".mp4":
        assert {expected for _, expected in seen} == {len(UNEVEN)}
        assert video_files.frame_count_hint(tmp_path / "out/b.mp4") == len(UNEVEN)
    assert [each.name for each in (tmp_path / "out").iterdir()] == [f"b{suffix}"]


def test_times_that_do_not_start_at_zero_are_kept(tmp_path):
    source = make_video(tmp_path / "a.mkv", times=(9000, 9900, 18000), audio="aac")
    transform_video(source, tmp_path / "b.mkv", unchanged)
    assert times_of(tmp_path / "b.mkv") == times_of(source)


@pytest.mark.parametrize(
    ("suffix", "audio"), [(".mp4", "aac"), (".mkv", "flac"), (".webm", "libopus")]
)
def test_audio_is_copied_byte_for_byte(tmp_path, suffix, audio):
    codec = "libvpx" if suffix == ".webm" else "libx264"
    source = make_video(tmp_path / f"a{suffix}", codec=codec, audio=audio)
    job = plan_jobs(source, tmp_path / "out").jobs[0]
    report = transform_video(source, job.target, unchanged)
    assert report.copied_streams == 1
    assert not report.notes
    assert packets_of(job.target, "audio") == packets_of(source, "audio")


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "subrip"), (".mp4", "mov_text")])
def test_subtitles_metadata_and_language_are_copied(tmp_path, suffix, codec):
    source = make_video(tmp_path / f"a{suffix}", subtitles=codec)
    target = tmp_path / "out" / source.name
    report = transform_video(source, target, unchanged)
    assert report.copied_streams == 1
    assert packets_of(target, "subtitles") == packets_of(source, "subtitles")
    with av.open(str(target)) as container:
        assert container.metadata["title"] == "harbour"
        assert container.streams.subtitles[0].language == "fra"


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_rotation_stays_an_instruction_to_the_player(tmp_path, rotation, suffix):
    source = make_video(tmp_path / f"a{suffix}", rotation=rotation)
    transform_video(source, tmp_path / f"b{suffix}", unchanged)
    before, after = frames_of(source)[0], frames_of(tmp_path / f"b{suffix}")[0]
    assert after.rotation == before.rotation
    assert abs(after.rotation) == abs(rotation)
    assert (after.width, after.height) == (before.width, before.height)


@pytest.mark.parametrize("size", [(63, 48), (64, 47), (35, 33)])
def test_odd_sizes_lose_no_row_or_column(tmp_path, size):
    source = make_video(tmp_path / "a.mkv", codec="ffv1", pix_fmt="bgr0", size=size)
    report = transform_video(source, tmp_path / "b.mkv", unchanged, crf=1)
    before, after = frames_of(source)[0], frames_of(tmp_path / "b.mkv")[0]
    assert (after.width, after.height) == size
    assert after.format.name == "yuv444p"
    assert "odd" in report.notes[0]
    change = after.to_ndarray(format="rgb24").astype(int) - before.to_ndarray(format="rgb24")
    assert np.abs(change[-1]).mean() < 3
    assert np.abs(change[:, -1]).mean() < 3


@pytest.mark.parametrize("matrix", [1, 5, 6, 9])
@pytest.mark.parametrize("full", [False, True])
def test_colours_and_their_tags_are_kept(tmp_path, matrix, full):
    yuv = (120, 100, 150)
    source = make_video(tmp_path / "a.mkv", yuv=yuv, matrix=matrix, full_range=full)
    transform_video(source, tmp_path / "b.mkv", unchanged, crf=1)
    before, after = frames_of(source)[0], frames_of(tmp_path / "b.mkv")[0]
    for tag in ("colorspace", "color_range", "color_primaries", "color_trc"):
        assert getattr(after, tag) == getattr(before, tag)
    for plane, other in zip(after.planes, before.planes, strict=True):
        values = [
            np.frombuffer(each, np.uint8).astype(int)[: each.width] for each in (plane, other)
        ]
        assert np.abs(values[0] - values[1]).max() <= (1 if full else 0)


@pytest.mark.parametrize("matrix", [1, 5])
def test_the_transform_sees_true_colours(tmp_path, matrix):
    luma, blue, red = 120, 100, 150
    source = make_video(tmp_path / "a.mkv", yuv=(luma, blue, red), matrix=matrix)
    weight_red, weight_blue = {1: (0.2126, 0.0722), 5: (0.299, 0.114)}[matrix]
    light, cb, cr = (luma - 16) / 219, (blue - 128) / 224, (red - 128) / 224
    r, b = light + 2 * (1 - weight_red) * cr, light + 2 * (1 - weight_blue) * cb
    g = (light - weight_red * r - weight_blue * b) / (1 - weight_red - weight_blue)
    seen = []

    def look(frames):
        for frame in frames:
            seen.append(frame.reshape(-1, 3).mean(axis=0))
            yield frame

    transform_video(source, tmp_path / "b.mkv", look)
    np.testing.assert_allclose(seen, [np.array([r, g, b]) * 255] * len(seen), atol=1.01)


def test_the_transform_is_applied(tmp_path):
    source = make_video(tmp_path / "a.mp4")
    transform_video(source, tmp_path / "b.mp4", lambda frames: (255 - each for each in frames))
    options = {"format": "rgb24", "interpolation": transcoding.EXACT}
    before, after = (
        frames_of(tmp_path / name)[0].to_ndarray(**options) for name in ("a.mp4", "b.mp4")
    )
    assert np.abs((255 - before).astype(int) - after).mean() < 4


def test_the_transform_may_decode_in_a_thread_of_its_own(tmp_path):
    source = make_video(tmp_path / "a.mp4", times=range(0, 36_000, 360), audio="aac")

    def ahead(frames):
        ready: queue.Queue = queue.Queue(maxsize=2)
        fill = [lambda: [ready.put(each) for each in frames], lambda: ready.put(None)]
        thread = threading.Thread(target=lambda: [step() for step in fill], daemon=True)
        thread.start()
        while (frame := ready.get(timeout=20)) is not None:
            yield frame
        thread.join()

    transform_video(source, tmp_path / "b.mp4", ahead, preset="ultrafast")
    assert times_of(tmp_path / "b.mp4") == times_of(source)
    assert packets_of(tmp_path / "b.mp4", "audio") == packets_of(source, "audio")


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused(tmp_path, transfer, name):
    source = make_video(tmp_path / "a.mkv", yuv=(120, 100, 150), matrix=9, transfer=transfer)
    with pytest.raises(MediaError, match=name):
        transform_video(source, tmp_path / "b.mkv", unchanged)


def test_an_interrupted_video_leaves_nothing(tmp_path):
    source = make_video(tmp_path / "a.mp4", audio="aac")

    def broken(frames):
        yield next(frames)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transform_video(source, tmp_path / "out" / "a.mp4", broken)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "transform",
    [
        lambda frames: list(frames)[:-1],
        lambda frames: list(frames) * 2,
        lambda frames: [next(frames)],
        lambda frames: (frame[:-2] for frame in frames),
        lambda frames: (frame / 255 for frame in frames),
    ],
)
def test_a_transform_that_breaks_its_promise_is_refused(tmp_path, transform):
    source = make_video(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="the transform"):
        transform_video(source, tmp_path / "b.mp4", transform)
    assert not (tmp_path / "b.mp4").exists()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
@pytest.mark.parametrize("share", [0.01, 0.5])
def test_truncated_videos_are_refused(tmp_path, suffix, share):
    codec = "libvpx" if suffix == ".webm" else "libx264"
    times = range(0, 9000 * 2, 360)
    source = make_video(tmp_path / f"a{suffix}", codec=codec, times=times, noise=True)
    source.write_bytes(source.read_bytes()[: int(source.stat().st_size * share)])
    with pytest.raises(MediaError, match="a" + suffix):
        transform_video(source, tmp_path / "b.mkv", unchanged, preset="ultrafast")
    assert not (tmp_path / "b.mkv").exists()


def test_what_is_no_video_is_refused(tmp_path):
    for content in (b"", b"text\n" * 99, bytes(5000)):
        (tmp_path / "a.mp4").write_bytes(content)
        with pytest.raises(MediaError, match="a.mp4"):
            transform_video(tmp_path / "a.mp4", tmp_path / "b.mp4", unchanged)
    with pytest.raises(MediaError, match="no such file"):
        transform_video(tmp_path / "none.mp4", tmp_path / "b.mp4", unchanged)
    with pytest.raises(MediaError, match="use one of"):
        transform_video(make_video(tmp_path / "c.mp4"), tmp_path / "b.webm", unchanged)


def test_a_full_disk_stops_a_video_cleanly(tmp_path):
    make_video(tmp_path / "a.mp4", size=(160, 120), times=range(0, 9000, 360), noise=True)
    work = "transform_video('a.mp4', 'out/b.mp4', lambda frames: frames, crf=1)"
    work = f"from sharpening.video_files import transform_video; {work}"
    assert "disk is full" in output_on_a_full_disk(work, 50_000, tmp_path)
    assert not list((tmp_path / "out").iterdir())


# A process of its own --------------------------------------------------------------------------


@pytest.fixture
def processes(monkeypatch):
    """The processes that transform_video starts."""
    started, popen = [], subprocess.Popen

    def start(*arguments, **options):
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(video_files.subprocess, "Popen", start)
    return started


def program(monkeypatch, change: str) -> None:
    """Have `change`, a line of Python, run in the process of a video before its work."""
    code = f"{video_files.PROGRAM}import os; {change}; t.main()"
    monkeypatch.setattr(video_files, "COMMAND", (*video_files.COMMAND[:3], code, ROOT))


ROOT = str(Path(video_files.__file__).parents[1])


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL])
def test_a_process_that_dies_is_the_failure_of_one_file(tmp_path, processes, number):
    source = make_video(tmp_path / "a.mp4", audio="aac")

    def crash(frames):
        yield next(frames)
        os.kill(processes[-1].pid, number)
        yield from frames

    with pytest.raises(
        MediaError, match=rf"a.mp4: its decoder ended the process \(signal {number}"
    ):
        transform_video(source, tmp_path / "out" / "a.mp4", crash)
    assert not list((tmp_path / "out").iterdir())
    assert transform_video(source, tmp_path / "out" / "a.mp4", unchanged).frames == 5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("os.abort()", "signal 6"),
        ("t.Source.__init__ = lambda *_: os.abort()", "signal 6"),
        ("t.Source.check_whole = lambda *_: os.abort()", "signal 6"),
        ("t.Result.add = lambda *_: os._exit(3)", "status 3"),
        ("t.Result.add = lambda *_: bytearray(1 << 60)", "memory runs out"),
        ("t.Clock.move = lambda *_: bytearray(1 << 60)", "memory runs out"),
    ],
)
def test_a_crash_at_any_stage_is_a_media_error(tmp_path, monkeypatch, change, reason):
    program(monkeypatch, change)
    with pytest.raises(MediaError, match=f"a.mp4: .*{reason}"):
        transform_video(make_video(tmp_path / "a.mp4"), tmp_path / "b.mp4", in_batches_of_3)
    assert [each.name for each in tmp_path.iterdir()] == ["a.mp4"]


def test_a_fault_of_our_own_is_no_failure_of_the_file(tmp_path, monkeypatch):
    program(monkeypatch, "t.Result.add = lambda *_: 1 / 0")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        transform_video(make_video(tmp_path / "a.mp4"), tmp_path / "b.mp4", unchanged)


def test_a_process_that_cannot_be_started_is_a_media_error(tmp_path, monkeypatch):
    monkeypatch.setattr(video_files, "COMMAND", (str(tmp_path / "no program"),))
    with pytest.raises(MediaError, match="a.mp4: no process can be started"):
        transform_video(make_video(tmp_path / "a.mp4"), tmp_path / "b.mp4", unchanged)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, None])
def test_no_process_outlives_its_video(tmp_path, processes, error):
    def transform(frames):
        yield next(frames)
        if error:
            raise error
        yield from frames

    source = make_video(tmp_path / "a.mp4")
    with pytest.raises(error) if error else nullcontext():
        transform_video(source, tmp_path / "b.mp4", transform)
    assert processes[0].poll() is not None
    assert (tmp_path / "b.mp4").exists() != bool(error)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="asks the system about a process by its number")
def test_a_process_ends_when_its_parent_is_killed(tmp_path):
    make_video(tmp_path / "a.mp4", times=range(0, 36_000, 360))
    code = """
import subprocess, time
from sharpening.video_files import transform_video
def start(*arguments, popen=subprocess.Popen, **options):
    process = popen(*arguments, **options)
    print(process.pid, flush=True)
    return process
subprocess.Popen = start
transform_video("a.mp4", "b.mp4", lambda frames: time.sleep(60))
"""
    command, environment = [sys.executable, "-c", code], os.environ | {"PYTHONPATH": ROOT}
    parent = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    os.kill(child, signal.SIGINT)  # Ctrl-C reaches both: the parent decides
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists():
            return
        time.sleep(0.1)
    pytest.fail("the process is still there after 10 seconds")


def test_what_comes_in_two_pieces_is_one_frame(tmp_path):
    """Frames are larger than a pipe holds."""
    source = make_video(tmp_path / "a.mkv", size=(640, 360), noise=True)
    seen = []
    transform_video(
        source, tmp_path / "b.mkv", lambda frames: (seen.append(f) or f for f in frames)
    )
    options = {"format": "rgb24", "src_colorspace": 5, "src_color_range": 1}
    expected = [
        frame.to_ndarray(**options, interpolation=transcoding.EXACT) for frame in frames_of(source)
    ]
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count in other units")
def test_memory_is_that_of_a_few_frames_whatever_the_length(tmp_path):
    code = """
import resource, sys
from sharpening.video_files import transform_video
transform_video(sys.argv[1], "b.mp4", iter, preset="ultrafast")
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
    environment, peaks = os.environ | {"PYTHONPATH": ROOT}, []
    for count in (20, 120):
        times = range(0, 360 * count, 360)
        source = make_video(tmp_path / f"{count}.mp4", size=(400, 224), times=times)
        command = [sys.executable, "-c", code, str(source)]
        run = subprocess.run(command, cwd=tmp_path, env=environment, stdout=-1, check=True)
        peaks.append(int(run.stdout) * 1024)
    assert peaks[1] - peaks[0] < 30 * 400 * 224 * 3


# Clocks ----------------------------------------------------------------------------------------


def distances(path: Path) -> list[float]:
    times = times_of(path)
    return [float(after - before) for before, after in itertools.pairwise(times)]


def sound_times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        packets = list(container.demux(audio=0))
    return [float(packet.pts * packet.time_base) for packet in packets if packet.pts is not None]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0, 40, 80], [0, 40, 80]),
        ([7, 8, 9, 1000], [7, 8, 9, 1000]),  # not one of these is touched
        ([0, 40, 40, 80], [0, 40, 60, 80]),  # repeated
        ([0, 40, 40, 40, 80], [0, 40, 53, 66, 80]),
        ([0, 40, 40, 400], [0, 40, 80, 400]),
        ([0, 40, 80, 60, 100], [0, 40, 80, 90, 100]),  # a small step back
        ([0, 40, 39, 41, 80], [0, 40, 41, 42, 80]),  # no room: a tick each
        ([None, None, None], [0, 40, 80]),  # raw streams have no times
        ([0, None, 80, None], [0, 40, 80, 120]),
        ([5] * 20, [5 + 40 * number for number in range(20)]),  # a clock that stands
    ],
)
def test_times_that_repeat_or_go_back_are_spread(times, expected):
    frames = [(time, index) for index, time in enumerate(times)]
    assert list(transcoding.increasing(frames, 40)) == list(zip(expected, range(99), strict=False))


def test_a_clock_behind_is_caught_up_with():
    times = [*range(0, 400, 40), *range(100, 2000, 40)]
    result = [time for time, _ in transcoding.increasing(((time, 0) for time in times), 40)]
    assert all(after > before for before, after in itertools.pairwise(result))
    assert result[-20:] == times[-20:]


def test_repeated_times_cost_no_frame_and_move_no_other(tmp_path):
    source = make_with_times(tmp_path / "a.mkv", (0, 40, 40, 120, 100, 160), sound=True)
    report = transform_video(source, tmp_path / "b.mkv", unchanged)
    times = [round(1000 * time) for time in times_of(tmp_path / "b.mkv")]
    assert times == [0, 40, 80, 120, 140, 160] and report.frames == 6
    assert packets_of(tmp_path / "b.mkv", "audio") == packets_of(source, "audio")


@pytest.mark.parametrize(
    ("suffix", "codec", "sound", "header"),
    [
        (".ts", "libx264", "aac", 0),
        (".mpg", "libx264", "mp2", 0),
        (".flv", "libx264", "aac", 13),
    ],
)
@pytest.mark.parametrize("count", [2, 3])
def test_recordings_joined_by_cat_follow_each_other(tmp_path, suffix, codec, sound, header, count):
    options = {"codec": codec, "audio": sound, "times": range(0, 9000, 360)}
    part = make_video(tmp_path / f"part{suffix}", **options)
    source = join(tmp_path / f"a{suffix}", *[part] * count, header=header)
    job = plan_jobs(source, tmp_path / "out").jobs[0]
    report = transform_video(source, job.target, unchanged)
    assert report.frames == 25 * count and "clock" in report.notes[0]
    steps = distances(job.target)
    joins = [steps.pop(25 * number - 1) for number in range(count - 1, 0, -1)]
    rough = 0.041 if suffix == ".mpg" else 0.0011  # there, half of the frames have no time
    assert steps == pytest.approx([0.04] * len(steps), abs=rough)
    assert min(joins) > 0.03 and max(joins) < 0.3
    assert packets_of(job.target, "audio") == packets_of(source, "audio")
    per_part = len(sound_times(source)) // count
    lead = [
        sound_times(job.target)[number * per_part + 5] - float(times_of(job.target)[25 * number])
        for number in range(count)
    ]
    assert lead == pytest.approx([lead[0]] * count, abs=0.0021)  # picture and sound keep together


def test_a_clock_that_wrapped_has_gone_back(tmp_path):
    """MPEG's clock counts to 26.5 hours: FFmpeg takes a later part with smaller times for that."""
    late = make_video(tmp_path / "late.ts", times=range(9000 * 1000, 9000 * 1001, 360), audio="aac")
    early = make_video(tmp_path / "early.ts", audio="aac", times=range(0, 9000, 360))
    source = join(tmp_path / "a.ts", late, early)
    transform_video(source, tmp_path / "b.ts", unchanged)
    steps = distances(tmp_path / "b.ts")
    assert len(steps) == 49 and max(steps) < 0.3


def test_a_long_pause_is_kept(tmp_path):
    times = (0, 360, 720, 9000 * 60, 9000 * 60 + 360)
    source = make_video(tmp_path / "a.ts", times=times, audio="aac")
    report = transform_video(source, tmp_path / "b.ts", unchanged)
    assert times_of(tmp_path / "b.ts") == times_of(source) and not report.notes


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"bf": "0"}),
        ("libx264", {"bf": "2"}),
        ("libx264", {"bf": "1", "x264-params": "b-pyramid=none"}),
        ("mpeg4", {}),
        ("mpeg4", {"bf": "2"}),
    ],
)
def test_picture_and_sound_of_avi_keep_together(tmp_path, codec, options):
    source = make_talkie(tmp_path / "a.avi", codec, **options)
    transform_video(source, tmp_path / "b.mkv", unchanged)
    bright = [
        float(frame.time)
        for frame in frames_of(tmp_path / "b.mkv")
        if frame.to_ndarray(format="gray").mean() > 150
    ]
    assert bright == [0.8, 1.4]
    assert packets_of(tmp_path / "b.mkv", "audio") == packets_of(source, "audio")


# Sound -----------------------------------------------------------------------------------------


def samples_of(path: Path) -> tuple[float, np.ndarray]:
    """When the sound begins, in seconds, and its samples from -1 to 1."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler("fltp", stream.layout, stream.rate)
        frames = [part for frame in container.decode(stream) for part in resampler.resample(frame)]
    return float(frames[0].time), np.concatenate([f.to_ndarray() for f in frames], axis=1)


def sound_packets(path: Path) -> list[tuple[bytes, float]]:
    """The packets of a sound track, and when each is due, in seconds."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.pts is not None]
    return [(bytes(packet), float(packet.pts * packet.time_base)) for packet in packets]


@pytest.mark.parametrize(
    ("suffix", "sound"),
    [
        (".avi", "adpcm_ms"),
        (".avi", "adpcm_ima_wav"),
        (".avi", "adpcm_yamaha"),
        (".avi", "pcm_alaw"),
        (".avi", "pcm_mulaw"),
        (".wmv", "wmav1"),
        (".wmv", "wmav2"),
        (".mov", "pcm_mulaw"),
        (".flv", "adpcm_swf"),
    ],
)
def test_sound_of_old_codecs_is_copied(tmp_path, suffix, sound):
    codec = {".wmv": "wmv2", ".avi": "mjpeg"}.get(suffix, "libx264")
    source = make_talkie(tmp_path / f"a{suffix}", codec, sound)
    job = plan_jobs(source, tmp_path / "out").jobs[0]
    report = transform_video(source, job.target, unchanged)
    assert report.copied_streams == 1 and not report.notes
    (packets, times), (copies, later) = (
        zip(*sound_packets(path), strict=True) for path in (source, job.target)
    )
    if suffix == ".mov":  # a table of samples, which a reader cuts into packets as it likes
        packets, copies, times, later = b"".join(packets), b"".join(copies), times[:1], later[:1]
    assert packets == copies
    assert later == pytest.approx(times, abs=0.0006)  # Matroska counts milliseconds
    np.testing.assert_array_equal(samples_of(source)[1], samples_of(job.target)[1])


def test_sound_that_cannot_be_copied_is_encoded_anew(tmp_path):
    source = make_talkie(tmp_path / "a.vob", "mpeg2video", "pcm_dvd", rate=48_000)
    report = transform_video(source, tmp_path / "b.mkv", unchanged)
    with av.open(str(tmp_path / "b.mkv")) as container:
        assert container.streams.audio[0].codec_context.name == "flac"
    (begin, before), (begun, after) = samples_of(source), samples_of(tmp_path / "b.mkv")
    assert begun == pytest.approx(begin, abs=0.001)
    np.testing.assert_array_equal(before, after)
    assert report.copied_streams == 0 and "(pcm_dvd)" in report.notes[0]


def test_speex_in_flash_video_ends_no_process(tmp_path):
    source = make_with_speex(tmp_path / "a.flv")
    report = transform_video(source, tmp_path / "b.flv", unchanged)
    assert "(speex) cannot be copied into flv and is encoded anew (aac)" in report.notes[0]
    begin, samples = samples_of(tmp_path / "b.flv")
    assert begin < 0.1 and samples.shape[1] / 16_000 > 0.15
    assert np.abs(samples).max() > 0.01


def test_sound_that_nothing_can_carry_is_a_failure(tmp_path, monkeypatch):
    program(monkeypatch, "t.Result._add_stream = lambda *_: None")
    source = make_video(tmp_path / "a.mp4", audio="aac")
    with pytest.raises(MediaError, match="sound .aac. can be neither copied nor decoded"):
        transform_video(source, tmp_path / "b.mp4", unchanged)


# What is there, and what is not ------------------------------------------------------------------


def test_a_longer_second_video_does_not_make_a_file_truncated(tmp_path):
    report = transform_video(make_two_videos(tmp_path / "a.mp4"), tmp_path / "b.mp4", unchanged)
    assert report.frames == 25
    assert "video stream 1 is left out" in report.notes[0]


def test_a_picture_that_ends_before_its_stated_length_is_truncated(tmp_path):
    """MP4 states the length of each track; here all sound comes before all pictures."""
    source = make_video(tmp_path / "a.mp4", times=range(0, 36_000, 360), noise=True)
    content = bytearray(source.read_bytes())
    sizes = content.index(b"stsz") + 16
    for index in range(40, 100):  # packets of no bytes
        struct.pack_into(">I", content, sizes + 4 * index, 0)
    source.write_bytes(content)
    with pytest.raises(MediaError, match="a.mp4: (truncated|damaged)"):
        transform_video(source, tmp_path / "b.mp4", unchanged)


@pytest.mark.parametrize(
    ("suffix", "codec", "pix_fmt"),
    [
        (".mp4", "libx264", "yuv420p"),
        (".mp4", "libx265", "yuv420p"),  # with checksums: others show nothing
        (".avi", "mpeg4", "yuv420p"),
        (".avi", "mjpeg", "yuvj420p"),
        (".wmv", "wmv1", "yuv420p"),
        (".wmv", "wmv2", "yuv420p"),
        (".avi", "msmpeg4", "yuv420p"),
        (".mkv", "ffv1", "yuv420p"),
        (".ogv", "libvpx", "yuv420p"),  # Ogg's checksums
    ],
)
def test_damaged_frames_are_reported(tmp_path, suffix, codec, pix_fmt):
    times = range(0, 7200, 360)
    source = tmp_path / f"a{suffix}"
    size = (160, 120)
    make_video(source, codec=codec, pix_fmt=pix_fmt, size=size, times=times, noise=True)
    target = plan_jobs(source, tmp_path / "out").jobs[0].target
    sound = transform_video(source, target, unchanged, preset="ultrafast")
    assert sound.frames == 20 and not sound.notes
    report = transform_video(damage(source, 16), target, unchanged, preset="ultrafast")
    (note,) = report.notes
    assert re.fullmatch(r"\d+ of (19|20) frames are damaged .* number (\d|1\d)\): .*", note)


@pytest.mark.parametrize(
    ("suffix", "codec", "sound", "read"),
    [(".mkv", "libx264", "aac", 2), (".mp4", "libx264", "aac", 1), (".wmv", "wmv2", None, 1)],
)
def test_parts_that_are_not_read_are_named(tmp_path, suffix, codec, sound, read):
    part = make_video(tmp_path / f"part{suffix}", codec=codec, audio=sound)
    source = join(tmp_path / f"a{suffix}", *[part] * read)
    report = transform_video(source, tmp_path / "b.mkv", unchanged)
    assert report.frames == 5 * read and len(report.notes) == read - 1
    join(source, *[part] * (read + 1))
    report = transform_video(source, tmp_path / "b.mkv", unchanged)
    assert report.frames == 5 * read and "another recording follows" in report.notes[-1]


APPLE = {
    "com.apple.quicktime.make": "Apple",
    "com.apple.quicktime.creationdate": "2023-05-05T17:00:00+0200",
    "com.apple.quicktime.location.ISO6709": "+48.8577+002.2950+035/",
    "com.apple.quicktime.content.identifier": "0A1B2C3D",
}


@pytest.mark.parametrize(("suffix", "kept"), [(".mov", True), (".mp4", True), (".ts", False)])
def test_tags_of_a_phone_are_kept_or_named(tmp_path, suffix, kept):
    source = tmp_path / "a.mov"
    with av.open(str(source), "w", container_options={"movflags": "use_metadata_tags"}) as result:
        result.metadata.update(APPLE)
        stream = result.add_stream("libx264", rate=25)
        stream.width, stream.height = 64, 48
        result.mux(stream.encode(frames_of(make_video(tmp_path / "plain.mp4"))[0]))
        result.mux(stream.encode(None))
    report = transform_video(source, tmp_path / f"b{suffix}", unchanged)
    with av.open(str(tmp_path / f"b{suffix}")) as container:
        found = {tag: text for tag, text in container.metadata.items() if tag in APPLE}
    assert found == (APPLE if kept else {})
    assert kept or all(tag in report.notes[0] for tag in APPLE)
    assert bool(report.notes) != kept


def test_a_sphere_is_named(tmp_path):
    source = mark_as_sphere(make_video(tmp_path / "a.mp4"))
    report = transform_video(source, tmp_path / "b.mp4", unchanged)
    assert "360-degree video" in report.notes[0]


def captions_of(path: Path) -> list[bytes]:
    frames = frames_of(path)
    return [bytes(each) for f in frames for each in f.side_data if each.type.name == "A53_CC"]


def test_captions_stay_with_their_frames(tmp_path):
    source = make_with_captions(tmp_path / "a.h264")
    report = transform_video(source, tmp_path / "b.mkv", in_batches_of_3)
    expected = [bytes((0xFC, 0x80 + number, 0x81)) for number in range(20)]
    assert captions_of(source) == captions_of(tmp_path / "b.mkv") == expected
    assert not report.notes
