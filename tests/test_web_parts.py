"""The page's modules by themselves, in Node: rate control, newest frame, pixels, tiles, models."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import photo

from tools.fake_camera import WEB

pytestmark = pytest.mark.skipif(
    not shutil.which("node"), reason="no node on PATH: apt-get install nodejs"
)


def in_node(source: str, **values):
    """What `source`, the body of an async function, returns; `values` are its variables."""
    names = ", ".join(values)
    program = f"""
      const load = (name) => import({json.dumps(WEB.as_uri())} + "/" + name);
      const run = async ({{ {names} }}) => {{ {source} }};
      run(JSON.parse(await new Response(process.stdin).text()))
        .then((result) => console.log(JSON.stringify(result)));
    """
    program = program.replace("await new Response(process.stdin).text()", "INPUT")
    program = 'import { readFileSync } from "node:fs"; const INPUT = readFileSync(0);' + program
    command = ["node", "--input-type=module", "--eval", program]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- rate control ---------------------------------------------------------------------------------

DEVICE = """
  const { LEVELS, LOWEST_RATE, OFF, RateControl } = await load("rate_control.js");
  const control = new RateControl();
  const changes = [], latencies = [];
  let now = 0;
  while (now < seconds * 1000) {
    const busy = load_.find(([until]) => now < until * 1000)[1]; // ms for a frame of full size
    const work = LEVELS[control.level].work;
    const milliseconds = 4 + work * busy;
    now += Math.max(1000 / 30, milliseconds);
    latencies.push([now, milliseconds]);
    if (control.frame(now, milliseconds)) changes.push([now / 1000, control.level]);
  }
  return { changes, latencies, level: control.level, off: OFF };
"""


def device(*load, seconds):
    """A device whose full-size frame takes `load` = [(until second, milliseconds), ...]."""
    return in_node(DEVICE, load_=load, seconds=seconds)


def test_fast_device_goes_up_to_full_size_and_stays():
    found = device((60, 30), seconds=60)
    assert found["level"] == 0 and len(found["changes"]) == 1
    assert 4 < found["changes"][0][0] < 8


def test_device_that_carries_half_size_stays_there():
    assert device((60, 120), seconds=60)["changes"] == []


def test_twice_the_load_it_can_carry_goes_down_within_seconds_and_latency_stays_flat():
    found = device((60, 640), seconds=60)  # half size would take 164 ms: 6 frames a second
    assert found["changes"][0][0] < 2 and found["level"] in (2, found["off"])
    late = [ms for when, ms in found["latencies"] if when > 30_000]
    assert max(late) <= 200  # the time of a single frame, even where it tries a level again
    tries = sum(level < 2 for _, level in found["changes"])
    assert tries <= 4  # it settles


def test_too_slow_for_anything_shows_the_plain_picture_and_tries_again():
    found = device((120, 3000), seconds=120)
    assert [level for _, level in found["changes"][:2]] == [2, found["off"]]
    tries = [when for when, level in found["changes"] if level == 2][1:]
    waits = np.diff(tries)
    assert len(tries) >= 2 and (waits[1:] >= waits[:-1]).all()


def test_load_that_ends_lets_it_up_again():
    found = device((20, 3000), (120, 30), seconds=120)
    assert found["level"] == 0


# --- newest frame ---------------------------------------------------------------------------------


def test_only_the_newest_frame_is_sent_and_one_at_a_time():
    source = """
      const { NewestFrame } = await load("newest_frame.js");
      globalThis.self = globalThis;
      let shown = 0, callback = null;
      globalThis.VideoFrame = class { constructor() { this.number = shown; } close() {} };
      const video = {
        requestVideoFrameCallback: (f) => (callback = f, 1),
        cancelVideoFrameCallback() {},
      };
      const sent = [];
      const send = ({ number }, captured) => sent.push([number, captured]);
      const frames = new NewestFrame(video, send);
      const present = async () => {
        shown++;
        callback(10 * shown, {});
        await 0;
      };
      frames.start();
      for (let i = 0; i < 5; i++) await present(); // the first is sent, nobody says it is done
      frames.done(); // now the fifth, not the second
      frames.done(); // nothing new
      await present();
      return sent;
    """
    assert in_node(source) == [[1, 10], [5, 50], [6, 60]]


def test_video_without_a_frame_is_tried_again():
    source = """
      const { NewestFrame } = await load("newest_frame.js");
      globalThis.self = globalThis;
      let ready = false, callback = null, sent = 0;
      globalThis.VideoFrame = class { constructor() { if (!ready) throw new Error("empty"); } };
      const video = {
        requestVideoFrameCallback: (f) => (callback = f, 1),
        cancelVideoFrameCallback() {},
      };
      const frames = new NewestFrame(video, () => sent++);
      frames.start();
      callback(1, {});
      ready = true;
      callback(2, {});
      await 0;
      return sent;
    """
    assert in_node(source) == 1


# --- pixels and tiles -----------------------------------------------------------------------------


@pytest.mark.parametrize("height, width", [(6, 8), (5, 7), (1, 1)])
def test_half_size_is_the_mean_and_comes_back_bilinearly(height, width):
    rng = np.random.default_rng(height)
    rgba = rng.integers(0, 256, (height, width, 4))
    rows, columns = -(-height // 2), -(-width // 2)
    residual = rng.normal(0, 0.2, (3, rows, columns)).astype(np.float32)
    source = """
      const { addResidual, toPlanes } = await load("pixels.js");
      const planes = new Float32Array(residual.length);
      const bytes = Uint8ClampedArray.from(rgba), result = new Uint8ClampedArray(rgba.length);
      toPlanes(bytes, width, height, 2, planes);
      addResidual(bytes, Float32Array.from(residual), width, height, 2, 0.5, result);
      return [[...planes], [...result]];
    """
    values = {"rgba": rgba.ravel().tolist(), "residual": residual.ravel().tolist()}
    planes, result = in_node(source, height=height, width=width, **values)
    even = np.pad(rgba[..., :3], ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    means = even.reshape(rows, 2, columns, 2, 3).mean((1, 3)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(np.reshape(planes, means.shape), means, atol=1e-6)
    large = F.interpolate(torch.from_numpy(residual)[None], scale_factor=2, mode="bilinear")[0]
    expected = rgba.astype(np.float64)
    expected[..., :3] += 0.5 * 255 * large.numpy().transpose(1, 2, 0)[:height, :width]
    found = np.reshape(result, rgba.shape)
    assert np.abs(found - expected.clip(0, 255)).max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(found[..., 3], rgba[..., 3])


@pytest.mark.parametrize("height, width", [(3, 5), (1100, 7), (5, 2100)])
def test_tiles_of_a_pointwise_network_give_the_whole_picture(height, width):
    image = np.dstack([np.resize(photo(64, 64), (height, width, 3)), np.full((height, width), 9)])
    source = """
      const { sharpenInTiles } = await load("tiles.js");
      const sizes = [];
      const run = async (planes, width, height) => {
        sizes.push([width, height]);
        return planes.map((value) => 1 - value);
      };
      const bytes = Uint8ClampedArray.from(rgba);
      return [[...await sharpenInTiles(bytes, width, height, run, () => true)], sizes];
    """
    result, sizes = in_node(source, rgba=image.ravel().tolist(), height=height, width=width)
    expected = image.copy()
    expected[..., :3] = 255 - image[..., :3]
    np.testing.assert_array_equal(np.reshape(result, image.shape), expected)
    assert max(max(size) for size in sizes) <= 1024


def test_tiles_end_when_they_are_told_to():
    source = """
      const { sharpenInTiles } = await load("tiles.js");
      let count = 0;
      const run = async (planes) => (count++, planes);
      const bytes = new Uint8ClampedArray(4 * 3000);
      return [await sharpenInTiles(bytes, 3000, 1, run, () => false), count];
    """
    assert in_node(source) == [None, 1]


# --- messages and figures -------------------------------------------------------------------------


def test_every_failure_has_a_sentence_and_a_way_on():
    source = """
      const { cameraMessage, problemMessage } = await load("messages.js");
      const names = ["NotAllowedError", "NotFoundError", "NotReadableError",
                     "OverconstrainedError", "SecurityError", "AbortError"];
      const kinds = ["unplugged", "model", "compute", "worker", "unreadable", "picture",
                     "too-large"];
      return [...names.map((name) => cameraMessage({ name, message: "" })),
              ...kinds.map((kind) => problemMessage(kind))];
    """
    messages = in_node(source)
    assert len({message["title"] for message in messages}) >= 11
    for message in messages:
        assert message["title"] and message["text"].endswith(".") and message["actions"]


def test_figures_count_the_last_two_seconds():
    source = """
      const { SpeedFigures } = await load("speed_figures.js");
      const figures = new SpeedFigures();
      for (let i = 0; i <= 200; i++) figures.frame(50 * i, 50 * i - 30 - (i % 2));
      return [figures.rate, figures.latency];
    """
    rate, latency = in_node(source)
    assert rate == pytest.approx(20) and latency in (30, 31)
