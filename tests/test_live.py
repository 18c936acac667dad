"""Live: a file is the camera and a list is the screen.

Each frame of the file carries its number as dark and light blocks, so what is shown gives order,
drops and latency.
"""

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from fractions import Fraction

import av
import numpy as np
import pytest
from conftest import photo

import main_sharpening_script as script
from sharpening import SharpeningError, live
from sharpening.live import (
    OFF,
    Clock,
    Controls,
    Frame,
    Live,
    LiveConfig,
    Output,
    RateControl,
    Recording,
    Slot,
    camera_frames,
    run_live,
)

BITS, BLOCK = 10, 8


def numbered(image: np.ndarray, number: int) -> np.ndarray:
    """`image` with `number` as blocks of 8 pixels along its upper edge."""
    image = image.copy()
    for bit in range(BITS):
        level = 235 if number >> bit & 1 else 16
        image[:BLOCK, BLOCK * bit : BLOCK * (bit + 1)] = level
    return image


def number_of(image: np.ndarray) -> int:
    blocks = image[2 : BLOCK - 2, : BLOCK * BITS].reshape(BLOCK - 4, BITS, BLOCK, 3)
    return sum(1 << bit for bit, mean in enumerate(blocks.mean((0, 2, 3))) if mean > 125)


def write_clip(path, count=45, rate=30, size=(72, 96)):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered(photo(*size), number))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("live") / "clip.mp4")


class Screen(Output):
    """Notes what is shown and when; `delay` seconds pass for each frame."""

    def __init__(self, delay=0.0, keys=None):
        self.delay, self.keys, self.frames, self.closed = delay, dict(keys or {}), [], 0

    def show(self, frame):
        time.sleep(self.delay)
        self.frames.append((number_of(frame.image), time.monotonic() - frame.captured, frame.image))

    def pressed(self):
        return self.keys.pop(len(self.frames), "")

    def close(self):
        self.closed += 1

    @property
    def numbers(self):
        return [number for number, _, _ in self.frames]

    @property
    def latencies(self):
        return [latency for _, latency, _ in self.frames]


def same(image):
    return image


def lighter(image):
    return np.minimum(image, 245) + np.uint8(10)


def play(clip, sharpen=same, screen=None, said=None, **settings):
    screen = screen or Screen()
    config = LiveConfig(camera=str(clip), **settings)
    report = run_live(sharpen, config, say=(said if said is not None else []).append, output=screen)
    assert screen.closed == 1
    return screen, report


def ordered(numbers):
    return all(a < b for a, b in zip(numbers, numbers[1:], strict=False))


# --- a file as the camera -------------------------------------------------------------------------


def test_a_file_plays_at_its_own_speed_in_order_to_its_last_frame(clip):
    screen, report = play(clip)
    assert ordered(screen.numbers) and screen.numbers[-1] == 44
    assert report.captured == 45 and 1.3 < report.seconds < 4
    assert report.captured == report.shown + report.dropped_before + report.dropped_after
    assert report.shown == len(screen.frames) > 25
    assert report.latency == pytest.approx(np.median(screen.latencies), abs=0.02)


def test_the_result_is_the_sharpened_picture(clip):
    screen, _ = play(clip, lighter, filter=False)
    plain, _ = play(clip)
    twins = {number: image for number, _, image in plain.frames}
    number, _, image = next(each for each in screen.frames[3:] if each[0] in twins)
    difference = image.astype(int) - twins[number]
    assert np.median(difference) == 10 and difference.max() == 10


@pytest.mark.parametrize("where", ["computing", "showing"])
def test_a_slow_stage_drops_frames_and_latency_does_not_grow(tmp_path, where):
    clip = write_clip(tmp_path / "fast.mp4", 120, rate=60)
    screen = Screen(0.05 if where == "showing" else 0)

    def slow(image):
        time.sleep(0.05 if where == "computing" else 0)
        return image

    screen, report = play(clip, slow, screen, rate=1)
    assert ordered(screen.numbers) and screen.numbers[-1] >= 117
    dropped = report.dropped_before if where == "computing" else report.dropped_after
    assert dropped > 50
    early, late = np.array_split(screen.latencies, 2)
    assert np.median(late) < np.median(early) + 0.05 and np.median(late) < 0.25


def test_a_consumer_that_stalls_holds_neither_reading_nor_computing_up(clip):
    computed = []
    screen, report = play(clip, lambda image: computed.append(0) or image, Screen(0.7))
    assert report.captured == 45 and len(computed) > 25
    assert len(screen.frames) <= 5 and screen.numbers[-1] == 44


def test_a_slot_holds_the_newest_item_alone():
    slot = Slot()
    assert slot.take(0.01) is None
    for item in "abc":
        slot.put(item)
    slot.close()
    assert not slot.ended() and slot.take(1) == "c" and slot.dropped == 2
    assert slot.ended() and slot.take(1) is None


def test_a_clock_follows_the_times_of_the_frames_and_forgives_a_gap():
    stop = types.SimpleNamespace(waits=[])
    stop.wait = stop.waits.append
    clock = Clock(stop)
    for at in (10.0, 10.5, 5000.0, 5000.25, 1.0, 1.125):
        clock.wait(types.SimpleNamespace(time=at), 0.04)
    clock.wait(types.SimpleNamespace(time=None), 0.04)
    assert stop.waits == pytest.approx([0, 0.5, 0, 0.25, 0, 0.125, 0.165], abs=0.1)


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("broken"), SharpeningError("damaged")])
def test_the_plain_picture_goes_on_where_computing_fails(clip, error):
    def fail(image):
        raise error

    said = []
    screen, _ = play(clip, fail, said=said)
    assert len(screen.frames) > 25 and screen.numbers[-1] == 44
    (line,) = (line for line in said if line.startswith("not sharpened"))
    assert str(error) in line


def test_computing_is_tried_again_later(clip, monkeypatch):
    monkeypatch.setattr(live, "RETRY_SECONDS", 0.03)
    calls = []

    def recovers(image):
        calls.append(0)
        if len(calls) == 1:
            raise RuntimeError("once")
        return lighter(image)

    screen, _ = play(clip, recovers, filter=False)
    assert len(calls) > 5
    assert np.median(screen.frames[-1][2].astype(int) - screen.frames[0][2]) == 10


def test_an_error_of_the_output_ends_all_stages_and_is_raised(clip):
    class Broken(Screen):
        def show(self, frame):
            raise SharpeningError("the screen broke")

    screen, begun = Broken(), time.monotonic()
    with pytest.raises(SharpeningError, match="the screen broke"):
        play(clip, screen=screen)
    assert screen.closed == 1 and time.monotonic() - begun < 1.5


def test_a_camera_that_goes_away_is_waited_for(monkeypatch):
    monkeypatch.setattr(live, "RETRY_SECONDS", 0.01)
    opened = []

    def pictures(config, stop):
        opened.append(0)
        if len(opened) in (2, 3):
            raise av.error.OSError(5, "Input/output error")
        yield photo(8, 8)
        yield photo(8, 8)
        if len(opened) == 1:
            raise OSError(19, "No such device")

    said, config = [], LiveConfig(camera="0")
    stop = live.threading.Event()
    assert len(list(camera_frames(config, stop, said.append, pictures))) == 4
    assert said == ["the camera is gone (No such device): waiting for it", "the camera is back"]


@pytest.mark.parametrize("kind", ["missing", "empty", "sound", "text"])
def test_a_bad_file_is_an_error_that_names_it(tmp_path, kind):
    path = tmp_path / f"{kind}.mkv"
    if kind == "sound":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
            frame.sample_rate = 8000
            container.mux(stream.encode(frame))
    elif kind != "missing":
        path.write_text("not a video" if kind == "text" else "")
    with pytest.raises(SharpeningError, match=path.name):
        play(path)


def test_a_damaged_part_of_a_file_is_left_out(clip, tmp_path):
    data = bytearray(clip.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 400] = bytes(400)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    screen, _ = play(path)
    assert len(screen.frames) > 5


def test_a_size_that_changes_midway_is_followed(monkeypatch):
    def pictures(config, stop):
        for index in range(12):
            time.sleep(0.03)
            yield photo(*((40, 60) if index < 6 else (33, 47)))

    shapes = []

    class Shapes(Screen):
        def show(self, frame):
            shapes.append(frame.image.shape[:2])

    monkeypatch.setattr(live, "camera_frames", lambda *a: camera_frames(*a, pictures=pictures))
    run_live(lighter, LiveConfig(), say=[].append, output=Shapes())
    assert set(shapes) == {(40, 60), (33, 47)} and shapes == sorted(shapes, reverse=True)


INTERRUPTED = """
import signal, sys, time
import numpy as np
from pathlib import Path
from sharpening.live import LiveConfig, Recording, run_live

class Told(Recording):
    def show(self, frame):
        super().show(frame)
        if frame.captured - self.begun > 0.2:
            print("running", flush=True)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
config = LiveConfig(camera=sys.argv[1], repeat=True)
run_live(lambda image: image, config, output=Told(Path(sys.argv[2])))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_within_a_second_and_the_recording_is_whole(clip, tmp_path, number):
    if number == signal.SIGTERM and sys.platform == "win32":
        pytest.skip("Windows has no SIGTERM")
    target, here = tmp_path / "result.mp4", str(script.HERE)
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(clip), str(target)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": here},
    )
    while process.stdout.readline() != "running\n":
        assert process.poll() is None
    begun = time.monotonic()
    process.send_signal(number)
    while "frames shown" not in process.stdout.readline():  # written when all is released
        assert process.poll() is None
    assert time.monotonic() - begun < 1
    assert process.wait(timeout=30) == 0
    with av.open(str(target)) as container:
        assert sum(1 for _ in container.decode(video=0)) > 3
    assert list(tmp_path.iterdir()) == [target]


# --- adapting -------------------------------------------------------------------------------------


def drive(control, seconds_of, until, start=0.0, interval=1 / 30):
    """Frames whose cost depends on the level, until a time -> (levels with their times)."""
    now, changes = start, []
    while now < until:
        seconds = seconds_of(control.level)
        now += max(seconds, interval)
        if control.frame(now, seconds, interval):
            changes.append((now - start, control.level))
    return changes


def test_it_steps_down_until_the_rate_holds_and_stays():
    control = RateControl(24)
    changes = drive(control, lambda level: (0.5, 0.125, 0.035, 0.001)[level], 60)
    assert [level for _, level in changes] == [1, 2] and changes[-1][0] < 10


def test_half_of_the_rate_is_enough_to_stay_on():
    control = RateControl(24)
    changes = drive(control, lambda level: (0.4, 0.15, 0.07, 0.001)[level], 60)
    assert [level for _, level in changes] == [1, 2]


def test_it_switches_off_where_nothing_holds_and_tries_again_ever_less_often():
    control = RateControl(24)
    changes = drive(control, lambda level: 0.2 if level < OFF else 0.001, 300)
    assert max(level for _, level in changes) == OFF
    tries = [at for at, level in changes if level == OFF - 1][1:]
    waits = np.diff(tries)
    assert len(tries) >= 3 and waits[0] < waits[1] and waits[-1] < 70


def test_it_steps_up_again_after_a_while_but_not_for_a_little_gain():
    control = RateControl(24, level=2)
    assert drive(control, lambda level: (0.05, 0.02, 0.009, 0.001)[level], 30)[0][1] == 1
    control = RateControl(24, level=1)
    assert drive(control, lambda level: (0.039, 0.010, 0.004, 0.001)[level], 30) == []


def test_a_slow_camera_is_no_reason_to_compute_less():
    control = RateControl(24)
    assert drive(control, lambda level: 0.06, 20, interval=1 / 15) == []


@pytest.mark.parametrize("size", [(72, 96), (71, 95), (5, 7)])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_residual_of_a_smaller_picture_fits_the_picture(size, factor):
    image = photo(*size)
    small = live.reduced(image, factor)
    assert small.shape[:2] == tuple(-(-side // factor) for side in size)
    residual = np.full((*small.shape[:2], 3), 10 / 255, np.float32)
    result = live.add_residual(np.minimum(image, 245), residual, 0.5)
    assert np.array_equal(result, np.minimum(image, 245) + 5)


def test_a_level_changes_what_is_computed_not_what_is_shown(monkeypatch):
    sizes = []
    sharpener = live.LiveSharpener(
        lambda image: sizes.append(image.shape[:2]) or image, LiveConfig(), Controls(), print
    )
    frame = Frame(photo(60, 90), time.monotonic(), 0.03)
    for level in range(OFF + 1):
        sharpener.control.enter(level, 0.0)
        assert np.array_equal(sharpener(frame).image, frame.image)
    assert sizes == [(60, 90), (30, 45), (20, 30)]


def crisper(image):
    """The image plus its difference to the mean of its four neighbours."""
    image = image.astype(float)
    around = [np.roll(image, shift, axis) for shift in (-1, 1) for axis in (0, 1)]
    return (2 * image - np.mean(around, 0)).round().clip(0, 255).astype(np.uint8)


def test_the_filter_calms_noise_and_leaves_no_ghost_behind_motion():
    rng, scene = np.random.default_rng(0), photo(64, 64).clip(30, 225)
    noisy = [(scene + rng.normal(0, 2, scene.shape)).round().astype(np.uint8) for _ in range(24)]
    shown = {}
    for name, on in {"plain": False, "filtered": True}.items():
        sharpener = live.LiveSharpener(crisper, LiveConfig(filter=on), Controls(), print)
        shown[name] = [sharpener.compute(each, 1) for each in [*noisy, 255 - scene]]
    deviation = {name: np.std(images[8:24], axis=0).mean() for name, images in shown.items()}
    source = np.std(noisy[8:], axis=0).mean()
    assert deviation["plain"] > 1.8 * source and deviation["filtered"] < 1.3 * source
    moved = abs(255 - 2.0 * scene).min(2) > 40
    moved &= np.roll(moved, 1, 0) & np.roll(moved, -1, 0) & np.roll(moved, 1, 1)
    assert moved.sum() > 100
    assert np.array_equal(shown["filtered"][-1][moved], shown["plain"][-1][moved])


# --- keys, outputs, the script --------------------------------------------------------------------


def test_keys_switch_split_change_the_strength_and_quit(clip):
    screen, report = play(clip, lighter, Screen(keys={20: "+--s", 30: "q"}), filter=False)
    assert report.shown == 30 and report.seconds < 3
    image = screen.frames[-1][2].astype(int)
    middle = image.shape[1] // 2
    assert (image[:, middle - 1 : middle + 1] == 255).all()
    plain = screen.frames[10][2].astype(int) - 10  # the clip stands still
    assert np.median(image[20:, : middle - 1] - plain[20:, : middle - 1]) == 0
    assert np.median(image[20:, middle + 1 :] - plain[20:, middle + 1 :]) == 8


def test_the_key_for_off_gives_the_plain_picture():
    controls = Controls()
    sharpener = live.LiveSharpener(lighter, LiveConfig(), controls, print)
    frame = Frame(photo(20, 20), 0.0, 0.03)
    controls.press(" ")
    assert sharpener(frame) is frame
    controls.press(" ")
    assert sharpener(frame) is not frame


@pytest.mark.parametrize("size", [(72, 96), (71, 95)])
def test_a_recording_keeps_times_and_pictures(tmp_path, size):
    recording, images = Recording(tmp_path / "a.mp4"), [photo(*size, seed=i) for i in range(4)]
    times = [5.0, 5.1, 5.1, 5.5]
    for image, at in zip(images, times, strict=True):
        recording.show(Frame(image, at, 0.1))
    recording.show(Frame(photo(40, 40), 6.0, 0.5))  # another size is fitted into the first
    recording.close()
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = list(container.decode(video=0))
        assert container.streams.video[0].time_base <= Fraction(1, 1000)
    assert [f.time for f in frames] == pytest.approx([0, 0.1, 0.1, 0.5, 1], abs=2e-3)
    shown = frames[0].to_ndarray(format="rgb24", src_colorspace=1, src_color_range=1)
    assert shown.shape == (*size, 3) and script.psnr(shown, images[0]) > 28
    with pytest.raises(SharpeningError, match="exists"):
        Recording(tmp_path / "a.mp4")


def test_a_virtual_camera_gets_the_frames_or_says_what_is_missing(monkeypatch):
    sent = []

    class Camera:
        def __init__(self, width, height, fps):
            self.width, self.height, self.send = width, height, sent.append

        def close(self):
            sent.append("closed")

    monkeypatch.setitem(sys.modules, "pyvirtualcam", types.SimpleNamespace(Camera=Camera))
    output = live.make_output("virtual")
    for size in ((40, 60), (20, 30)):
        output.show(Frame(photo(*size), 0.0, 0.1))
    output.close()
    assert [each.shape for each in sent[:2]] == [(40, 60, 3)] * 2 and sent[2] == "closed"

    def missing(**settings):
        raise RuntimeError("no device")

    monkeypatch.setitem(sys.modules, "pyvirtualcam", types.SimpleNamespace(Camera=missing))
    with pytest.raises(SharpeningError, match=r"no device.*docs/LIVE\.md"):
        live.make_output("virtual").show(Frame(photo(40, 60), 0.0, 0.1))
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with pytest.raises(SharpeningError, match="pip install"):
        live.make_output("virtual")


@contextlib.contextmanager
def x_server(number=":97"):
    process = subprocess.Popen(["Xvfb", number, "-screen", "0", "640x480x24"], stderr=-3)
    try:
        time.sleep(1)
        yield number
    finally:
        process.terminate()
        process.wait()


def test_a_window_shows_the_frames_and_takes_keys(clip, monkeypatch):
    if not shutil.which("Xvfb"):
        pytest.skip("Xvfb is not installed")
    pygame = pytest.importorskip("pygame")
    with x_server() as display:
        monkeypatch.setenv("DISPLAY", display)
        monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
        window, seen = live.Window(), []

        class Watched(type(window)):
            def show(self, frame):
                super().show(frame)
                seen.append(pygame.surfarray.array3d(pygame.display.get_surface()))
                if len(seen) == 10:
                    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, unicode=" "))
                if len(seen) == 25:
                    pygame.event.post(pygame.event.Event(pygame.QUIT))

        window.__class__ = Watched
        config = LiveConfig(camera=str(clip), filter=False)
        report = run_live(lighter, config, say=[].append, output=window)
        assert report.shown in (25, 26) and report.level == "off"
        before, after = (seen[i].transpose(1, 0, 2).astype(int) for i in (8, 24))
        assert np.median(before - after) == 10 and number_of(after) > number_of(before)
        assert not pygame.display.get_init()


@pytest.mark.parametrize(
    ("camera", "platform", "expected"),
    [
        ("0", "linux", ("/dev/video0", "v4l2")),
        ("/dev/video2", "linux", ("/dev/video2", "v4l2")),
        ("1", "darwin", ("1", "avfoundation")),
        ("video=Cam", "win32", ("video=Cam", "dshow")),
        ("clip.mp4", "linux", ("clip.mp4", None)),
        ("rtsp://host/stream", "win32", ("rtsp://host/stream", None)),
    ],
)
def test_the_name_of_a_camera_on_each_system(camera, platform, expected):
    assert live.device_of(camera, platform) == expected


def test_cameras_of_windows_have_numbers(monkeypatch):
    cameras = [types.SimpleNamespace(description="Front"), types.SimpleNamespace(description="USB")]
    monkeypatch.setattr(av, "enumerate_input_devices", lambda kind: cameras)
    assert live.device_of("1", "win32") == ("video=USB", "dshow")
    with pytest.raises(SharpeningError, match="no camera 2: Windows lists Front, USB"):
        live.device_of("2", "win32")


def test_the_fastest_back_end_that_agrees_is_chosen(runtime):
    delays = {"pytorch": 0.02, "openvino": 0.0, "openvino-int8": 0.005}

    def load(runtime, settings):
        def sharpen(image):
            time.sleep(delays[settings.backend])
            return 255 - image if settings.backend == "openvino" else image

        return sharpen

    said, auto = [], script.InferenceConfig()
    chosen = live.fastest(load, runtime, auto, said.append)
    assert "computing with openvino-int8" in said[-1] and chosen(photo(8, 8)) is not None
    assert any("openvino is left out" in line for line in said)
    said.clear()
    given = dataclasses.replace(auto, backend="openvino")
    assert live.fastest(load, runtime, given, said.append)(np.zeros(1, np.uint8)) == 255
    assert said == []


def test_the_script_plays_a_file_into_a_file(clip, tmp_path, capsys):
    target = tmp_path / "sharp.mp4"
    flags = ["--live", "--live-config.camera", str(clip), "--live-config.output", str(target)]
    flags += ["--inference.backend", "pytorch", "--device", "cpu", "--strength", "0.5"]
    assert script.main(flags) == 0
    assert "frames shown" in capsys.readouterr().out
    with av.open(str(target)) as container:
        assert sum(1 for _ in container.decode(video=0)) > 3


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="output must be"):
        LiveConfig(output="a.avi")
    with pytest.raises(ValueError, match="rate"):
        LiveConfig(rate=0)
    with pytest.raises(ValueError, match="--live"):
        script.Config(live=True, infer=True)


def test_rate_and_latency_of_a_run_that_showed_nothing():
    report = Live(same, LiveConfig(), Controls(), print).report()
    assert report.shown == 0 and "0.0 frames per second" not in f"{report.rate:.3f}"


def test_an_output_that_cannot_be_is_said_before_anything_is_timed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "fastest", lambda *_: pytest.fail("timed in vain"))
    (tmp_path / "there.mp4").touch()
    assert script.main(["--live", "--live-config.output", str(tmp_path / "there.mp4")]) == 1
    assert "there.mp4 exists" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pygame", None)
    assert script.main(["--live"]) == 1
    assert "needs the package pygame" in capsys.readouterr().err
