"""The filter against flicker: JavaScript and Python agree, noise is calmed, no ghosts."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import blurred

from main_sharpening_script import psnr
from sharpening.image_pairs import demo_frame
from sharpening.temporal_filter import LONGEST, MOVING, STILL, TemporalFilter
from tools.fake_camera import WEB

H, W = 120, 160

RUN = """
import { readFileSync, writeFileSync } from "node:fs";
import { LONGEST, MOVING, STILL, TemporalFilter } from "WEB/temporal_filter.js";
const [, , clip, result, frames, height, width] = process.argv;
const bytes = readFileSync(clip);
const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
const filter = new TemporalFilter();
const size = 3 * height * width;
const results = new Float32Array(frames * size);
for (let t = 0; t < frames; t++) {
  const [picture, residual] = [2 * t, 2 * t + 1].map((i) => values.slice(i * size, (i + 1) * size));
  results.set(filter.apply(picture, residual, Number(width), Number(height)), t * size);
}
writeFileSync(result, results);
console.log(JSON.stringify([STILL, MOVING, LONGEST]));
"""


def clip(frames: int, noise: float, speed: int, sharp: bool = False) -> list[np.ndarray]:
    """Frames (H, W, 3) uint8 of a photograph, blurred if not `sharp`, with sensor noise (in
    levels); its right half moves by `speed` pixels a frame."""
    rng = np.random.default_rng(0)
    image = demo_frame(H, 2 * W) if sharp else blurred(demo_frame(H, 2 * W))
    found = []
    for number in range(frames):
        frame = image[:, :W].astype(np.float64)
        frame[:, W // 2 :] = np.roll(image, -speed * number, axis=1)[:, W // 2 : W]
        frame += rng.normal(0, noise, frame.shape)
        found.append(frame.round().clip(0, 255).astype(np.uint8))
    return found


def halved(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H / 2, W / 2, 3) float32 in [0, 1]."""
    quarters = frame.reshape(H // 2, 2, W // 2, 2, 3).astype(np.float32)
    return quarters.mean((1, 3)) / 255


def enlarged(residual: np.ndarray) -> np.ndarray:
    planes = torch.from_numpy(residual).permute(2, 0, 1)[None]
    return F.interpolate(planes, scale_factor=2, mode="bilinear")[0].permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def network():
    """The page's INT8 model: (h, w, 3) float32 -> its residual."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs requirements-dev.txt")
    session = onnxruntime.InferenceSession(WEB / "models" / "student.int8.onnx")

    def residual(picture: np.ndarray) -> np.ndarray:
        planes = np.ascontiguousarray(picture.transpose(2, 0, 1)[None])
        (restored,) = session.run(None, {"blurry": planes})
        return (restored - planes)[0].transpose(1, 2, 0)

    return residual


def sharpened(frames, network, filtered: bool) -> np.ndarray:
    """(T, H, W, 3) uint8: what the page shows, half size, with or without the filter."""
    calm = TemporalFilter() if filtered else lambda picture, residual: residual
    results = []
    for frame in frames:
        picture = halved(frame)
        residual = calm(picture, network(picture))
        results.append((frame + 255 * enlarged(residual)).round().clip(0, 255).astype(np.uint8))
    return np.stack(results)


def flicker(frames) -> float:
    """Root mean square over pixels of the standard deviation over time, in levels."""
    return float(np.sqrt(np.var(np.stack(frames).astype(np.float64), axis=0, ddof=1).mean()))


@pytest.mark.skipif(not shutil.which("node"), reason="no node on PATH: apt-get install nodejs")
def test_javascript_and_python_agree_bit_by_bit(tmp_path):
    rng = np.random.default_rng(1)
    pictures = [halved(frame) for frame in clip(12, noise=2, speed=3)]
    residuals = [rng.normal(0, 0.02, p.shape).astype(np.float32) for p in pictures]
    planar = [
        each.transpose(2, 0, 1) for pair in zip(pictures, residuals, strict=True) for each in pair
    ]
    (tmp_path / "clip").write_bytes(np.stack(planar).tobytes())
    script = tmp_path / "run.mjs"
    script.write_text(RUN.replace("WEB", WEB.as_uri()))
    sizes = [str(len(pictures)), str(H // 2), str(W // 2)]
    command = ["node", script, tmp_path / "clip", tmp_path / "result", *sizes]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert json.loads(output) == [STILL, MOVING, LONGEST]
    found = np.fromfile(tmp_path / "result", np.float32).reshape(-1, 3, H // 2, W // 2)
    calm = TemporalFilter()
    expected = [calm(*each) for each in zip(pictures, residuals, strict=True)]
    np.testing.assert_array_equal(found.transpose(0, 2, 3, 1), np.stack(expected))
    assert np.abs(np.stack(expected) - np.stack(residuals)).max() > 0.01  # it does something


def test_still_pixels_are_averaged_and_moving_ones_pass():
    calm = TemporalFilter()
    still, moved = np.full((8, 8, 3), 0.5, np.float32), np.full((8, 8, 3), 0.6, np.float32)
    residuals = [np.full((8, 8, 3), value, np.float32) for value in (0.1, 0.3, 0.2, 0.9)]
    np.testing.assert_allclose(calm(still, residuals[0]), 0.1, rtol=1e-6)
    np.testing.assert_allclose(calm(still, residuals[1]), 0.2, rtol=1e-6)
    np.testing.assert_allclose(calm(still, residuals[2]), 0.2, rtol=1e-6)
    np.testing.assert_array_equal(calm(moved, residuals[3]), residuals[3])


def test_another_size_starts_anew():
    calm = TemporalFilter()
    calm(np.zeros((8, 8, 3), np.float32), np.ones((8, 8, 3), np.float32))
    residual = np.full((6, 4, 3), 0.25, np.float32)
    np.testing.assert_array_equal(calm(np.zeros((6, 4, 3), np.float32), residual), residual)


@pytest.mark.parametrize("noise", [1, 2, 4])
def test_static_scene_flickers_no_more_than_the_camera(network, noise):
    frames = clip(24, noise, speed=0)
    settled = np.s_[8:]  # the average has its frames by then
    calm = flicker(sharpened(frames, network, filtered=True)[settled])
    assert calm <= 1.02 * flicker(frames[settled])
    if noise == 1:  # without the filter it flickers more: the test can tell
        plain = flicker(sharpened(frames, network, filtered=False)[settled])
        assert plain > 1.02 * flicker(frames[settled])


@pytest.mark.parametrize("speed", [1, 3, 8])
def test_no_ghost_behind_motion(network, speed):
    frames, originals = clip(16, 2, speed), clip(16, 0, speed, sharp=True)
    moving = np.s_[:, W // 2 + 16 :]
    plain, calm = (
        np.mean(
            [psnr(a[moving], b[moving]) for a, b in zip(result[4:], originals[4:], strict=True)]
        )
        for result in (sharpened(frames, network, filtered) for filtered in (False, True))
    )
    assert calm >= plain - 0.05
