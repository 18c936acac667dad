"""Pairs from a video whose motion is known: lossless, so that the averages are exact."""

import json

import av
import numpy as np
import pytest
from conftest import photo
from PIL import Image

from sharpening import SharpeningError
from tools import pairs_from_video as tool

SPEED = 2
"""Pixels to the right from one frame to the next."""


def write_video(path, frames) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", 240)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame).reformat(format="bgr0")))
        container.mux(stream.encode(None))


def moving(count: int, seed: int = 0) -> list[np.ndarray]:
    wide = photo(64, 400, seed)
    return [wide[:, SPEED * i : SPEED * i + 96] for i in range(count)]


def test_known_motion_becomes_known_blur(tmp_path, capsys):
    frames = moving(20)
    write_video(tmp_path / "clip.mkv", frames)
    config = tool.VideoPairsConfig(tmp_path / "clip.mkv", tmp_path / "out", 5, average="stored")
    tool.main(config)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found == {"pairs": 4, "without_motion": 0, "with_a_cut": 0}
    for index in range(4):
        name = f"{index + 1:06d}.png"
        sharp, blurry = (
            np.asarray(Image.open(tmp_path / "out" / side / name)) for side in ("sharp", "blurred")
        )
        window = frames[5 * index : 5 * index + 5]
        np.testing.assert_array_equal(sharp, window[2])
        np.testing.assert_array_equal(blurry, np.mean(window, axis=0).round().astype(np.uint8))
    with Image.open(tmp_path / "out" / "sheet.jpg") as sheet:
        assert sheet.size == (4 * 320, 2 * 213)
    with pytest.raises(SharpeningError, match="holds pairs already"):
        tool.main(config)


def test_light_is_brighter_than_stored_values():
    frames = [np.full((4, 4, 3), value, np.uint8) for value in (0, 255, 255)]
    light, stored = (int(tool.blurred(frames, how)[0, 0, 0]) for how in ("light", "stored"))
    assert (light, stored) == (round(255 * (2 / 3) ** (1 / 2.2)), 170)


def test_cuts_and_still_stretches_are_left_out(tmp_path, capsys):
    still = [photo(64, 96, seed=9)] * 5
    frames = [*moving(7), *moving(8, seed=5), *still]  # the second window of 5 holds the cut
    write_video(tmp_path / "clip.mkv", frames)
    tool.main(tool.VideoPairsConfig(tmp_path / "clip.mkv", tmp_path / "out", 5))
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found == {"pairs": 2, "without_motion": 1, "with_a_cut": 1}


def test_windows_overlap_or_leave_frames_out():
    numbers = [np.array(i) for i in range(12)]
    starts = [int(w[0]) for w in tool.windows(iter(numbers), 3, 2)]
    assert starts == [0, 2, 4, 6, 8]
    assert [int(w[0]) for w in tool.windows(iter(numbers), 3, 5)] == [0, 5]


def test_what_gives_no_pairs_says_why(tmp_path):
    write_video(tmp_path / "still.mkv", [photo(64, 96)] * 10)
    with pytest.raises(SharpeningError, match="2 windows without motion"):
        tool.main(tool.VideoPairsConfig(tmp_path / "still.mkv", tmp_path / "out", 5))
    (tmp_path / "no.mp4").write_text("text")
    with pytest.raises(SharpeningError, match="cannot be read"):
        tool.main(tool.VideoPairsConfig(tmp_path / "no.mp4", tmp_path / "out"))
    with pytest.raises(ValueError, match="window must be odd"):
        tool.VideoPairsConfig(tmp_path, tmp_path, window=4)
