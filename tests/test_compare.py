"""The before/after page: what it holds, and that its slider obeys keyboard, mouse and touch."""

import base64
import contextlib
import io
import json
import os
import re
import select
import shutil
import subprocess
import time

import numpy as np
import pytest
from conftest import blurred, photo, save
from PIL import Image

from main_sharpening_script import psnr
from sharpening import SharpeningError
from tools import compare


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two pairs, one below a folder, with other suffixes on the two sides."""
    root = tmp_path_factory.mktemp("compare")
    for index, name in enumerate(("a", "deeper/b")):
        image = photo(120, 160, seed=index)
        save(root / "blurred" / f"{name}.bmp", blurred(image))
        save(root / "sharp" / f"{name}.png", image)
    return root


@pytest.fixture(scope="module")
def page(folders):
    config = compare.CompareConfig(
        folders / "blurred", folders / "sharp", folders / "sharp", folders / "page.html"
    )
    compare.main(config)
    return config.output


def test_page_holds_every_image_exactly_and_its_metrics(page, folders):
    text = page.read_text()
    words = re.sub('base64,[^"]*', "", text)  # pictures may spell anything
    assert "http" not in words and text.count('type="range"') == 2
    urls = [part.split('"')[0] for part in text.split('src="data:image/png;base64,')[1:]]
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(url)))) for url in urls]
    image = photo(120, 160, seed=0)
    np.testing.assert_array_equal(shown[0], blurred(image))
    np.testing.assert_array_equal(shown[1], image)
    assert f"before {psnr(blurred(image), image):.2f} dB" in text


def test_single_images_need_no_equal_names(folders, capsys):
    files = folders / "blurred" / "a.bmp", folders / "sharp" / "a.png"
    compare.main(compare.CompareConfig(*files, output=folders / "one.html"))
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images"] == 1


def test_one_name_with_two_suffixes_and_names_that_are_not_text(tmp_path, capsys):
    odd = os.fsdecode(b"not\xfftext.png")
    for side in ("before", "after"):
        for name in ("a.png", "a.bmp", odd, "plain.png" if side == "before" else "plain.bmp"):
            save(tmp_path / side / name, photo(20, 30))
    output = tmp_path / "page.html"
    compare.main(compare.CompareConfig(tmp_path / "before", tmp_path / "after", output=output))
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images"] == 4
    words = re.sub('base64,[^"]*', "", output.read_text())
    assert all(name in words for name in ("a.png", "a.bmp", "not?text", "plain"))


def test_what_cannot_be_compared_is_named(folders, tmp_path):
    save(tmp_path / "other" / "c.png", photo(10, 10))
    with pytest.raises(SharpeningError, match="no name in common"):
        compare.main(compare.CompareConfig(folders / "sharp", tmp_path / "other"))
    save(tmp_path / "small" / "a.png", photo(10, 10))
    with pytest.raises(SharpeningError, match="a differ in size: 160 x 120, 10 x 10"):
        compare.main(compare.CompareConfig(folders / "sharp", tmp_path / "small"))


class Browser:
    """Headless Chromium over its own debugging pipe: real key presses, no further package."""

    def __init__(self, folder):
        (read_in, self.write), (self.read, write_out) = os.pipe(), os.pipe()
        command = "chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage "
        command += f"--remote-debugging-pipe --user-data-dir={folder} 3<&{read_in} 4>&{write_out}"
        self.process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            pass_fds=(read_in, write_out),
            stderr=subprocess.DEVNULL,
        )
        os.close(read_in)
        os.close(write_out)
        self.session, self.number, self.buffer = None, 0, b""

    def message(self, deadline: float) -> dict:
        while b"\0" not in self.buffer:
            left = max(0.0, deadline - time.monotonic())
            assert select.select([self.read], [], [], left)[0], "chromium does not answer"
            part = os.read(self.read, 1 << 20)
            assert part, "chromium has ended"
            self.buffer += part
        first, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(first)

    def until(self, key: str, value) -> dict:
        """The next message in which `key` has that value, within two minutes."""
        deadline = time.monotonic() + 120
        while (message := self.message(deadline)).get(key) != value:
            pass
        return message

    def call(self, method: str, **parameters) -> dict:
        self.number += 1
        request = {"id": self.number, "method": method, "params": parameters}
        request |= {"sessionId": self.session} if self.session else {}
        os.write(self.write, json.dumps(request).encode() + b"\0")
        answer = self.until("id", self.number)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, path) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        self.call("Page.enable")
        self.call("Page.navigate", url=path.as_uri())
        self.until("method", "Page.loadEventFired")

    def evaluate(self, expression: str):
        return self.call("Runtime.evaluate", expression=expression)["result"].get("value")

    def press(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    def picture(self, x: float, y: float, width: int, height: int) -> np.ndarray:
        """That part of the page, (height, width, 3) uint8."""
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        data = self.call("Page.captureScreenshot", format="png", clip=clip)["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))

    def close(self) -> None:
        with contextlib.suppress(AssertionError, OSError):
            self.session = None
            self.call("Browser.close")
        os.close(self.write)
        os.close(self.read)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory, page):
    if not shutil.which("chromium"):
        pytest.skip("no chromium on PATH: apt-get install -y chromium")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    try:
        browser.open(page)
        yield browser
    finally:
        browser.close()


@pytest.fixture
def first(browser):
    """Place (x, y) of the first picture, shown pixel by pixel."""
    browser.evaluate("document.body.classList.add('actual')")
    place = "document.querySelector('.slider').getBoundingClientRect()"
    return browser.evaluate(f"{place}.x"), browser.evaluate(f"{place}.y")


def share(browser) -> int:
    return int(browser.evaluate("document.querySelector('input[type=range]').value"))


def test_keyboard_moves_the_line_from_one_image_to_the_other(browser, first):
    image = photo(120, 160, seed=0)
    browser.evaluate("document.querySelector('input[type=range]').value = 50")
    browser.evaluate("document.querySelector('input[type=checkbox]').focus()")
    browser.press("Tab", 9)  # the first slider, whatever was focused before
    browser.press("ArrowRight", 39)
    assert share(browser) == 51
    said = "document.activeElement.getAttribute('aria-valuetext')"
    assert browser.evaluate(said) == "51 % before"
    half = browser.picture(*first, 160, 120)
    browser.press("End", 35)
    before = browser.picture(*first, 160, 120)
    browser.press("Home", 36)
    after = browser.picture(*first, 160, 120)
    inner = np.s_[40:-10, 25:-25]  # without labels, rounded corners and the handle at either end
    np.testing.assert_array_equal(before[inner], blurred(image)[inner])
    np.testing.assert_array_equal(after[inner], image[inner])
    np.testing.assert_array_equal(half[40:-10, 10:50], blurred(image)[40:-10, 10:50])
    np.testing.assert_array_equal(half[40:-10, 110:150], image[40:-10, 110:150])


def test_mouse_and_touch_move_the_line(browser, first):
    x, y = first
    for kind in ("mousePressed", "mouseReleased"):
        browser.call(
            "Input.dispatchMouseEvent", type=kind, x=x + 40, y=y + 60, button="left", clickCount=1
        )
    assert share(browser) == pytest.approx(25, abs=1)
    browser.call("Emulation.setTouchEmulationEnabled", enabled=True)
    browser.call(
        "Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x + 40, "y": y + 60}]
    )
    for step in range(50, 130, 10):
        point = {"x": x + step, "y": y + 60}
        browser.call("Input.dispatchTouchEvent", type="touchMove", touchPoints=[point])
    browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    assert share(browser) == pytest.approx(75, abs=2)
