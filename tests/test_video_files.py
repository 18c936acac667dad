"""video_files.py: every frame keeps its time, and whatever is not a frame is copied."""

import hashlib
import queue
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from stress_corpus import make_video
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
    times = range(0, 9000 * 4, 360)
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
