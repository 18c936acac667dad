"""`--infer` from command line to files: every promise about images, videos, failures and memory."""

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import TINY_STUDENT, photo, save
from PIL import Image
from stress_corpus import make_stress_corpus, make_video

import main_sharpening_script as script
from sharpening import file_inference, media_files


def make_student(config=TINY_STUDENT, strength: float = 1e-3) -> script.SEUNet:
    """An untrained student; `strength` is the standard deviation of its last weights."""
    torch.manual_seed(0)
    student = script.SEUNet(config)
    torch.nn.init.normal_(student.last.weight, std=strength)
    return student.eval().requires_grad_(False)


def make_lively_student() -> script.SEUNet:
    """Trained-like: what the blocks add and how squeeze-and-excitation weighs it matter."""
    student = make_student(strength=0.01)
    for module in student.modules():
        if isinstance(module, script.ResidualBlock):
            module.merge.weight *= 10
        if isinstance(module, script.SqueezeExcite):
            module.squeeze.weight *= 10
            module.excite.weight *= 10
    return student


@pytest.fixture
def sharpen(tmp_path):
    """Runs `main` on an input -> exit status; results are in tmp_path / "out"."""
    path = tmp_path / "student.pth"
    script.save_checkpoint(path, script.network_payload(make_student()))

    def run(source: Path | None, *flags: str) -> int:
        given = [] if source is None else ["--input", str(source), "--output", f"{tmp_path}/out"]
        if "--infer-config.backend" not in flags:  # the automatic one converts for seconds
            given += ["--infer-config.backend", "pytorch"]
        return script.main(
            ["--infer", "--checkpoint", str(path), "--device", "cpu", *given, *flags]
        )

    return run


def targets_of(folder: Path) -> dict[Path, Path]:
    """Source -> path of its result below the output folder, of all that could be planned."""
    plan = file_inference.plan_jobs(folder, folder.with_name("elsewhere"))
    return {job.source: job.target.relative_to(folder.with_name("elsewhere")) for job in plan.jobs}


def files_below(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def video_facts(path: Path) -> tuple[list[float], list[bytes]]:
    """Frame times in seconds, and the packets of everything that is not video."""
    with av.open(str(path)) as container:
        times = [round(float(frame.time), 3) for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        others = [stream for stream in container.streams if stream.type != "video"]
        packets = container.demux(others) if others else []
        return times, [bytes(packet) for packet in packets if packet.size]


def check_kept(source: Path, target: Path) -> None:
    """`target` is sound and of the size, depth, layout and length of `source`."""
    if source.suffix in media_files.VIDEO_SUFFIXES:
        assert len(video_facts(source)[0]) == len(video_facts(target)[0])
        return
    before, after = media_files.read_picture(source), media_files.read_picture(target)
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


def test_many_images_and_videos_go_through_openvino(tmp_path, sharpen, capsys):
    pytest.importorskip("openvino", reason="pip install -r requirements-dev.txt")
    for index in range(16):
        save(tmp_path / "in" / f"{index}.png", photo(20 + index % 2, 30, index))
    make_video(tmp_path / "in" / "call.mp4")
    assert sharpen(tmp_path / "in", "--infer-config.backend", "auto") == 0
    assert "threads, openvino, " in capsys.readouterr().out
    net = script.load_student(tmp_path / "student.pth")
    where = script.Runtime(torch.device("cpu"), torch.float32)
    for index in range(16):
        expected = script.sharpen_whole(net, photo(20 + index % 2, 30, index), where)
        restored = np.asarray(Image.open(tmp_path / "out" / f"{index}.png"))
        np.testing.assert_allclose(restored.astype(int), expected.astype(int), atol=2)
    check_kept(tmp_path / "in" / "call.mp4", tmp_path / "out" / "call.mp4")


def test_format_keeps_sources_of_one_name_apart(tmp_path, sharpen):
    for name in ("same.png", "same.jpg", "other.jpg"):
        save(tmp_path / "in" / name, photo(20, 30))
    assert sharpen(tmp_path / "in", "--infer-config.format", "webp") == 0
    expected = {"same_png.webp", "same_jpg.webp", "other.webp"}
    assert {path.name for path in files_below(tmp_path / "out")} == expected


def test_what_a_format_cannot_hold_is_refused_before_the_net(
    tmp_path, sharpen, monkeypatch, capsys
):
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "deep.png")
    monkeypatch.setattr(script, "sharpen_images", lambda *_: pytest.fail("computed in vain"))
    assert sharpen(tmp_path / "deep.png", "--infer-config.format", "jpg") == 1
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


def test_several_processes_are_refused(config):
    with pytest.raises(script.SharpeningError, match="without torchrun"):
        script.infer(config, script.Runtime(torch.device("cpu"), torch.float32, world=2))


@pytest.mark.parametrize("bad", [{"format": "docx"}, {"quality": 0}, {"crf": 52}, {"tile": 128}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match=r"docx|quality|crf|tile"):
        script.InferConfig(**bad)


# --- video


def test_video_keeps_frames_times_and_sound(tmp_path, sharpen, capsys):
    times = (0, 360, 900, 990, 2700, 3060, 3420)  # a variable rate
    source = make_video(tmp_path / "clip.mkv", times=times, audio="aac", subtitles="srt")
    assert sharpen(source, "--infer-config.tile-batch", "3") == 0
    assert video_facts(tmp_path / "out" / "clip.mkv") == video_facts(source)
    assert "frame/s" in capsys.readouterr().err


@pytest.mark.parametrize("batch", [1, 3])
def test_video_frames_come_back_in_order(batch, runtime):
    frames = [np.full((16, 20, 3), value, np.uint8) for value in range(0, 200, 20)]
    invert = torch.nn.Module()
    invert.forward = lambda x: 1 - x
    run = script.FileRun(invert, runtime, script.InferConfig(tile_batch=batch))
    with script.thread_pool(1) as pool:
        result = list(run.frames(pool, iter(frames)))
    assert [int(frame[0, 0, 0]) for frame in result] == [255 - v for v in range(0, 200, 20)]


def test_few_frames_are_in_memory(runtime):
    decoded = yielded = most = 0

    def frames():
        nonlocal decoded
        for _ in range(40):
            decoded += 1
            yield np.zeros((8, 8, 3), np.uint8)

    run = script.FileRun(torch.nn.Identity(), runtime, script.InferConfig())
    with script.thread_pool(1) as pool:
        for _ in run.frames(pool, frames()):
            yielded += 1
            most = max(most, decoded - yielded)
    assert yielded == 40 and most <= 3


# --- failures that concern the whole run


@pytest.mark.parametrize("kind", ["image", "video"])
def test_full_disk_stops_the_run(tmp_path, sharpen, monkeypatch, capsys, kind):
    for index in range(40):
        if kind == "image":
            save(tmp_path / "in" / f"{index}.png", photo(16, 16))
        else:
            make_video(tmp_path / "in" / f"{index}.mp4", times=(0, 360))
    monkeypatch.setattr(script.os, "cpu_count", lambda: 2)
    real, calls = os.fsync, itertools.count()

    def fsync(file):
        if next(calls) >= 4:  # in one step, since two threads write
            raise OSError(28, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    assert sharpen(tmp_path / "in") == 1
    shown = capsys.readouterr().out
    assert "the disk is full: free some space" in shown
    assert "not begun, since the disk is full" in shown
    assert 1 <= shown.count("failed: ") <= 6
    assert len(files_below(tmp_path / "out")) == 4
    monkeypatch.setattr(os, "fsync", real)
    assert sharpen(tmp_path / "in") == 0
    assert len(files_below(tmp_path / "out")) == 40


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
    real, calls = script.sharpen_images, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == (4 if kind == "image" else 12):
            signal.pthread_kill(threading.main_thread().ident, number)
        return real(*arguments)

    monkeypatch.setattr(script, "sharpen_images", interrupted)
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


class Hungry(torch.nn.Module):
    """Has memory for so many pixels; fails as PyTorch's allocator on the CPU does."""

    def __init__(self, pixels: int):
        super().__init__()
        self.pixels, self.failures = pixels, 0

    def forward(self, x):
        if x.shape[2] * x.shape[3] > self.pixels:
            self.failures += 1
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")
        return x


def test_out_of_memory_on_the_cpu_halves_the_tile_once_per_size(runtime):
    net, image, fitting = Hungry(150 * 150), photo(200, 300), {}
    for _ in range(3):
        (result,) = script.sharpen_images(
            net, [image], runtime, script.InferConfig(overlap=16), fitting
        )
        assert np.array_equal(result, image)
    assert net.failures == 1 and fitting == {(200, 300, 3): 150}


def test_other_errors_of_the_net_are_not_taken_for_lack_of_memory(runtime):
    def broken(x):
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        script.sharpen_image(broken, photo(20, 20), runtime, script.InferConfig())


def test_a_picture_too_large_for_memory_fails_alone(tmp_path, config, runtime):
    save(tmp_path / "in" / "large.png", photo(300, 300))
    save(tmp_path / "in" / "small.png", photo(20, 20))
    config = script.dataclasses.replace(config, input=tmp_path / "in", output=tmp_path / "out")
    (failure,) = script.sharpen_files(
        Hungry(100 * 100), script.plan_files(config), config.infer_config, runtime, quiet=True
    )
    assert "large.png: memory runs out even with tiles" in failure
    assert files_below(tmp_path / "out") == {Path("small.png")}


def test_no_more_is_read_ahead_than_asked():
    begun = []
    with script.thread_pool(4) as pool:
        for count, (item, future) in enumerate(
            script.ahead(pool, lambda i: begun.append(i) or i * i, range(20), lambda: 3)
        ):
            assert item == count and future.result() == count * count
            assert len(begun) <= count + 4
    with script.thread_pool(4) as pool:
        begun.clear()
        for count, _ in enumerate(script.ahead(pool, begun.append, range(5), lambda: 0)):
            assert len(begun) == count + 1


def test_large_pictures_wait_in_smaller_numbers(runtime):
    run = script.FileRun(torch.nn.Identity(), runtime, script.InferConfig(), threads=8)
    depths = {}
    for run.largest in (0.9, 12, 100):
        depths[run.largest] = run.depth()
    assert depths == {0.9: 8, 12: 2, 100: 0}


def test_reading_computing_and_writing_overlap(tmp_path, config, runtime, monkeypatch):
    """The net ends a picture only once the next one is being read, and a writer only once the net
    has begun the next: done in turn, neither would come to pass."""
    picture = media_files.read_picture(save(tmp_path / "a.png", photo(8, 8)))
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

    def compute(x):
        index = next(computed)
        begun["compute"][index].set()
        await_next("read", index)
        return x

    def write(picture, rgb, path, **_):
        await_next("compute", int(path.stem))
        written.append(path.stem)

    monkeypatch.setattr(script.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(media_files, "read_picture", read)
    monkeypatch.setattr(media_files, "write_picture", write)
    net = torch.nn.Module()
    net.forward = compute
    job = script.dataclasses.replace(config, input=tmp_path / "in", output=tmp_path / "out")
    plan = script.plan_files(job)
    assert script.sharpen_files(net, plan, job.infer_config, runtime, quiet=True) == []
    assert len(written) == count and in_turn == []


def test_small_pictures_are_computed_side_by_side(tmp_path, config, runtime, monkeypatch):
    for index in range(6):
        save(tmp_path / "in" / f"{index}.png", photo(8, 8))
    side_by_side = threading.Barrier(2, timeout=30)
    net = torch.nn.Module()
    net.forward = lambda x: (side_by_side.wait(), x)[1]
    monkeypatch.setattr(script.torch, "get_num_threads", lambda: 2)
    job = script.dataclasses.replace(config, input=tmp_path / "in", output=tmp_path / "out")
    plan = script.plan_files(job)
    assert script.sharpen_files(net, plan, job.infer_config, runtime, quiet=True) == []
    assert len(files_below(tmp_path / "out")) == 6


def test_huge_pictures_need_the_flag(tmp_path, sharpen, monkeypatch, capsys):
    source = save(tmp_path / "a.png", photo(20, 30))
    monkeypatch.setattr(media_files, "MAX_PIXELS", 20 * 30 - 1)
    assert sharpen(source) == 1 and "allow huge images" in capsys.readouterr().out
    assert not files_below(tmp_path / "out")
    assert sharpen(source, "--infer-config.allow-huge") == 0
    assert files_below(tmp_path / "out") == {Path("a.png")}


# --- pixels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("tile", [None, 192])
def test_flat_colour_stays(dtype, tile):
    half_a_level = np.iinfo(dtype).max / 255 / 2
    net = make_student(script.StudentConfig(), strength=1e-4)
    for precision in (torch.float32, torch.bfloat16):
        runtime = script.Runtime(torch.device("cpu"), precision)
        for colour in ((0, 128, 255), (7, 7, 7), (200, 90, 33)):
            flat = np.zeros((160, 210, 3), dtype) + np.array(colour, dtype) * (
                np.iinfo(dtype).max // 255
            )
            flat = flat.astype(dtype)
            config = script.InferConfig(tile=tile)
            result = script.sharpen_image(net, flat, runtime, config)
            shift = np.abs(result.mean((0, 1)) - flat.mean((0, 1)))
            assert shift.max() <= half_a_level


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (2, 3), (257, 255), (608, 320)])
def test_any_size_whole_and_tiled(size, runtime):
    image = np.tile(photo(512, 512), (2, 2, 1))[: size[0], : size[1]]
    net = make_student(strength=0.01)
    whole = script.sharpen_whole(net, image, runtime)
    tiled = script.sharpen_tiled(net, image, runtime, 160, 32)
    assert whole.shape == tiled.shape == image.shape
    assert whole.flags.c_contiguous and tiled.flags.c_contiguous
    if size == (608, 320):  # else the tiles do not begin on the net's grid
        assert np.abs(whole.astype(int) - tiled).mean() < 1


def test_a_batch_of_frames_equals_single_frames(runtime):
    frames = [photo(50, 60, seed) for seed in range(3)]
    net = make_student(strength=0.01)
    together = script.sharpen_images(net, frames, runtime, script.InferConfig())
    for frame, result in zip(frames, together, strict=True):
        alone = script.sharpen_whole(net, frame, runtime)
        assert np.abs(result.astype(int) - alone).max() <= 1


def test_16_bits_are_not_cut_to_8(runtime):
    ramp = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64, 1).repeat(3, axis=2) + 30000
    result = script.sharpen_whole(torch.nn.Identity(), ramp, runtime)
    assert np.array_equal(result, ramp)
    sharpened = script.sharpen_whole(make_student(strength=1e-4), ramp, runtime)
    assert len(np.unique(sharpened)) > 1000


@pytest.mark.parametrize("length", [1, 100, 1024, 1025, 1080, 1920, 4000, 12_000])
@pytest.mark.parametrize("tile", [200, 512, 1024])
def test_even_tiles_cover_with_no_more_work(length, tile):
    side = script.even_tile(length, tile, 64)
    starts = script.tile_starts(length, side, 64)
    plain = script.tile_starts(length, tile, 64)
    assert starts[-1] + side == max(length, side) and side <= max(tile, 1)
    assert len(starts) <= len(plain) and len(starts) * side <= len(plain) * min(tile, length)
    if length > tile:  # what is computed twice is the overlap and the rounding to 16
        assert len(starts) * side <= length + (len(starts) - 1) * 64 + 16 * len(starts)


def steps(image: np.ndarray, at: list[int]) -> float:
    """Mean difference between the columns right and left of each position."""
    return float(np.mean([np.abs(image[:, x] - image[:, x - 1]).mean() for x in at]))


def seam(net, image, runtime, overlap: int) -> tuple[float, float]:
    """Mean step of the error of tiling (against whole) where tiles begin or end, and elsewhere."""
    whole = script.sharpen_whole(net, image, runtime).astype(np.float64)
    tile = script.even_tile(image.shape[1], 200, overlap)
    error = script.sharpen_tiled(net, image, runtime, 200, overlap).astype(np.float64) - whole
    starts = script.tile_starts(image.shape[1], tile, overlap)
    borders = [*starts[1:], *(start + tile for start in starts[:-1])]
    apart = [x for x in range(8, image.shape[1] - 8) if min(abs(x - b) for b in borders) > 4]
    return steps(error, borders), steps(error, apart)


@pytest.mark.parametrize("make", [make_student, make_lively_student])
def test_a_seam_cannot_be_seen(runtime, make):
    net = make()
    image = np.concatenate([photo(176, 512, seed) for seed in range(2)]).astype(np.uint16) * 257
    border, elsewhere = seam(net, image, runtime, 64)
    unseen = max(1.5 * elsewhere, 0.1)  # of 65,535 levels: what is below a tenth is rounding
    assert 0 < border < min(unseen, 257 / 4)  # a quarter of an 8-bit level
    border, elsewhere = seam(net, image, runtime, 0)
    assert border > 5 * elsewhere  # without overlap it shows: the measure can tell


@pytest.mark.parametrize("make", [make_student, make_lively_student])
def test_steps_of_the_picture_at_tile_borders_are_no_larger_than_elsewhere(runtime, make):
    """Of the 8-bit result, against the steps of the untiled result in the same columns; half a
    per cent is a fifteenth of a level here."""
    net, image = make(), np.concatenate([photo(176, 512, seed) for seed in range(2)])
    whole = script.sharpen_whole(net, image, runtime).astype(np.float64)
    tiled = script.sharpen_tiled(net, image, runtime, 200, 64).astype(np.float64)
    side = script.even_tile(512, 200, 64)
    starts = script.tile_starts(512, side, 64)
    borders = [*starts[1:], *(start + side for start in starts[:-1])]
    apart = [x for x in range(8, 504) if min(abs(x - b) for b in borders) > 4]
    at_borders = steps(tiled, borders) / steps(whole, borders)
    assert at_borders <= 1.005 * steps(tiled, apart) / steps(whole, apart)


def test_pool_window_changes_only_what_pools_see(runtime):
    net = script.with_pool_window(make_lively_student(), None)
    image = photo(96, 128).astype(np.uint16) * 257
    whole = script.sharpen_whole(net, image, runtime)
    wide = script.sharpen_whole(script.with_pool_window(net, 4096), image, runtime)
    assert np.abs(wide.astype(int) - whole).max() <= 8
    narrow = script.sharpen_whole(script.with_pool_window(net, 32), image, runtime)
    assert np.abs(narrow.astype(int) - whole).max() > 100
    back = script.with_pool_window(script.with_pool_window(net, 32), None)
    assert np.array_equal(script.sharpen_whole(back, image, runtime), whole)


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
