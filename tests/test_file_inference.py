"""`--infer` from command line to files: every promise about images, videos, failures and memory."""

import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import Hungry, make_student, photo, save, whole
from PIL import Image
from stress_corpus import make_stress_corpus, make_video

import main_sharpening_script as script
from sharpening import file_inference, media_files, openvino_backend, video_files
from sharpening.file_inference import FileSettings, Plan, plan_jobs, sharpen_files
from sharpening.media_files import MediaError, read_picture, write_picture
from sharpening.runtime import thread_pool
from sharpening.transcoding import open_video
from sharpening.video_files import transform_video


@pytest.fixture
def sharpen(tmp_path, student_file):
    """Runs `main` on an input -> exit status; results are in tmp_path / "out"."""

    def run(source: Path | None, *flags: str) -> int:
        given = [] if source is None else ["--input", str(source), "--output", f"{tmp_path}/out"]
        if "--inference.backend" not in flags:  # the automatic one converts for seconds
            given += ["--inference.backend", "pytorch"]
        return script.main(
            ["--infer", "--checkpoint", str(student_file), "--device", "cpu", *given, *flags]
        )

    return run


def targets_of(folder: Path) -> dict[Path, Path]:
    """Source -> path of its result below the output folder, of all that could be planned."""
    plan = plan_jobs(folder, folder.with_name("elsewhere"))
    return {job.source: job.target.relative_to(folder.with_name("elsewhere")) for job in plan.jobs}


def files_below(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def video_facts(path: Path) -> tuple[list[float], list[bytes]]:
    """Frame times in seconds (0 where the file has none), and the packets of all but video."""
    with av.open(str(path)) as container:
        times = [round(float(frame.time or 0), 3) for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        others = [stream for stream in container.streams if stream.type != "video"]
        packets = container.demux(others) if others else []
        return times, [bytes(packet) for packet in packets if packet.size]


def check_kept(source: Path, target: Path) -> None:
    """`target` is sound and of the size, depth, layout and length of `source`."""
    if source.suffix in media_files.VIDEO_SUFFIXES:
        assert len(video_facts(source)[0]) == len(video_facts(target)[0])
        return
    before, after = read_picture(source), read_picture(target)
    assert (after.rgb.shape, after.rgb.dtype) == (before.rgb.shape, before.rgb.dtype)
    assert after.format == before.format
    if before.layout != after.layout:  # a palette may need fewer layouts than it had
        assert before.format in ("GIF", "WEBP", "AVIF", "PCX")
    if before.alpha is not None and before.format != "GIF":
        assert np.array_equal(after.alpha, before.alpha)


def test_stress_corpus_loses_nothing(tmp_path, sharpen, capsys):
    corpus = make_stress_corpus(tmp_path / "in")
    assert Counter(corpus.values())["ok"] >= 60 and len(corpus) >= 60
    assert sharpen(tmp_path / "in") == 1
    shown, targets = capsys.readouterr().out, targets_of(tmp_path / "in")
    failed = [line for line in shown.splitlines() if line.startswith("failed: ")]
    for source, fate in corpus.items():
        name = str(source).encode("utf-8", "replace").decode()
        assert (f"failed: {name}: " in shown) == (fate == "fails"), source
        if fate == "ok":
            check_kept(source, tmp_path / "out" / targets[source])
    fine = {targets[source] for source, fate in corpus.items() if fate == "ok"}
    assert files_below(tmp_path / "out") == fine  # and no unfinished file
    assert len(failed) == Counter(corpus.values())["fails"]
    ignored = plan_jobs(tmp_path / "in", tmp_path / "out").ignored
    assert set(ignored) == {source for source, fate in corpus.items() if fate == "ignored"}
    assert f"{len(fine)} sharpened, {len(failed)} failed" in shown
    assert "moving.gif: holds 3 frames" in shown

    stamps = {path: (tmp_path / "out" / path).stat().st_mtime_ns for path in fine}
    assert sharpen(tmp_path / "in") == 1
    assert f"0 sharpened, {len(failed)} failed, {len(fine)} already" in capsys.readouterr().out
    assert all((tmp_path / "out" / p).stat().st_mtime_ns == t for p, t in stamps.items())


def test_overwrite_does_again_and_success_is_0(tmp_path, sharpen, capsys):
    save(tmp_path / "in" / "a.png", photo(40, 50))
    assert sharpen(tmp_path / "in") == 0
    first = (tmp_path / "out" / "a.png").stat().st_mtime_ns
    assert sharpen(tmp_path / "in") == 0
    assert (tmp_path / "out" / "a.png").stat().st_mtime_ns == first
    assert sharpen(tmp_path / "in", "--overwrite") == 0
    assert (tmp_path / "out" / "a.png").stat().st_mtime_ns > first
    shown = capsys.readouterr()
    told = r"student: .*student\.pth, on cpu, \d+ threads, pytorch, (bfloat16|float32)"
    assert re.search(told, shown.out)
    assert "megapixels whole, larger ones in tiles of 1024" in shown.out
    assert "image/s" in shown.err


def test_long_work_goes_through_openvino(tmp_path, sharpen, capsys, monkeypatch):
    pytest.importorskip("openvino", reason="pip install -r requirements-dev.txt")
    monkeypatch.setattr(openvino_backend, "WORTH", 0)
    timings = {"pytorch": 2.0, "openvino": 1.0}

    def shortest_times(work, rounds):
        return {key: timings[key[0]] for key in work}

    monkeypatch.setattr(openvino_backend, "shortest_times", shortest_times)
    for index in range(16):
        save(tmp_path / "in" / f"{index}.png", photo(20 + index % 2, 30, index))
    make_video(tmp_path / "in" / "call.mp4")
    assert sharpen(tmp_path / "in", "--inference.backend", "auto") == 0
    assert "threads, openvino, " in capsys.readouterr().out
    net = script.load_student(tmp_path / "student.pth")
    for index in range(16):
        expected = whole(net, photo(20 + index % 2, 30, index))
        restored = np.asarray(Image.open(tmp_path / "out" / f"{index}.png"))
        np.testing.assert_allclose(restored.astype(int), expected.astype(int), atol=2)
    check_kept(tmp_path / "in" / "call.mp4", tmp_path / "out" / "call.mp4")


def test_format_keeps_sources_of_one_name_apart(tmp_path, sharpen):
    for name in ("same.png", "same.jpg", "other.jpg"):
        save(tmp_path / "in" / name, photo(20, 30))
    assert sharpen(tmp_path / "in", "--inference.format", "webp") == 0
    expected = {"same_png.webp", "same_jpg.webp", "other.webp"}
    assert {path.name for path in files_below(tmp_path / "out")} == expected


def test_what_a_format_cannot_hold_is_refused_before_the_net(
    tmp_path, sharpen, monkeypatch, capsys
):
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "deep.png")
    monkeypatch.setattr(script.Sharpener, "images", lambda *_, **__: pytest.fail("in vain"))
    assert sharpen(tmp_path / "deep.png", "--inference.format", "jpg") == 1
    assert "JPEG cannot hold 16-bit L" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such file or folder"),
        (lambda folder: folder.mkdir(), "holds no images or videos"),
        (lambda folder: save(folder / "out" / "a.png", photo(9, 9)), "would be read again"),
    ],
)
def test_impossible_input_is_a_clear_error(tmp_path, sharpen, capsys, make, message):
    source = tmp_path / "in"
    make(source)
    flags = ["--output", str(source / "out")] if (source / "out").exists() else []
    assert sharpen(source, *flags) == 1
    assert message in capsys.readouterr().err


def test_a_file_is_not_written_over_itself(tmp_path, sharpen, capsys):
    path = save(tmp_path / "out" / "a.png", photo(9, 9))
    before = path.read_bytes()
    assert sharpen(path, "--overwrite") == 1
    assert "is the source itself" in capsys.readouterr().out
    assert path.read_bytes() == before


def test_bare_infer_sharpens_the_demo_photographs(tmp_path, sharpen, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sharpen(None) == 0
    inputs, results = (
        tmp_path / "inference_samples" / f"demo_{n}" for n in ("inputs", "sharpened")
    )
    assert files_below(inputs) == files_below(results) != set()


def test_several_processes_share_a_folder_out(tmp_path):
    for index in range(5):
        save(tmp_path / "in" / f"{index}.png", photo(16, 16, index))
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    script.save_checkpoint(tmp_path / "student.pth", script.network_payload(make_student()))
    flags = ["--infer", "--device", "cpu", "--train.precision", "fp32"]
    flags += ["--checkpoint", tmp_path / "student.pth", "--input", tmp_path / "in"]
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [script.__file__, *flags, "--output", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 1
    assert done.stdout.count("5 sharpened, 1 failed") == 1, done.stderr
    assert done.stdout.count("failed: ") == done.stdout.count("broken.png") == 1
    assert files_below(tmp_path / "out") == {Path(f"{index}.png") for index in range(5)}
    net = script.load_student(tmp_path / "student.pth")
    for index in range(5):
        result = np.asarray(Image.open(tmp_path / "out" / f"{index}.png"))
        assert np.array_equal(result, whole(net, photo(16, 16, index)))


@pytest.mark.parametrize("bad", [{"format": "docx"}, {"quality": 0}, {"crf": 52}, {"tile": 128}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match=r"docx|quality|crf|tile"):
        script.InferenceConfig(**bad)


# --- video


def test_video_keeps_frames_times_and_sound(tmp_path, sharpen, capsys):
    times = (0, 360, 900, 990, 2700, 3060, 3420)  # a variable rate
    source = make_video(tmp_path / "clip.mkv", times=times, audio="aac", subtitles="srt")
    assert sharpen(source, "--inference.tile-batch", "3") == 0
    assert video_facts(tmp_path / "out" / "clip.mkv") == video_facts(source)
    assert "frame/s" in capsys.readouterr().err


def file_run(sharpen, runtime, settings=None, **more):
    whole_images = lambda shape: False  # noqa: E731
    given = (settings or FileSettings(), True)
    return file_inference.FileRun(sharpen, whole_images, runtime, *given, **more)


@pytest.mark.parametrize("batch", [1, 3])
def test_video_frames_come_back_in_order(batch, runtime):
    frames = [np.full((16, 20, 3), value, np.uint8) for value in range(0, 200, 20)]
    calls = []

    def invert(images):
        calls.append(len(images))
        return [255 - image for image in images]

    run = file_run(invert, runtime, FileSettings(tile_batch=batch))
    with thread_pool(1) as pool:
        result = list(run.frames(pool, iter(frames)))
    assert [int(frame[0, 0, 0]) for frame in result] == [255 - v for v in range(0, 200, 20)]
    assert sorted(calls, reverse=True) == {1: [1] * 10, 3: [3, 3, 3, 1]}[batch]


def test_few_frames_are_in_memory(runtime):
    decoded = yielded = most = 0

    def frames():
        nonlocal decoded
        for _ in range(40):
            decoded += 1
            yield np.zeros((8, 8, 3), np.uint8)

    run = file_run(list, runtime)
    with thread_pool(1) as pool:
        for _ in run.frames(pool, frames()):
            yielded += 1
            most = max(most, decoded - yielded)
    assert yielded == 40 and most <= 3


# --- failures that concern the whole run


@pytest.mark.parametrize("kind", ["image", "video"])
def test_full_disk_stops_the_run(tmp_path, sharpen, monkeypatch, capsys, kind):
    count = {"image": 40, "video": 14}[kind]
    for index in range(count):
        if kind == "image":
            save(tmp_path / "in" / f"{index}.png", photo(16, 16))
        else:
            make_video(tmp_path / "in" / f"{index}.mp4", times=(0, 360))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    real, calls = os.fsync, itertools.count()

    def fsync(file):
        if next(calls) >= 4:  # in one step, since two threads write
            raise OSError(28, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    assert sharpen(tmp_path / "in") == 1
    shown = capsys.readouterr().out
    assert "the disk is full: free some space" in shown
    assert "not begun, because the disk is full" in shown
    assert 1 <= shown.count("failed: ") <= 6
    assert len(files_below(tmp_path / "out")) == 4
    monkeypatch.setattr(os, "fsync", real)
    assert sharpen(tmp_path / "in") == 0
    assert len(files_below(tmp_path / "out")) == count


def test_a_decoder_that_crashes_does_not_end_the_run(tmp_path, sharpen, monkeypatch, capsys):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        make_video(tmp_path / "in" / name)
    crash = "import os; opened = t.open_video; t.open_video = lambda path: os.abort() "
    crash += "if path.name == 'b.mp4' else opened(path); t.main()"
    command = (*video_files.COMMAND[:3], video_files.PROGRAM + crash, video_files.COMMAND[4])
    monkeypatch.setattr(video_files, "COMMAND", command)
    assert sharpen(tmp_path / "in") == 1
    shown = capsys.readouterr().out
    assert "b.mp4: its decoder ended the process (signal 6)" in shown
    assert "2 sharpened, 1 failed" in shown
    assert {path.name for path in files_below(tmp_path / "out")} == {"a.mp4", "c.mp4"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["image", "video"])
def test_interruption_leaves_only_finished_files(
    tmp_path, sharpen, monkeypatch, capsys, kind, number
):
    for index in range(6):
        if kind == "image":
            save(tmp_path / "in" / f"{index}.png", photo(16, 16))
        else:
            make_video(tmp_path / "in" / f"{index}.mp4")
    real, calls = script.Sharpener.images, []

    def interrupted(*arguments, **settings):
        calls.append(1)
        if len(calls) == (4 if kind == "image" else 12):
            signal.pthread_kill(threading.main_thread().ident, number)
        return real(*arguments, **settings)

    monkeypatch.setattr(script.Sharpener, "images", interrupted)
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert sharpen(tmp_path / "in") == 130
    finally:
        signal.signal(signal.SIGINT, ours)
    assert signal.getsignal(signal.SIGTERM) == before
    assert "the same command goes on" in capsys.readouterr().out
    done = files_below(tmp_path / "out")
    assert len(done) < 6 and not any(path.name.startswith(".") for path in done)
    for path in done:
        check_kept(tmp_path / "in" / path, tmp_path / "out" / path)
    assert sharpen(tmp_path / "in") == 0
    assert len(files_below(tmp_path / "out")) == 6


def test_a_picture_too_large_for_memory_fails_alone(tmp_path, runtime):
    save(tmp_path / "in" / "large.png", photo(300, 300))
    save(tmp_path / "in" / "small.png", photo(20, 20))
    plan = plan_jobs(tmp_path / "in", tmp_path / "out")
    sharpen = script.Sharpener(Hungry(100 * 100), runtime)
    (failure,) = sharpen_files(plan, sharpen.images, runtime, quiet=True)
    assert "large.png: memory runs out even with tiles" in failure
    assert files_below(tmp_path / "out") == {Path("small.png")}


def test_a_picture_in_tiles_is_computed_alone_in_the_calling_thread(tmp_path, runtime):
    """Its tiles are computed side by side; others beside them would take their cores."""
    for index in range(6):
        save(tmp_path / "in" / f"{index}.png", photo(8 if index % 3 else 30, 8))
    threads = {True: set(), False: set()}

    def sharpen(images):
        threads[images[0].shape[0] > 8].add(threading.current_thread())
        return list(images)

    plan = plan_jobs(tmp_path / "in", tmp_path / "out")
    large = lambda shape: shape[0] > 8  # noqa: E731
    assert sharpen_files(plan, sharpen, runtime, in_tiles=large, quiet=True) == []
    assert threads[True] == {threading.main_thread()}
    assert threading.main_thread() not in threads[False]
    assert len(files_below(tmp_path / "out")) == 6


def test_quiet_and_told_runs_give_the_same_files(tmp_path, runtime, capsys):
    save(tmp_path / "in" / "a.png", photo(8, 8))
    shown = []
    for quiet in (True, False):
        plan = plan_jobs(tmp_path / "in", tmp_path / str(quiet))
        assert sharpen_files(plan, list, runtime, quiet=quiet) == []
        shown.append(capsys.readouterr())
    assert shown[0] == ("", "")
    assert "1 sharpened" in shown[1].out
    images = [np.asarray(Image.open(tmp_path / folder / "a.png")) for folder in ("True", "False")]
    assert np.array_equal(*images) and np.array_equal(images[0], photo(8, 8))


def test_large_pictures_wait_in_smaller_numbers(runtime):
    run = file_run(list, runtime, threads=8)
    depths = {}
    for run.largest in (0.9, 12, 100):
        depths[run.largest] = run.depth()
    assert depths == {0.9: 8, 12: 2, 100: 0}


def test_reading_computing_and_writing_overlap(tmp_path, runtime, monkeypatch):
    """A picture is computed only once the next one is being read, and written only once the next
    one is being computed: done in turn, neither would happen."""
    picture = read_picture(save(tmp_path / "a.png", photo(8, 8)))
    count = 8
    for index in range(count):
        save(tmp_path / "in" / f"{index}.png", photo(8, 8))
    begun = {kind: [threading.Event() for _ in range(count)] for kind in ("read", "compute")}
    computed, written, in_turn = itertools.count(), [], []

    def await_next(kind, index):
        if index + 1 < count and not in_turn and not begun[kind][index + 1].wait(30):
            in_turn.append((kind, index + 1))

    def read(path, **_):
        begun["read"][int(path.stem)].set()
        return picture

    def sharpen(images):
        index = next(computed)
        begun["compute"][index].set()
        await_next("read", index)
        return list(images)

    def write(picture, rgb, path, **_):
        await_next("compute", int(path.stem))
        written.append(path.stem)

    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(file_inference, "read_picture", read)
    monkeypatch.setattr(file_inference, "write_picture", write)
    plan = plan_jobs(tmp_path / "in", tmp_path / "out")
    assert sharpen_files(plan, sharpen, runtime, quiet=True) == []
    assert len(written) == count and in_turn == []


def test_small_pictures_are_computed_side_by_side(tmp_path, runtime, monkeypatch):
    for index in range(6):
        save(tmp_path / "in" / f"{index}.png", photo(8, 8))
    both = threading.Barrier(2, timeout=30)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    plan = plan_jobs(tmp_path / "in", tmp_path / "out")
    sharpen = lambda images: (both.wait(), list(images))[1]  # noqa: E731
    assert sharpen_files(plan, sharpen, runtime, quiet=True) == []
    assert len(files_below(tmp_path / "out")) == 6


def test_huge_pictures_need_the_flag(tmp_path, sharpen, monkeypatch, capsys):
    source = save(tmp_path / "a.png", photo(20, 30))
    monkeypatch.setattr(media_files, "MAX_PIXELS", 20 * 30 - 1)
    assert sharpen(source) == 1 and "allow huge images" in capsys.readouterr().out
    assert not files_below(tmp_path / "out")
    assert sharpen(source, "--inference.allow-huge") == 0
    assert files_below(tmp_path / "out") == {Path("a.png")}


# --- planning


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def names_of(plan: Plan, root: Path) -> list[str]:
    return [str(job.target.relative_to(root)) for job in plan.jobs]


def test_folders_keep_structure_and_natural_order(tmp_path):
    source = touched(
        tmp_path / "in", "a10.png", "a2.PNG", "b/c/d.jpg", ".hidden.png", "notes.txt", "z.mp4"
    )
    touched(source, ".secret/a.png", media_files.PARTIAL + "12.png")
    plan = plan_jobs(source, tmp_path / "out")
    assert names_of(plan, tmp_path / "out") == ["a2.PNG", "a10.png", "b/c/d.jpg", "z.mp4"]
    assert [job.kind for job in plan.jobs] == ["image"] * 3 + ["video"]
    assert [path.name for path in plan.ignored] == ["notes.txt"]
    assert not plan.problems


@pytest.mark.parametrize("suffix", [*media_files.FOREIGN_PICTURES, ".HEIC"])
def test_pictures_that_are_not_read_are_failures_and_no_other_name_changes(tmp_path, suffix):
    source = touched(tmp_path / "in", f"a{suffix}", "a.png", "notes.txt")
    plan = plan_jobs(source, tmp_path / "out", format="jpg")
    assert names_of(plan, tmp_path / "out") == ["a.jpg"]
    assert [path.name for path in plan.ignored] == ["notes.txt"]
    assert plan_jobs(source / f"a{suffix}", tmp_path / "out").problems[0].path.suffix == suffix
    assert [problem.path.name for problem in plan.problems] == [f"a{suffix}"]
    assert "convert it to JPEG" in plan.problems[0].reason


def test_collisions_get_distinct_stable_names(tmp_path):
    names = ["a.png", "a.jpg", "a_png.bmp", "b.png", "v.avi", "v.webm", "v.mkv"]
    source = touched(tmp_path / "in", *names)
    plan = plan_jobs(source, tmp_path / "out", format="webp")
    targets = names_of(plan, tmp_path / "out")
    assert len(set(targets)) == len(names)
    assert {"a_jpg.webp", "a_png.webp", "a_png_.webp", "b.webp"} < set(targets)
    assert {"v_avi.mkv", "v_webm.mkv", "v_mkv.mkv"} < set(targets)
    assert names_of(plan_jobs(source, tmp_path / "out", format="webp"), tmp_path / "out") == targets


def test_finished_files_are_skipped_unless_overwritten(tmp_path):
    source = touched(tmp_path / "in", "a.png", "b.png")
    touched(tmp_path / "out", "a.png")
    plan = plan_jobs(source, tmp_path / "out")
    assert [job.source.name for job in plan.finished] == ["a.png"]
    assert [job.source.name for job in plan.jobs] == ["b.png"]
    assert len(plan_jobs(source, tmp_path / "out", overwrite=True).jobs) == 2


def test_what_a_killed_run_left_is_removed_and_what_another_writes_is_not(tmp_path):
    source = touched(tmp_path / "in", "a.png", "b/c.png")
    left = touched(tmp_path / "out", ".partial-12.png", "b/.partial-34.mp4", "other/.partial-5")
    with media_files.atomic_write(left / "b" / "d.png") as temporary:
        temporary.write_bytes(b"at work")
        plan_jobs(source, left)
        assert temporary.read_bytes() == b"at work"
    found = {str(path.relative_to(left)) for path in left.rglob("*") if path.is_file()}
    assert found == {"b/d.png", "other/.partial-5"}  # no target lies beside the last


@pytest.mark.parametrize("suffix", ["mod", "m2v", "dv", "3g2", "qt", "rm", "insv", "265", "ogm"])
def test_whatever_ffmpeg_decodes_is_taken_for_video(tmp_path, suffix):
    source = touched(tmp_path / "in", f"a.{suffix.upper()}")
    (job,) = plan_jobs(source, tmp_path / "out").jobs
    assert job.kind == "video"
    assert media_files.CONTAINERS[job.target.suffix.lower()]


def test_files_that_are_no_media_are_named(tmp_path):
    source = touched(tmp_path / "in", "a.png", "notes.txt", "layers.xcf")
    plan = plan_jobs(source, tmp_path / "out")
    shown = file_inference.summary(plan, 1, 0)
    assert shown == "1 sharpened, 2 neither image nor video (layers.xcf, notes.txt)"
    many = plan._replace(ignored=[tmp_path / f"{n}.txt" for n in range(12)])
    assert file_inference.summary(many, 1, 0).endswith("9.txt and 2 more)")


def test_loops_end_and_dangling_links_are_reported(tmp_path):
    source = touched(tmp_path / "in", "a/x.png", "b/y.png")
    (source / "a" / "up").symlink_to(source)
    (source / "self.png").symlink_to(source / "self.png")
    (source / "gone.jpg").symlink_to(tmp_path / "nowhere")
    plan = plan_jobs(source, tmp_path / "out")
    assert names_of(plan, tmp_path / "out") == ["a/x.png", "b/y.png"]
    assert sorted(problem.path.name for problem in plan.problems) == ["gone.jpg", "self.png"]


@pytest.mark.parametrize("output", ["in", "in/out", "in/../in", "link", "."])
def test_outputs_that_would_be_inputs_are_refused(tmp_path, output):
    source = touched(tmp_path / "in", "a.png", "in/b.png")
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(MediaError, match="choose another"):
        plan_jobs(source, tmp_path / output)


def test_an_input_folder_that_links_to_the_output_is_refused(tmp_path):
    source = touched(tmp_path / "in", "a.png")
    touched(tmp_path / "out", "b.png")
    (source / "results").symlink_to(tmp_path / "out")
    with pytest.raises(MediaError, match="choose another"):
        plan_jobs(source, tmp_path / "out")


@pytest.mark.parametrize("output", ["file", "file/below", "file/far/below", "link", "loop"])
def test_an_output_that_cannot_be_a_folder_is_refused(tmp_path, output):
    source = touched(tmp_path / "in", "a.png", "b.png")
    touched(tmp_path, "file")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for each in (source, source / "a.png"):
        with pytest.raises(MediaError, match=f"{output}: .*not a folder: choose another output"):
            plan_jobs(each, tmp_path / output)


def test_a_link_to_itself_below_the_output_fails_only_its_own_jobs(tmp_path):
    source = touched(tmp_path / "in", "a.png")
    save(source / "b" / "c.png", photo(24, 37))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b").symlink_to("b")
    plan = plan_jobs(source, tmp_path / "out")
    assert names_of(plan, tmp_path / "out") == ["a.png", "b/c.png"]
    picture = read_picture(plan.jobs[1].source)
    with pytest.raises(MediaError, match="c.png: cannot be written"):
        write_picture(picture, picture.rgb, plan.jobs[1].target)


@pytest.fixture
def locked_out():
    """A folder, and this process without the rights of root, who may enter every folder."""
    with tempfile.TemporaryDirectory() as name:
        folder, user = Path(name), os.geteuid()
        folder.chmod(0o777)
        if user == 0:
            os.seteuid(65534)
        yield folder
        os.seteuid(user)


def test_a_folder_that_may_be_listed_but_not_entered_costs_only_itself(locked_out):
    source = touched(locked_out / "in", "a.png", "locked/b.png", "locked/c.txt", "z.png")
    (source / "link.png").symlink_to(source / "locked" / "b.png")
    (source / "locked").chmod(0o444)
    plan = plan_jobs(source, locked_out / "out")
    assert names_of(plan, locked_out / "out") == ["a.png", "z.png"]
    assert [problem.path.name for problem in plan.problems] == ["link.png", "b.png", "c.txt"]
    assert all("(Permission denied)" in problem.reason for problem in plan.problems)
    with pytest.raises(MediaError, match="b.png: .*Permission denied"):
        plan_jobs(source / "locked" / "b.png", locked_out / "out")
    with (
        pytest.raises(MediaError, match="b.mp4: .*Permission denied"),
        open_video(source / "locked" / "b.mp4"),
    ):
        pass
    outputs = plan_jobs(source / "a.png", source / "locked" / "out")
    assert [problem.path.name for problem in outputs.problems] == ["a.png"]


def test_an_output_folder_that_may_not_be_entered_gives_problems(locked_out):
    source = touched(locked_out / "in", "a.png", "sub/b.png")
    touched(locked_out / "out", "sub/old").joinpath("sub").chmod(0)
    plan = plan_jobs(source, locked_out / "out")
    assert names_of(plan, locked_out / "out") == ["a.png"]
    assert [problem.path for problem in plan.problems] == [locked_out / "out" / "sub" / "b.png"]


def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path):
    source = make_video(tmp_path / "a.mp4")
    with pytest.raises(MediaError, match="File name too long"):
        transform_video(source, tmp_path / "out" / ("x" * 252 + ".mp4"), lambda frames: 1 / 0)
    assert not list((tmp_path / "out").iterdir())


def test_a_name_that_grows_too_long_costs_only_itself(tmp_path):
    source = touched(tmp_path / "in", "a.png", "x" * 251 + ".png")
    assert len(plan_jobs(source, tmp_path / "out").jobs) == 2
    (tmp_path / "out").mkdir()  # before that, nothing tells how long a name may be there
    plan = plan_jobs(source, tmp_path / "out", format="webp")
    assert names_of(plan, tmp_path / "out") == ["a.webp"]
    assert plan.problems[0].path == tmp_path / "out" / ("x" * 251 + ".webp")
    assert "File name too long" in plan.problems[0].reason
    with pytest.raises(MediaError, match="File name too long"):
        plan_jobs(tmp_path / ("x" * 256), tmp_path / "out")


def test_single_files(tmp_path):
    source = touched(tmp_path, "a.png", "clip.webm", "b.psd", "extensionless") / "a.png"
    assert names_of(plan_jobs(source, tmp_path / "out"), tmp_path) == ["out/a.png"]
    clip = plan_jobs(tmp_path / "clip.webm", tmp_path / "out").jobs[0]
    assert (clip.kind, clip.target.name) == ("video", "clip.mkv")
    assert plan_jobs(tmp_path / "extensionless", tmp_path / "out").jobs[0].kind == "image"
    assert "choose a format" in plan_jobs(tmp_path / "b.psd", tmp_path / "out").problems[0].reason
    assert "source itself" in plan_jobs(source, tmp_path, overwrite=True).problems[0].reason
    with pytest.raises(MediaError, match="no such file"):
        plan_jobs(tmp_path / "none.png", tmp_path / "out")
    with pytest.raises(ValueError, match="choose one of"):
        plan_jobs(source, tmp_path / "out", format="docx")


# --- by hand: a quiet machine and minutes

ONE_RUN = """
import sys
import main_sharpening_script as script
from tools.machine import memory_line
before = memory_line("VmHWM")  # not ru_maxrss, which begins with the peak of who started this
status = script.main(sys.argv[1:])
print("peak_bytes", int(memory_line("VmHWM") - before), status)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_100_megapixels_need_less_than_2_gigabytes(tmp_path, suffix):
    student = tmp_path / "student.pth"
    script.save_checkpoint(student, script.network_payload(make_student(script.StudentConfig())))
    Image.effect_noise((12_500, 8_000), 40).convert("RGB").save(tmp_path / f"a.{suffix}")
    arguments = ["--infer", "--device", "cpu", "--checkpoint", str(student)]
    arguments += ["--input", str(tmp_path / f"a.{suffix}"), "--output", str(tmp_path / "out")]
    command = [sys.executable, "-c", ONE_RUN, *arguments]
    run = subprocess.run(command, cwd=script.HERE, capture_output=True, text=True, check=True)
    peak, status = map(int, re.search(r"peak_bytes (\d+) (\d+)", run.stdout).groups())
    print(f"{suffix}: {peak / 1e9:.2f} GB at most")
    assert status == 0 and peak < 2e9
