"""Synthetic blur: sharp crops in, blurred crops out, as cameras and video calls make them.

    blurry = degrade(sharp, generators_for(seed, indices), DegradationConfig())

A camera, or an object too, moves during the exposure: frames along the path are averaged in linear
light. Then come noise, and for video calls lens blur, rescaling and JPEG.
"""

import dataclasses
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sharpening.settings import check_limits


@dataclass(frozen=True)
class DegradationConfig:
    """Ranges of the synthetic blur: (lowest, highest), drawn uniformly if nothing else is said.

    `motion=1, video_call=0` is the blur of GoPro and REDS alone; `motion=0, video_call=1` is video
    calls alone.
    """

    motion: float = 0.75
    """Probability that an image gets camera and object motion alone, as in GoPro and REDS."""
    video_call: float = 0.20
    """Probability of a video call: lens blur, motion, noise, rescaling, JPEG, each by its chance.
    An image that gets neither motion nor video_call stays sharp."""
    length: tuple[float, float] = (0.0, 24.0)
    """Length of a motion path, pixels. Frames of 1280 x 720 have up to 40, but a student trained
    with that learns to leave images alone (a fifth of the gain, docs/EXPERIMENTS.md)."""
    length_power: float = 1.3
    """Lengths follow a uniform number to this power: above 1 short paths are more frequent."""
    spacing: tuple[float, float] = (0.8, 4.0)
    """Pixels between averaged frames: 1 is smooth as in REDS (1920 fps), 4 leaves double edges as
    in GoPro (240 fps)."""
    object_chance: float = 0.25
    """Probability that a moving image has an object: a soft random mask with its own path."""
    response: tuple[float, float] = (0.0, 6.5)
    """Camera response k in light = expm1(k * value) / expm1(k). The k that keeps the mean of blocks
    of real pairs is 0 for GoPro `blur` and 5 to 6 for REDS; 2.2 is close to gamma 2.2."""
    response_power: float = 3.0
    """Responses follow a uniform number to this power. With 1 few are near GoPro's: a student that
    never saw GoPro gains nothing on it, with 3 it gains 0.14 dB (docs/EXPERIMENTS.md)."""
    highlight: tuple[float, float] = (0.0, 3.0)
    """How much brighter than white (1) clipped white was: above 0, lights draw bright streaks."""
    call_motion_chance: float = 0.4
    """Probability of motion in a video call image."""
    call_length: tuple[float, float] = (0.0, 14.0)
    """Length of a path in a video call, pixels: webcams are mounted, hands and heads move."""
    lens_chance: float = 0.5
    """Probability of lens blur in a video call: fixed-focus cameras, faces out of focus."""
    lens_radius: tuple[float, float] = (0.4, 4.0)
    """Radius of the lens blur, pixels: a disk, or a Gaussian of half that standard deviation."""
    noise_chance: float = 0.6
    """Probability of sensor noise in a video call."""
    noise: tuple[float, float] = (0.003, 0.04)
    """Standard deviation of the noise, 1 is white. A random part of it fades in the dark."""
    rescale_chance: float = 0.6
    """Probability that a video call image is sent smaller and shown at full size."""
    rescale: tuple[float, float] = (1.2, 4.0)
    """Factor of the reduction: 4 shows 320 x 180 at 1280 x 720."""
    jpeg_chance: float = 0.7
    """Probability of compression in a video call."""
    jpeg_quality: tuple[int, int] = (30, 95)
    """JPEG quality, 1 to 100. Below 30 the blocks hide what could be restored."""

    def __post_init__(self) -> None:
        chances = [f.name for f in dataclasses.fields(self) if f.name.endswith("chance")]
        limits = {f.name: (0, math.inf) for f in dataclasses.fields(self)}
        limits |= dict.fromkeys(("motion", "video_call", *chances), (0, 1))
        limits |= dict.fromkeys(("length_power", "response_power"), (TINY, math.inf))
        limits |= dict.fromkeys(("spacing", "lens_radius"), (TINY, math.inf))
        limits |= {"rescale": (1, math.inf), "jpeg_quality": (1, 100)}
        check_limits(self, limits, "degradation.")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            low, high = value if isinstance(value, tuple) else (value, value)
            if not low <= high < math.inf:
                raise ValueError(f"degradation.{field.name} must be finite and ordered: {value}")
        if self.motion + self.video_call > 1 + 1e-9:
            total = self.motion + self.video_call
            raise ValueError(f"degradation.motion + video_call must not exceed 1: {total}")


TINY = 1e-6
BEND = 1.5
"""Largest curvature and jitter of a path relative to its straight part. The draw is a cube, so most
paths are nearly straight."""
SWING = 0.3
"""Largest displacement by roll, zoom and tilt at the image corner, as a share of the length."""
HIGHLIGHT_POWER = 10.0
"""Highlights follow a uniform number to this power: the frames that GoPro and REDS average were
clipped before. With 1 a student learns to darken skies before it learns to move edges."""
FAINT_NOISE = (0.0, 0.006)
"""Standard deviation of the noise after motion alone, 1 is white: averaging leaves little."""

DEMO_BLUR = DegradationConfig(
    motion=0.0,
    video_call=1.0,
    response=(0.0, 2.2),
    response_power=1.0,
    highlight=(0.0, 0.0),
    lens_chance=1.0,
    lens_radius=(1.2, 2.8),
    call_motion_chance=0.4,
    call_length=(0.0, 8.0),
    noise_chance=0.3,
    noise=(0.001, 0.006),
    rescale_chance=0.2,
    rescale=(1.2, 1.8),
    jpeg_chance=0.3,
    jpeg_quality=(80, 95),
)
"""A camera slightly out of focus that moved a little: blur that can be learnt in minutes."""


def generators_for(seed: int, indices: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per index. It depends on (seed, index) alone, so all processes agree."""
    states = (np.random.SeedSequence((seed, int(i))).generate_state(1) for i in indices)
    return [torch.Generator().manual_seed(int(state[0])) for state in states]


def uniform(
    generator: torch.Generator, low: float = 0.0, high: float = 1.0, power: float = 1.0
) -> float:
    """A number between low and high; a power above 1 makes those near low more frequent."""
    return low + (high - low) * torch.rand((), generator=generator).item() ** power


def chance(generator: torch.Generator, probability: float) -> bool:
    return uniform(generator) < probability


def noise_like(image: Tensor, generator: torch.Generator) -> Tensor:
    """Normal numbers made on the image's device from a drawn seed: CPU and GPU noise differ."""
    seed = int(torch.randint(2**31, (), generator=generator))
    on_device = torch.Generator(image.device).manual_seed(seed)
    return torch.randn(image.shape, generator=on_device, device=image.device)


def to_light(values: Tensor, response: float) -> Tensor:
    """Stored values in [0, 1] -> linear light in [0, 1]; `response` 0 is the identity."""
    return torch.expm1(values * response) / math.expm1(response) if response else values


def to_values(light: Tensor, response: float) -> Tensor:
    """Inverse of `to_light`."""
    return torch.log1p(light * math.expm1(response)) / response if response else light


def camera_path(generator: torch.Generator, frames: int, length: float) -> Tensor:
    """Poses (T, 6): shift x, y in pixels, then roll, zoom, tilt x, y in pixels at the corner.

    T is odd and the middle frame is at rest, because the sharp target is the middle frame. The path
    of the shift is `length` pixels long.
    """
    half = frames // 2
    time = torch.arange(-half, half + 1) / half  # -1 .. 1 over the exposure
    bend = BEND * uniform(generator) ** 3
    tremor = torch.sin(uniform(generator, 2, 8) * time)
    basis = torch.stack([time, bend * time**2, bend * time**3, 0.3 * bend * tremor], dim=1)
    pose = basis @ torch.randn(4, 6, generator=generator)
    pose[:, :2] *= length / pose[:, :2].diff(dim=0).norm(dim=1).sum().clamp(min=1e-6)
    swing = length * SWING * uniform(generator) / 2  # to either side
    pose[:, 2:] *= swing / pose[:, 2:].abs().amax().clamp(min=1e-6)
    return pose


def homographies(pose: Tensor, radius: float) -> Tensor:
    """Poses (T, 6) -> matrices (T, 3, 3) for pixel coordinates from the image centre."""
    shift, (roll, zoom, tilt_x, tilt_y) = pose[:, :2], (pose[:, 2:] / radius).unbind(1)
    one = torch.ones_like(roll)
    rows = [
        torch.stack([one + zoom, -roll, shift[:, 0]], dim=1),
        torch.stack([roll, one + zoom, shift[:, 1]], dim=1),
        torch.stack([tilt_x / radius, tilt_y / radius, one], dim=1),
    ]
    return torch.stack(rows, dim=1)


def warp(image: Tensor, matrices: Tensor) -> Tensor:
    """`image` (C, H, W) through each homography (T, 3, 3) -> (T, C, H, W); the border reflects."""
    _, H, W = image.shape
    x = torch.arange(W, device=image.device) - (W - 1) / 2
    y = torch.arange(H, device=image.device)[:, None] - (H - 1) / 2
    m = matrices.to(image.device)[..., None, None]
    u, v, w = (m[:, i, 0] * x + m[:, i, 1] * y + m[:, i, 2] for i in range(3))  # no matmul: TF32
    grid = torch.stack([u / w * (2 / W), v / w * (2 / H)], dim=-1)  # (T, H, W, 2)
    frames = image.expand(len(matrices), -1, -1, -1)
    return F.grid_sample(frames, grid, padding_mode="reflection", align_corners=False)


def soft_mask(generator: torch.Generator, H: int, W: int) -> Tensor:
    """Random blobs (1, H, W) in [0, 1], a few per image, with edges some pixels wide."""
    rows = columns = 3 + int(uniform(generator, 0, 4))
    field = torch.randn(1, 1, rows, columns, generator=generator)
    field = F.interpolate(field, (H, W), mode="bicubic", align_corners=False)[0]
    return torch.sigmoid((field - uniform(generator, -0.3, 0.8)) * uniform(generator, 8, 40))


def move(
    light: Tensor,
    generator: torch.Generator,
    lengths: tuple[float, float],
    config: DegradationConfig,
) -> Tensor:
    """Exposure of the linear-light image (3, H, W) while the camera, or an object too, moves."""
    _, H, W = light.shape
    with_object = chance(generator, config.object_chance)
    drawn = [uniform(generator, *lengths, config.length_power) for _ in range(2)]
    half = math.ceil(max(drawn[: 1 + with_object]) / uniform(generator, *config.spacing) / 2)
    frames = 2 * min(max(half, 3), 24) + 1  # odd, at least GoPro's 7
    radius = max(128.0, math.hypot(H, W) / 2)
    camera, thing = (
        homographies(camera_path(generator, frames, length), radius) for length in drawn
    )
    layer = torch.cat([light, soft_mask(generator, H, W).to(light.device)]) if with_object else None
    total = torch.zeros_like(light)
    for there, here in zip(camera.split(8), thing.split(8), strict=True):  # bounds the memory
        seen = warp(light, there)
        if layer is not None:
            front = warp(layer, here)
            seen = torch.lerp(seen, front[:, :3], front[:, 3:])
        total += seen.sum(dim=0)
    return total / frames


def lens_blur(image: Tensor, radius: float, gaussian: bool) -> Tensor:
    """`image` (C, H, W) blurred by a disk of `radius` pixels, or a Gaussian of half that sigma."""
    reach = math.ceil(1.5 * radius + 0.5) if gaussian else math.ceil(radius)
    offsets = torch.arange(-reach, reach + 1.0)
    distance = torch.hypot(*torch.meshgrid(offsets, offsets, indexing="ij"))
    kernel = (-2 * (distance / radius) ** 2).exp() if gaussian else radius + 0.5 - distance
    kernel = kernel.clamp(0, 1).to(image)
    H, W = image.shape[-2:]
    rows, columns = (mirror(size, reach, image.device) for size in (H, W))
    padded = image[:, rows][:, :, columns]
    return F.conv2d(padded[:, None], kernel[None, None] / kernel.sum())[:, 0]


def mirror(size: int, reach: int, device: torch.device) -> Tensor:
    """Indices -reach .. size + reach - 1 folded into the image, however small it is."""
    index = torch.arange(-reach, size + reach, device=device) % (2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def transmit(image: Tensor, generator: torch.Generator, config: DegradationConfig) -> Tensor:
    """What a video call does: the image is made smaller, compressed and shown at full size."""
    H, W = image.shape[-2:]
    small = image[None]
    rescale = chance(generator, config.rescale_chance)
    if rescale:
        factor = uniform(generator, *config.rescale)
        size = (max(1, round(H / factor)), max(1, round(W / factor)))
        down, up = ("bicubic" if chance(generator, 0.5) else "bilinear" for _ in range(2))
        small = F.interpolate(small, size, mode=down, antialias=chance(generator, 0.8))
    if chance(generator, config.jpeg_chance):
        low, high = config.jpeg_quality
        small = jpeg(small[0], round(uniform(generator, low, high)))[None]
    return F.interpolate(small, (H, W), mode=up)[0] if rescale else small[0]


def jpeg(image: Tensor, quality: int) -> Tensor:
    """`image` (3, H, W) after JPEG by Pillow: torchvision 0.29 deprecates its own codec."""
    levels = to_levels(image).to("cpu", torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality)
    stored = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    return stored.to(image.device).float() / 255


def to_levels(image: Tensor) -> Tensor:
    """[0, 1] -> the whole numbers 0 .. 255 that an image file stores, still float."""
    return (image * 255).round().clamp(0, 255)


def degrade_image(sharp: Tensor, generator: torch.Generator, config: DegradationConfig) -> Tensor:
    """`degrade` for one image (3, H, W): lens, motion, exposure, noise, then the transmission."""
    kind = uniform(generator)
    if kind >= config.motion + config.video_call:
        return sharp
    call = kind >= config.motion
    response = uniform(generator, *config.response, config.response_power)
    light = to_light(sharp, response)
    clipped = ((sharp - 0.96) / 0.04).clamp(0, 1)  # 0.96: only what the camera may have clipped
    light = light * (1 + clipped * uniform(generator, *config.highlight, HIGHLIGHT_POWER))
    if call and chance(generator, config.lens_chance):
        light = lens_blur(
            light, uniform(generator, *config.lens_radius), gaussian=chance(generator, 0.5)
        )
    if chance(generator, config.call_motion_chance if call else 1.0):
        light = move(light, generator, config.call_length if call else config.length, config)
    image = to_values(light.clamp(0, 1), response)
    deviation = uniform(generator, *(config.noise if call else FAINT_NOISE))
    if deviation and chance(generator, config.noise_chance if call else 1.0):
        shot = uniform(generator)
        image = image + noise_like(image, generator) * deviation * (1 - shot + shot * image).sqrt()
    return transmit(image.clamp(0, 1), generator, config) if call else image


@torch.no_grad()
def degrade(
    sharp: Tensor, generators: Sequence[torch.Generator], config: DegradationConfig
) -> Tensor:
    """Blurred version of `sharp` (B, 3, H, W), float32 in [0, 1], rounded to 8-bit levels.

    Image i depends on sharp[i], generators[i] and config alone, so a batch may be split over
    processes in any way. The frames of one exposure are rendered together on the device of `sharp`.
    Parameters are drawn on the CPU, and only JPEG waits for the device. Call it outside autocast.
    Raises ValueError if the numbers of images and generators differ.
    """
    if len(generators) != len(sharp):
        raise ValueError(f"{len(sharp)} images need as many generators, got {len(generators)}")
    images = [
        degrade_image(image, generator, config)
        for image, generator in zip(sharp, generators, strict=True)
    ]
    return to_levels(torch.stack(images)) / 255
