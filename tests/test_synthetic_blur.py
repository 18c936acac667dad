"""Synthetic blur: where the light goes, what a seed fixes, and which settings are refused."""

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sharpening import synthetic_blur
from sharpening.synthetic_blur import (
    DegradationConfig,
    average_frames,
    camera_path,
    degrade,
    draw_motion,
    generators_for,
    homographies,
    lens_blur,
    to_light,
    to_values,
    warp,
)

MOTION = DegradationConfig(motion=1, video_call=0)
CALL = DegradationConfig(motion=0, video_call=1)
STILL = DegradationConfig(motion=0, video_call=0)
IN_FRONT = DegradationConfig(motion=0, video_call=0, moving_object=1, rest_chance=0)
SOFT = DegradationConfig(motion=0, video_call=0, soft_chance=1)


def blurred(sharp, generators, config):
    """What `degrade` makes of images whose targets stay as they are."""
    blurry, target = degrade(sharp, generators, config)
    assert torch.equal(target, (sharp.detach() * 255).round() / 255)
    return blurry


@pytest.fixture
def sharp():
    """Eight images (8, 3, 40, 52) of coarse random texture."""
    coarse = torch.rand(8, 3, 10, 13, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (40, 52), mode="bicubic").clamp(0, 1)


@pytest.fixture
def no_noise(monkeypatch):
    """Motion without the faint noise that is left of a sensor's."""
    monkeypatch.setattr(synthetic_blur, "FAINT_NOISE", (0.0, 0.0))


@pytest.mark.parametrize(
    "config", [DegradationConfig(), MOTION, CALL], ids=["mix", "motion", "call"]
)
def test_image_depends_on_its_generator_and_not_on_its_batch(sharp, config):
    whole = blurred(sharp, generators_for(3, range(8)), config)
    parts = [blurred(sharp[i : i + 1], generators_for(3, [i]), config) for i in range(8)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, blurred(sharp, generators_for(4, range(8)), config))
    assert not torch.equal(whole, sharp)


def test_generators_are_fixed_by_seed_and_index():
    def draws(seed, indices):
        return [torch.rand(3, generator=g) for g in generators_for(seed, indices)]

    assert torch.equal(draws(1, [5])[0], draws(1, range(9))[5])
    assert len({tuple(d.tolist()) for s in range(3) for d in draws(s, range(20))}) == 60
    assert generators_for(1, [2])[0].initial_seed() == 1596810411


def test_nothing_drawn_leaves_the_stored_levels(sharp):
    assert torch.equal(
        blurred(sharp, generators_for(0, range(8)), STILL), (sharp * 255).round() / 255
    )


@pytest.mark.parametrize("level", [0, 1, 127, 244, 255])
def test_uniform_image_stays_uniform_under_motion(level, no_noise):
    sharp = torch.full((6, 3, 33, 20), level / 255)
    assert torch.equal(blurred(sharp, generators_for(0, range(6)), MOTION), sharp)


@pytest.mark.parametrize("gaussian", [False, True])
def test_lens_blur_keeps_energy_and_widens_with_radius(gaussian):
    impulse = torch.zeros(3, 31, 31)
    impulse[:, 15, 15] = 1
    x = torch.arange(31.0) - 15
    spread = []
    for radius in (2.0, 4.0, 6.0):
        blurry = lens_blur(impulse, radius, gaussian)
        assert blurry.sum((1, 2)).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
        spread.append((blurry[0].sum(0) * x**2).sum().item())
    # variance along x: radius**2 / 4 for a disk and for a Gaussian of half the radius
    assert spread == pytest.approx([1, 4, 9], rel=0.2)


@pytest.mark.parametrize("length", [4.0, 12.0, 20.0])
def test_path_has_its_length_and_rests_at_mid_exposure(length):
    for seed in range(20):
        pose = camera_path(generators_for(seed, [0])[0], 15, length)
        assert pose[:, :2].diff(dim=0).norm(dim=1).sum().item() == pytest.approx(length, rel=1e-4)
        assert pose[7].abs().max() == 0
        assert pose[:, 2:].abs().max() <= 0.3 * length


def test_straight_path_spreads_an_impulse_over_its_length_around_its_place():
    pose = torch.zeros(21, 6)
    pose[:, 0] = torch.linspace(-5, 5, 21)
    impulse = torch.zeros(1, 41, 41)
    impulse[:, 20, 20] = 1
    streak = warp(impulse[None], homographies(pose, 128.0)[None])[0].mean(0)[0]
    row = streak[20]
    assert row.sum().item() == pytest.approx(1, abs=1e-5)
    assert row[16:25].tolist() == pytest.approx([2 / 21] * 9, abs=1e-5)
    assert row[:15].abs().max() < 1e-6 and row[26:].abs().max() < 1e-6
    assert streak.sum(0).flip(0).tolist() == pytest.approx(streak.sum(0).tolist(), abs=1e-5)


def test_roll_turns_about_the_centre_by_its_angle():
    pose = torch.zeros(1, 6)
    pose[0, 2] = 100 * torch.tan(torch.tensor(torch.pi / 4))  # radius 100: an angle of 45 degrees
    image = torch.zeros(1, 21, 21)
    image[0, 15, 15] = 1  # (5, 5) from the centre: seen at (5, 0)
    seen = warp(image[None], homographies(pose, 100.0)[None])[0, 0, 0]
    assert seen.argmax().item() == 10 * 21 + 15


@pytest.mark.parametrize("response", [0.0, 2.2, 6.0])
def test_light_is_the_inverse_of_values_and_spans_the_same_range(response):
    values, response = torch.linspace(0, 1, 256), torch.tensor(response)
    light = to_light(values, response)
    assert light[0] == 0 and light[-1].item() == pytest.approx(1, abs=1e-6)
    assert (light.diff() > 0).all()
    assert (to_values(light, response) - values).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("response", "expected"), [(0.0, 0.5), (2.2, 0.5 ** (1 / 2.2)), (6.0, 0.885)]
)
def test_black_and_white_meet_in_linear_light(response, expected, no_noise, monkeypatch):
    """A chessboard averages to half the light: 0.5 stored as it is, 0.73 as with gamma 2.2."""
    monkeypatch.setattr(synthetic_blur, "BEND", 0.0)
    monkeypatch.setattr(synthetic_blur, "SWING", 0.0)
    sharp = torch.zeros(4, 3, 64, 64)
    sharp[..., ::2, ::2] = sharp[..., 1::2, 1::2] = 1
    config = DegradationConfig(
        motion=1, video_call=0, response=(response, response), highlight=(0, 0),
        length=(24, 24), spacing=(0.5, 0.5), object_chance=0,
    )  # fmt: skip
    blurry = blurred(sharp, generators_for(0, range(4)), config)
    assert blurry.mean().item() == pytest.approx(expected, abs=0.01)


def test_bright_light_draws_a_clipped_streak(no_noise):
    sharp = torch.full((1, 3, 64, 64), 0.2)
    sharp[..., 31:34, 31:34] = 1
    dim, bright = (
        blurred(sharp, generators_for(0, [0]), DegradationConfig(
            motion=1, video_call=0, length=(9, 9), highlight=(boost, boost), object_chance=0,
        )) for boost in (0, 20)
    )  # fmt: skip
    assert (bright == 1).sum() > 2 * (dim == 1).sum() + 9
    assert bright.max() == 1 and (bright >= dim).all()


def test_few_lights_are_much_brighter_than_white(no_noise, monkeypatch):
    sharp = torch.full((96, 3, 32, 32), 0.2)
    sharp[..., 14:18, 14:18] = 1

    def streaks(top, power):
        monkeypatch.setattr(synthetic_blur, "HIGHLIGHT_POWER", power)
        config = DegradationConfig(
            motion=1, video_call=0, length=(9, 9), object_chance=0, highlight=(0, top)
        )
        return blurred(sharp, generators_for(0, range(96)), config).mean(dim=(1, 2, 3))

    usual = synthetic_blur.HIGHLIGHT_POWER
    none, few, many = (streaks(*drawn) - 0.2 for drawn in ((0, 1), (3, usual), (3, 1)))
    assert (many > 1.1 * none).float().mean() > 0.7
    assert 0.05 < (few > 1.1 * none).float().mean() < 0.4


def test_object_changes_the_motion_and_rests_when_nothing_moves(sharp):
    def moved(length, seed, **settings):
        config = DegradationConfig(length_power=1, **settings)
        generator = generators_for(seed, [0])[0]
        motion = draw_motion(generator, sharp.shape[2:], (length, length), False, config)
        return average_frames(sharp[:1], sharp[:1], [motion])

    alone, both = (moved(12.0, 2, object_chance=chance) for chance in (0, 1))
    assert not torch.allclose(alone, both, atol=1e-3)
    assert torch.allclose(moved(0.0, 0, object_chance=1), sharp[:1], atol=1e-5)


def test_frames_are_averaged_alike_however_many_are_rendered_at_once(sharp):
    config = DegradationConfig(object_chance=0.5, length=(0, 30))
    motions = [
        draw_motion(generator, sharp.shape[2:], config.length, False, config)
        for generator in generators_for(4, range(8))
    ]
    assert len({len(motion.camera) for motion in motions}) > 3
    assert 0 < sum(motion.mask is not None for motion in motions) < 8
    at_once = [average_frames(sharp, sharp.flip(3), motions, count) for count in (1, 4, 100)]
    assert torch.allclose(at_once[0], at_once[1], atol=1e-6)
    assert torch.allclose(at_once[0], at_once[2], atol=1e-6)


class CountImageOperations(TorchDispatchMode):
    """Counts operations whose result has at least as many numbers as one channel of an image."""

    def __init__(self, pixels):
        super().__init__()
        self.pixels, self.count = pixels, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        large = isinstance(result, torch.Tensor) and result.numel() >= self.pixels
        self.count += large and not func.is_view
        return result


def test_batch_needs_few_operations():
    """On a GPU each operation waits for its launch. One image after the other took 260 an image."""
    sharp = torch.rand(32, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    config = DegradationConfig(
        motion=0.4, video_call=0.3, moving_object=0.2, soft_chance=0.25, length=(0, 40)
    )
    with CountImageOperations(64 * 64) as counted:
        degrade(sharp, generators_for(0, range(32)), config)
    assert 100 < counted.count < 1000


def test_object_moves_in_front_of_a_background_at_rest(sharp, no_noise):
    config = dataclasses.replace(IN_FRONT, background_chance=0, length=(12, 12), response=(0, 0))
    black, white = torch.zeros_like(sharp), torch.full_like(sharp, 0.9)
    blurry, target = degrade(black, generators_for(0, range(8)), config, white)
    covered, touched = target.amax(1), blurry.amax(1)
    assert 0.1 < (covered > 0.45).float().mean() < 0.7
    assert (touched == 0).any() and (touched[covered == 0] > 0).any()  # its trail, and no further
    assert (blurry - target).abs().mean() > 0.01
    assert (blurry - target).mean().abs() < 0.01  # no light comes or goes


def test_background_out_of_focus_is_so_in_the_target(sharp, no_noise):
    config = dataclasses.replace(IN_FRONT, background_chance=1, length=(0, 0), soft_radius=(3, 3))
    blurry, target = degrade(sharp, generators_for(0, range(8)), config, sharp)
    assert (blurry - target).abs().max() < 1.5 / 255  # rounded up or down
    assert target.diff(dim=3).abs().mean() < 0.9 * sharp.diff(dim=3).abs().mean()


def test_object_that_rests_changes_nothing(sharp, no_noise):
    resting = dataclasses.replace(IN_FRONT, rest_chance=1)
    blurry, target = degrade(sharp, generators_for(0, range(8)), resting, sharp.roll(1, 0))
    assert (blurry - target).abs().max() < 1.5 / 255  # rounded up or down
    assert not torch.equal(target, (sharp * 255).round() / 255)


def test_softness_stays_in_the_target(sharp):
    blurry, target = degrade(sharp, generators_for(0, range(8)), SOFT)
    assert torch.equal(blurry, target)
    assert target.diff(dim=3).abs().mean() < sharp.diff(dim=3).abs().mean()
    moving = dataclasses.replace(MOTION, soft_chance=1)
    blurry, target = degrade(sharp, generators_for(0, range(8)), moving)
    assert not torch.equal(blurry, target) and not torch.equal(target, (sharp * 255).round() / 255)


def test_softness_spreads_light_as_a_lens_does():
    twig = torch.ones(8, 3, 64, 64) * 0.9
    twig[..., 30:34] = 0.1
    targets = {
        k: degrade(twig, generators_for(0, range(8)), dataclasses.replace(SOFT, response=(k, k)))
        for k in (0.0, 6.5)
    }
    stored, light = (target.mean() for _, target in targets.values())
    assert (stored - twig.mean()).abs() < 0.005 < 0.01 < light - twig.mean()


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (17, 31), (33, 8)])
@pytest.mark.parametrize(
    "config", [MOTION, CALL, IN_FRONT, SOFT], ids=["motion", "call", "in front", "soft"]
)
def test_any_size_gives_levels_of_the_same_shape(size, config):
    sharp = torch.rand(6, 3, *size, generator=torch.Generator().manual_seed(1))
    for image in degrade(sharp, generators_for(0, range(6)), config):
        assert image.shape == sharp.shape and image.dtype == torch.float32
        assert image.min() >= 0 and image.max() <= 1
        assert torch.equal(image, (image * 255).round() / 255)


def test_no_gradient_and_the_device_of_the_input():
    sharp = torch.rand(2, 3, 16, 16, requires_grad=True)
    blurry = blurred(sharp, generators_for(0, range(2)), CALL)
    assert not blurry.requires_grad and blurry.device == sharp.device


def test_each_image_needs_a_generator(sharp):
    with pytest.raises(ValueError, match="8 images need as many generators, got 3"):
        degrade(sharp, generators_for(0, range(3)), MOTION)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"motion": 0.8, "video_call": 0.3}, "motion .* video_call"),
        ({"motion": 0.8, "video_call": 0.1, "moving_object": 0.2}, "moving_object"),
        ({"motion": -0.1}, "motion"),
        ({"jpeg_chance": 1.5}, "jpeg_chance"),
        ({"length": (9.0, 3.0)}, "length"),
        ({"length": (0.0, float("inf"))}, "length"),
        ({"spacing": (0.0, 1.0)}, "spacing"),
        ({"response": (-1.0, 2.2)}, "response"),
        ({"rescale": (0.5, 2.0)}, "rescale"),
        ({"jpeg_quality": (0, 50)}, "jpeg_quality"),
        ({"jpeg_quality": (50, 101)}, "jpeg_quality"),
        ({"soft_quality": (50, 101)}, "soft_quality"),
        ({"soft_radius": (0.0, 1.0)}, "soft_radius"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DegradationConfig(**settings)
