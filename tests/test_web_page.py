"""The page in a real browser: frames, controls, pictures, failures, parity with PyTorch."""

import base64
import io
import json
import shutil
import subprocess
import wave

import numpy as np
import pytest
import torch
from conftest import blurred, photo
from PIL import Image

from main_sharpening_script import load_student, psnr
from tools import export_web
from tools.fake_camera import (
    BLOCK,
    PROBE,
    WEB,
    chromium,
    motion_blurred,
    scene,
    served,
    window,
    write_film,
)

pytest.importorskip("playwright", reason="no playwright: pip install -r requirements-dev.txt")
from playwright.sync_api import expect  # noqa: E402

if not shutil.which("chromium"):
    pytest.skip("no chromium on PATH: apt-get install chromium", allow_module_level=True)
if not shutil.which("npm"):
    pytest.skip("no npm on PATH: apt-get install nodejs npm", allow_module_level=True)

expect.set_options(timeout=60_000)  # a busy machine

PIXELS = """(source) => {
  const canvas = document.createElement("canvas");
  const from = document.querySelector(source);
  canvas.width = from.videoWidth || from.width;
  canvas.height = from.videoHeight || from.height;
  canvas.getContext("2d").drawImage(from, 0, 0);
  return canvas.toDataURL("image/png");
}"""


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_film(tmp_path_factory.mktemp("film") / "film.y4m")


@pytest.fixture(scope="module")
def packages():
    """The page's packages, as `npm ci` installs them."""
    if not (WEB / "node_modules").is_dir():
        subprocess.run(["npm", "ci", "--ignore-scripts", "--prefix", WEB], check=True)


@pytest.fixture(scope="module")
def url(packages):
    with served() as address:
        yield address


@pytest.fixture(scope="module")
def launch():
    with chromium() as launcher:
        yield launcher


@pytest.fixture(scope="module")
def browser(packages, launch, film):
    opened = launch(film)
    yield opened
    opened.close()


class Page:
    """The page, opened and loaded, and what the tests look at."""

    def __init__(self, context, url, ready="INT8"):
        self.page = context.new_page()
        self.errors, self.requests = [], []
        self.page.on("pageerror", lambda error: self.errors.append(error))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)
        self.page.evaluate(PROBE)
        if ready:
            expect(self.figures).to_contain_text(ready)

    def __getattr__(self, name):
        return getattr(self.page, name)

    @property
    def figures(self):
        return self.page.locator("#figures")

    def start_camera(self, work="half"):
        """Frames of the camera, not mirrored, sharpened whatever the load."""
        self.page.select_option("#work", work)
        self.page.click("#welcome [data-action=camera]")
        expect(self.page.locator("#mirror")).to_have_attribute("aria-pressed", "true")
        self.page.click("#mirror")
        expect(self.figures).to_contain_text(f"{work} size")
        self.frames(2)

    def number(self) -> int:
        return self.page.evaluate("numberIn(document.querySelector('canvas'))")

    def frames(self, count: int) -> None:
        """Wait until so many new frames were shown."""
        for _ in range(count):
            before = self.number()
            for _ in range(600):
                if self.number() != before:
                    break
                self.page.wait_for_timeout(50)
            else:
                raise AssertionError("no further frame within 30 seconds")

    def image(self, source="canvas") -> np.ndarray:
        """What the canvas shows, (H, W, 3) uint8."""
        data = self.page.evaluate(PIXELS, source).split(",")[1]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))

    def shown(self) -> tuple[int, np.ndarray]:
        """(number, frame) of a frame on the canvas."""
        self.frames(1)
        frame = self.image()
        bits = frame[BLOCK // 2, BLOCK // 2 : 8 * BLOCK : BLOCK, 0] > 127
        return int(np.packbits(bits, bitorder="little")[0]), frame

    def saved_file(self) -> tuple[str, Image.Image]:
        with self.page.expect_download() as download:
            self.page.click("#save")
        file = download.value
        return file.suggested_filename, Image.open(file.path())

    def saved(self) -> tuple[str, np.ndarray]:
        """(file name, image as (H, W, 3) uint8) of what the page saves."""
        name, image = self.saved_file()
        return name, np.asarray(image.convert("RGB"))


@pytest.fixture
def page(browser, url):
    context = browser.new_context()
    opened = Page(context, url)
    yield opened
    assert not opened.errors
    context.close()


@pytest.fixture
def camera(page):
    page.start_camera()
    return page


def gain(page, frames: int = 4) -> tuple[float, float]:
    """Mean PSNR to the sharp original of (frames as they are, sharpened frames)."""
    _, sharp = scene()
    means = []
    for _ in range(2):
        page.click("#on")
        page.frames(2)
        values = []
        for _ in range(frames):
            number, frame = page.shown()
            original = window(sharp, number).round().astype(np.uint8)
            values.append(psnr(frame[BLOCK:], original[BLOCK:]))
        means.append(float(np.mean(values)))
    return means[0], means[1]


# --- frames ---------------------------------------------------------------------------------------


def test_frames_come_through_sharper(camera):
    before, after = gain(camera)
    assert after > before + 0.1
    camera.select_option("#work", "full")
    expect(camera.figures).to_contain_text("full size")
    camera.frames(2)
    _, full = gain(camera)
    assert full > after + 0.1


def test_nothing_is_requested_once_it_is_loaded(camera, tmp_path):
    assert all(request.startswith(camera.url) for request in camera.requests)
    del camera.requests[:]
    camera.context.set_offline(True)
    camera.frames(3)
    camera.click("#compare")
    camera.saved()
    file = tmp_path / "picture.png"
    Image.fromarray(photo(90, 120)).save(file)
    camera.set_input_files("#file", file)
    expect(camera.figures).to_contain_text("full size")
    assert [each for each in camera.requests if not each.startswith("blob:")] == []


def test_page_from_the_built_folder_works(browser, tmp_path):
    command = ["node", str(WEB / "build.js"), "--folder", str(tmp_path / "dist")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    sizes = json.loads(output.splitlines()[-1])["first_visit_megabytes"]
    assert sizes["wasm"]["gzip"] <= 5
    assert max(each["gzip"] for each in sizes.values()) <= 9
    assert "Cross-Origin-Embedder-Policy: require-corp" in (tmp_path / "dist/_headers").read_text()
    context = browser.new_context()
    with served("--folder", str(tmp_path / "dist")) as address:
        Page(context, address).start_camera()
    context.close()


# --- controls -------------------------------------------------------------------------------------


def test_on_and_off(camera):
    for press in (lambda: camera.click("#on"), lambda: camera.keyboard.press("s")):
        press()
        expect(camera.figures).to_contain_text("not sharpened")
        press()
        expect(camera.figures).to_contain_text("half size")


def test_keys_can_be_switched_off(camera):
    camera.uncheck("#keys")
    camera.keyboard.press("s")
    expect(camera.locator("#on")).to_have_attribute("aria-pressed", "true")


def test_divider_shows_before_on_its_left(page, tmp_path):
    image = blurred(photo(120, 160, seed=2))
    file = tmp_path / "still.png"
    Image.fromarray(image).save(file)
    page.set_input_files("#file", file)
    expect(page.figures).to_contain_text("full size")
    expect(page.locator("#divider")).to_be_visible()
    page.focus("#split")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#split", "aria-valuetext") == "51 % before"
    page.wait_for_timeout(300)
    shown = page.image()
    np.testing.assert_array_equal(shown[:, :81], image[:, :81])
    assert (shown[:, 83:] != image[:, 83:]).any()
    page.keyboard.press("End")
    page.wait_for_timeout(300)
    np.testing.assert_array_equal(page.image(), image)
    page.click("#mirror")
    page.wait_for_timeout(300)
    np.testing.assert_array_equal(page.image(), image[:, ::-1])
    box = page.locator("#stage").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    assert int(page.input_value("#split")) == pytest.approx(25, abs=2)


def test_strength_zero_is_the_picture_itself(page, tmp_path):
    image = blurred(photo(60, 80, seed=3))
    file = tmp_path / "still.png"
    Image.fromarray(image).save(file)
    page.set_input_files("#file", file)
    expect(page.figures).to_contain_text("full size")
    whole = page.saved()[1].astype(int)
    page.fill("#strength", "0")
    np.testing.assert_array_equal(page.saved()[1], image)
    page.fill("#strength", "50")
    half = page.saved()[1].astype(int)
    assert abs(half - (image + whole) / 2).max() <= 1
    assert (whole != image).any()


def test_size_work_and_back_end(camera):
    camera.select_option("#size", "720")
    expect(camera.figures).to_contain_text("640 × 360")  # this camera gives no more
    camera.select_option("#backend", "webgpu")  # there is none here
    expect(camera.locator("#note")).to_contain_text("Going on with WebAssembly")
    expect(camera.figures).to_contain_text("half size · WebAssembly")
    camera.frames(2)


def test_snapshot_is_what_is_shown(page, tmp_path):
    image = blurred(photo(60, 80, seed=4))
    file = tmp_path / "still.png"
    Image.fromarray(image).save(file)
    page.set_input_files("#file", file)
    expect(page.figures).to_contain_text("full size")
    assert (page.saved()[1] != image).any()
    page.click("#on")
    np.testing.assert_array_equal(page.saved()[1], image)


def test_snapshot_mirror_and_full_screen(camera):
    name, image = camera.saved_file()
    assert name == "snapshot.png" and image.size == (640, 360)
    camera.keyboard.press("m")
    camera.frames(2)
    mirrored = camera.image()
    camera.keyboard.press("m")
    camera.frames(2)
    corner = np.s_[:BLOCK, : 8 * BLOCK]
    in_corner = np.isin(camera.image()[corner] // 64, (0, 3)).mean()
    assert in_corner > 0.95  # black and white blocks stand left again
    assert np.isin(mirrored[:, ::-1][corner] // 64, (0, 3)).mean() > 0.95
    camera.keyboard.press("f")
    camera.wait_for_timeout(500)
    assert camera.evaluate("document.fullscreenElement?.id") == "stage"


def test_every_control_has_a_name_and_is_reached_by_tab(camera):
    camera.click("#compare")
    camera.keyboard.press("Tab")
    names = set()
    for _ in range(20):
        camera.keyboard.press("Tab")
        names.add(camera.evaluate("document.activeElement.id"))
    wanted = {"on", "compare", "mirror", "save", "full-screen", "split", "strength", "camera"}
    assert wanted | {"size", "work", "backend", "keys", "camera-button"} <= names
    nameless = """[...document.querySelectorAll("button, input, select")].filter((each) =>
      !each.hidden && !each.textContent.trim() && !each.labels?.length && !each.ariaLabel).length"""
    assert camera.evaluate(nameless) == 0


def test_page_fits_a_phone(camera):
    camera.set_viewport_size({"width": 360, "height": 740})
    assert camera.evaluate("document.documentElement.scrollWidth") <= 360
    box = camera.locator("#stage").bounding_box()
    assert box["width"] > 300 and box["x"] >= 0


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension, kind", [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
def test_picture_is_saved_in_its_own_format_and_size(page, tmp_path, extension, kind):
    sharp = scene()[1][:300, :600]
    file = tmp_path / f"my.photo.{extension}"
    image = motion_blurred(sharp).round().astype(np.uint8)
    Image.fromarray(image).save(file, quality=98)
    page.set_input_files("#file", file)
    expect(page.figures).to_contain_text("full size")
    name, saved = page.saved_file()
    assert name == f"my.photo_sharpened.{extension}"
    assert saved.format == kind and saved.size == (600, 300)
    sharp = sharp.round().astype(np.uint8)
    assert psnr(np.asarray(saved.convert("RGB")), sharp) > psnr(image, sharp) + 0.3


def test_tiles_give_what_the_whole_picture_gives(page, tmp_path):
    """The page's INT8 against fp16 on the whole picture, in ONNX Runtime for Python, whose own INT8
    saturates on processors without VNNI (42.9 dB to fp32, the page's 46.9)."""
    image = motion_blurred(np.hstack([scene()[1]] * 2)).round().astype(np.uint8)[:200, :1300]
    file = tmp_path / "large.png"
    Image.fromarray(image).save(file)
    page.set_input_files("#file", file)
    expect(page.figures).to_contain_text("full size")
    whole = export_web.restored_by((WEB / "models/student.fp16.onnx").read_bytes(), image)
    difference = np.abs(page.saved()[1].astype(int) - whole).mean((0, 2))
    first, seam = difference[:768].mean(), difference[800:1000].mean()
    assert seam < 1.5 * first + 0.1
    assert psnr(page.saved()[1], whole) > 45


def test_picture_keeps_its_alpha(page, tmp_path):
    rgba = np.dstack([photo(40, 50), np.full((40, 50), 255, np.uint8)])
    rgba[:, :10, 3] = 0
    file = tmp_path / "alpha.png"
    Image.fromarray(rgba).save(file)
    page.set_input_files("#file", file)
    expect(page.figures).to_contain_text("full size")
    _, saved = page.saved_file()
    np.testing.assert_array_equal(np.asarray(saved.convert("RGBA"))[..., 3], rgba[..., 3])


def test_dropped_video_plays_like_a_camera(page, tmp_path):
    import av

    file = tmp_path / "film.webm"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libvpx", rate=15)
        stream.width, stream.height = 160, 96
        for index in range(15):
            frame = np.roll(photo(96, 160), 4 * index, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    drop = """(bytes) => {
      const data = new DataTransfer();
      data.items.add(new File([Uint8Array.from(bytes)], "film.webm", { type: "video/webm" }));
      document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
    }"""
    page.select_option("#work", "full")
    page.evaluate(drop, list(file.read_bytes()))
    expect(page.figures).to_contain_text("160 × 96 · full size")
    # the canvas takes its new size when the browser next shows it, after the figures
    page.wait_for_function("document.querySelector('canvas').width === 160")
    first = page.image()
    page.wait_for_timeout(700)
    assert (page.image() != first).any()


# --- failures -------------------------------------------------------------------------------------


def test_denied_camera(launch, url):
    with launch(None, "--use-fake-device-for-media-stream", "--deny-permission-prompts") as opened:
        page = Page(opened.new_context(), url)
        page.click("#welcome [data-action=camera]")
        expect(page.locator("#message")).to_contain_text("The camera is not allowed")
        expect(page.locator("#message [data-action=camera]")).to_be_focused()
        page.click("#message [data-action=close]")
        expect(page.locator("#welcome")).to_be_visible()


def test_no_camera(launch, url, tmp_path):
    fake = "--use-fake-device-for-media-stream=device-count=0"
    with launch(None, fake, "--use-fake-ui-for-media-stream") as opened:
        page = Page(opened.new_context(), url)
        page.click("#welcome [data-action=camera]")
        expect(page.locator("#message")).to_contain_text("No camera was found")
        file = tmp_path / "picture.png"
        Image.fromarray(photo(40, 50)).save(file)
        with page.expect_file_chooser() as chooser:
            page.click("#message [data-action=file]")
        chooser.value.set_files(file)
        expect(page.figures).to_contain_text("full size")
        expect(page.locator("#message")).to_be_hidden()


TRACK = "document.querySelector('video').srcObject.getVideoTracks()[0]"


def test_unplugged_camera_comes_back(camera):
    camera.evaluate(f"{TRACK}.dispatchEvent(new Event('ended'))")
    expect(camera.locator("#message")).to_contain_text("The camera is gone")
    camera.evaluate("navigator.mediaDevices.dispatchEvent(new Event('devicechange'))")
    expect(camera.locator("#message")).to_be_hidden()
    camera.frames(2)


def test_camera_that_changes_its_size(camera):
    camera.evaluate(f"{TRACK}.applyConstraints({{ width: 320, height: 180 }})")
    expect(camera.figures).to_contain_text("320 × 180 · half size")
    expect(camera.locator("#message")).to_be_hidden()


def test_hidden_tab(camera):
    hide = """(hidden) => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    camera.evaluate(hide, True)
    expect(camera.locator("#note")).to_have_text("Paused while this tab is hidden.")
    camera.evaluate(hide, False)
    expect(camera.locator("#note")).to_have_text("Going on.")
    camera.frames(2)


@pytest.mark.parametrize(
    "pattern, body, said",
    [
        ("**/student.int8.onnx*", b"not a model", "The model file student.int8.onnx is damaged"),
        ("**/manifest.json", b'{"models": {}}', "manifest.json does not fit this page"),
        ("**/manifest.json", b"<html>", "manifest.json does not fit this page"),
    ],
)
def test_bad_model_files_leave_the_plain_picture(browser, url, pattern, body, said):
    context = browser.new_context()
    context.route(pattern, lambda route: route.fulfill(body=body))
    page = Page(context, url, ready=None)
    expect(page.locator("#message")).to_contain_text(said)
    page.click("#message [data-action=close]")
    page.click("#welcome [data-action=camera]")
    expect(page.figures).to_contain_text("not sharpened · nothing computes")
    page.frames(2)
    context.unroute(pattern)
    page.select_option("#backend", "wasm")  # starts again
    expect(page.figures).to_contain_text("INT8")
    context.close()


def test_missing_headers_leave_one_thread(browser):
    context = browser.new_context()
    with served("--no-isolation") as address:
        page = Page(context, address)
        expect(page.locator("#note")).to_contain_text("one thread only")
        expect(page.figures).to_contain_text("1 thread, INT8")
        page.start_camera()
    context.close()


def test_files_that_are_neither_picture_nor_video(page, tmp_path):
    file = tmp_path / "note.png"
    file.write_text("no picture")
    page.set_input_files("#file", file)
    expect(page.locator("#message")).to_contain_text("This file cannot be opened")
    sound = tmp_path / "sound.wav"
    with wave.open(str(sound), "wb") as writer:
        writer.setparams((1, 2, 8000, 0, "NONE", ""))
        writer.writeframes(bytes(16000))
    page.set_input_files("#file", sound)
    expect(page.locator("#message")).to_contain_text("neither a picture nor a video")


# --- parity with PyTorch --------------------------------------------------------------------------

RESTORE = """async ([kind, precision, values, height, width]) => {
  const { startBackend } = await import("/backend.js");
  const { readManifest } = await import("/models.js");
  const base = new URL("/", location.href);
  const backend = await startBackend(kind, base, await readManifest(base), () => {}, precision);
  return Array.from(await backend.run(Float32Array.from(values), width, height));
}"""

SIDES = (45, 61)  # odd: the network pads


@pytest.fixture(scope="module")
def parity(packages, tmp_path_factory):
    """A copy of the page with a model in fp32 beside the others, a frame, and PyTorch's result."""
    folder = tmp_path_factory.mktemp("parity") / "web"
    shutil.copytree(WEB, folder, ignore=shutil.ignore_patterns("node_modules", "dist"))
    checkpoint = export_web.WebExportConfig().checkpoint
    student = load_student(checkpoint)
    model = export_web.to_onnx(student).SerializeToString()
    manifest = json.loads((folder / "models" / "manifest.json").read_text())
    manifest["models"]["fp32"] = export_web.entry("fp32", model)
    (folder / "models" / manifest["models"]["fp32"]["file"]).write_bytes(model)
    (folder / "models" / "manifest.json").write_text(json.dumps(manifest))
    blurry = export_web.planes(blurred(photo(*SIDES)))
    with torch.inference_mode():
        return folder, blurry, student(torch.from_numpy(blurry)).numpy()


def restored_in(page, parity, kind, precision):
    _, blurry, expected = parity
    values = page.evaluate(RESTORE, [kind, precision, blurry.ravel().tolist(), *SIDES])
    return np.float32(values).reshape(expected.shape)


def as_bytes(planes):
    return np.rint(planes.clip(0, 1) * 255).astype(np.uint8)


def test_webassembly_gives_pytorchs_result(browser, parity):
    context = browser.new_context()
    with served("--folder", str(parity[0])) as address:
        page = Page(context, address)
        exact = restored_in(page, parity, "wasm", "fp32")
        eight = restored_in(page, parity, "wasm", "int8")
    context.close()
    assert np.abs(exact - parity[2]).max() <= 1e-4
    assert (as_bytes(exact) != as_bytes(parity[2])).sum() <= 3
    assert psnr(as_bytes(eight)[0], as_bytes(exact)[0]) >= 40


def test_webgpu_gives_pytorchs_result_and_survives_its_loss(launch, parity):
    flags = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
    with served("--folder", str(parity[0])) as address, launch(None, *flags) as opened:
        page = Page(opened.new_context(), f"{address}?backend=webgpu", ready="WebGPU, FP16")
        exact = restored_in(page, parity, "webgpu", "fp32")
        opened.new_browser_cdp_session().send("Browser.crashGpuProcess")
        expect(page.locator("#note")).to_contain_text("Going on with WebAssembly")
        expect(page.figures).to_contain_text("INT8")
    assert np.abs(exact - parity[2]).max() <= 1e-4
    assert (as_bytes(exact) != as_bytes(parity[2])).sum() <= 3
