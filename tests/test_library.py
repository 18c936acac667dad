"""The three lines of the library, the installed package and its command."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import main_sharpening_script as script
from sharpening import __version__
from sharpening.image_arrays import PILLOW_MODES, to_rgb

ROOT = Path(script.__file__).parent


@pytest.fixture(scope="module")
def sharpen() -> script.Sharpener:
    runtime = script.Runtime(torch.device("cpu"), torch.float32)
    return script.Sharpener.load("live", runtime)


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    return script.demo_frame(60, 83)


def of_kind(frame: np.ndarray, kind: str) -> np.ndarray:
    return {
        "grey": frame[..., 1],
        "rgb": frame,
        "rgba": np.dstack([frame, frame[..., 0]]),
        "uint16": frame.astype(np.uint16) * 257,
        "float32": (frame / 255).astype(np.float32),
        "float64": frame / 255,
    }[kind]


@pytest.mark.parametrize("kind", ["grey", "rgb", "rgba", "uint16", "float32", "float64"])
def test_an_array_comes_back_as_what_it_was(sharpen, frame, kind):
    image = of_kind(frame, kind)
    result = sharpen(image)
    assert (result.shape, result.dtype) == (image.shape, image.dtype)
    assert not np.array_equal(result, image)
    if kind != "grey":  # all kinds are the same picture, so all give the same result
        peak = 1 if result.dtype.kind == "f" else np.iinfo(result.dtype).max
        expected = sharpen(frame) / 255
        np.testing.assert_allclose(result[..., :3] / peak, expected, atol=1.01 / 255)  # 2 roundings
    if kind == "rgba":
        np.testing.assert_array_equal(result[..., 3], image[..., 3])


@pytest.mark.parametrize("mode", PILLOW_MODES)
def test_a_pil_image_comes_back_as_one(sharpen, frame, mode):
    image = Image.fromarray(frame).convert(mode)
    result = sharpen(image)
    assert (result.size, result.mode) == (image.size, PILLOW_MODES[mode])


@pytest.mark.parametrize("backend", ["pytorch", "openvino"])
@pytest.mark.parametrize("kind", ["rgb", "uint16"])
def test_strength_blends_before_rounding(frame, backend, kind):
    runtime = script.Runtime(torch.device("cpu"), torch.float32)
    inference = script.InferenceConfig(backend=backend)
    sharpen = script.Sharpener.load("live", runtime, inference)
    image = of_kind(frame, kind)
    np.testing.assert_array_equal(sharpen(image, strength=0), image)
    full = sharpen(image).astype(float)
    third = sharpen(image, strength=1 / 3).astype(float)
    few = 1.01 if image.dtype == np.uint8 else 16  # roundings; of 16 bits, where the tone is held
    np.testing.assert_allclose(third, image + (full - image) / 3, atol=few)


def test_strength_is_the_same_in_tiles(frame):
    runtime = script.Runtime(torch.device("cpu"), torch.float32)
    tiled = script.InferenceConfig(tile=32, overlap=8)
    sharpen = script.Sharpener.load("live", runtime, tiled)
    np.testing.assert_array_equal(sharpen(frame, strength=0), frame)
    half, full = sharpen(frame, strength=0.5).astype(float), sharpen(frame).astype(float)
    np.testing.assert_allclose(half, (frame + full) / 2, atol=1.01)


@pytest.mark.parametrize("kind", ["rgb", "uint16"])
def test_a_self_ensemble_is_the_mean_over_turned_images(frame, kind):
    runtime = script.Runtime(torch.device("cpu"), torch.float32)
    plain, two, four = (
        script.Sharpener.load(
            "live", runtime, script.InferenceConfig(self_ensemble=n, refine="none")
        )
        for n in (1, 2, 4)
    )
    image = of_kind(frame, kind)
    turned = [np.rot90(plain(np.rot90(image, n)), -n).astype(float) for n in range(4)]
    assert np.abs(turned[1] - turned[0]).max() > 1  # the network does not restore both alike
    np.testing.assert_array_equal(two(image), np.rint(np.mean(turned[:2], axis=0)))
    np.testing.assert_array_equal(four(image), np.rint(np.mean(turned, axis=0)))
    for batched, alone in zip(four.images([image, 255 - image]), (image, 255 - image), strict=True):
        np.testing.assert_allclose(batched.astype(int), four(alone), atol=1)  # another batch
    np.testing.assert_array_equal(four(np.rot90(image)), np.rot90(four(image)))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.int64), "uint8, uint16 or float, not int64"),
        (np.full((4, 4, 3), 1.5), "must lie in 0 to 1, not in 1.5 to 1.5"),
        (np.full((4, 4, 3), np.nan), "must lie in 0 to 1"),
        (np.zeros(4, np.uint8), r"shape .*, not \(4,\)"),
        (np.zeros((4, 4, 5), np.uint8), r"shape .*, not \(4, 4, 5\)"),
        (np.zeros((0, 4, 3), np.uint8), r"shape .*, not \(0, 4, 3\)"),
        ("photo.jpg", "NumPy array or a PIL image, not str"),
        (Image.new("F", (4, 4)), "mode F is not understood: convert it to one of L, LA, RGB"),
    ],
)
def test_other_images_get_one_clear_sentence(image, message):
    with pytest.raises(script.SharpeningError, match=message):
        to_rgb(image)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_strength_outside_its_range_is_refused(sharpen, frame, strength):
    with pytest.raises(script.SharpeningError, match="strength must be from 0 to 1"):
        sharpen(frame, strength=strength)


def test_several_threads_get_what_one_gets(sharpen, frame):
    images = [np.roll(frame, shift, axis=1) for shift in range(6)]
    expected = [sharpen(image) for image in images]
    results: dict[int, np.ndarray] = {}

    def work(index: int) -> None:
        results[index] = sharpen(images[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, image in enumerate(expected):
        np.testing.assert_array_equal(results[index], image)


@pytest.mark.parametrize("name", ["standard", "live"])
def test_torch_hub_gives_the_students(name):
    student = torch.hub.load(str(ROOT), name, source="local")
    expected = script.load_student(script.SHIPPED_STUDENTS[name])
    blurry = torch.rand(1, 3, 20, 30)
    torch.testing.assert_close(student(blurry), expected(blurry), rtol=0, atol=0)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> dict[str, str]:
    """The environment of a process that sees the built wheel and not this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = ["git", "-C", str(ROOT), "ls-files", "-z", "-co", "--exclude-standard"]
    for name in subprocess.run(tracked, capture_output=True, check=True).stdout.split(b"\0"):
        path = ROOT / os.fsdecode(name)
        if (
            path.is_file()
            and path.suffix in (".py", ".toml", ".md", ".pth", ".html", "")
            and name != b"/"
        ):
            target = source / os.fsdecode(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*install, str(folder / "site"), str(source)], check=True)
    return os.environ | {"PYTHONPATH": str(folder / "site"), "PYTHONSAFEPATH": "1"}


def test_the_three_lines_run_in_an_installed_package(tmp_path, installed):
    code = (
        "from main_sharpening_script import Sharpener, demo_frame, __file__ as f\n"
        'sharpen = Sharpener.load("live")\n'
        "image = sharpen(demo_frame(40, 50), strength=0.5)\n"
        "print(image.shape, f)"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=tmp_path, env=installed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(40, 50, 3)") and str(ROOT) not in done.stdout


def test_the_installed_command_sharpens_a_file(tmp_path, installed, frame):
    Image.fromarray(frame).save(tmp_path / "photo.png")
    command = Path(installed["PYTHONPATH"]) / "bin" / "sharpen"
    flags = ["photo.png", "-o", "out", "--strength", "0.5", "--device", "cpu"]
    run = [sys.executable, str(command), *flags]
    done = subprocess.run(run, cwd=tmp_path, env=installed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out" / "photo.png") as result:
        assert result.size == (83, 60)
    version = subprocess.run([*run[:2], "--version"], env=installed, capture_output=True, text=True)
    assert version.stdout.strip() == __version__
