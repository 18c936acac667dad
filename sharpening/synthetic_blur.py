"""Synthetic blur: sharp crops in, pairs of blurred and sharp crops out.

    blurry, sharp = degrade(sharp, generators_for(seed, indices), DegradationConfig())

A camera, or an object too, moves during the exposure: frames along the path are averaged in linear
light. Then come noise, and for video calls lens blur, rescaling and JPEG. The returned sharp crops
differ from the given ones where an object moves in front of them, and where they are softened on
purpose: a student also has to learn what needs no change.
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
    """Probability of a video call: lens blur, motion, noise, scaling, JPEG, each by its chance."""
    moving_object: float = 0.0
    """Probability of an object, cut from another image, that moves in front of a background at
    rest. An image that gets neither motion nor video_call nor moving_object stays as it is."""
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
    rest_chance: float = 0.25
    """Probability that a moving object rests after all: a portrait that needs no change."""
    background_chance: float = 0.5
    """Probability that the background of a moving object is out of focus. It stays so in the
    target, because such a blur is intended."""
    soft_chance: float = 0.0
    """Probability that any other image is softened, in its target as well: parts that are out of
    focus beside sharp ones, or all of it slightly. Half of these are compressed too."""
    soft_radius: tuple[float, float] = (1.0, 8.0)
    """Radius of the lens blur that stays in the target, pixels."""
    soft_quality: tuple[int, int] = (60, 95)
    """JPEG quality of a soft target, 1 to 100: high, because its artefacts are not removed."""

    def __post_init__(self) -> None:
        chances = [f.name for f in dataclasses.fields(self) if f.name.endswith("chance")]
        limits = {f.name: (0, math.inf) for f in dataclasses.fields(self)}
        kinds = ("motion", "video_call", "moving_object")
        limits |= dict.fromkeys((*kinds, *chances), (0, 1))
        limits |= dict.fromkeys(("length_power", "response_power"), (TINY, math.inf))
        limits |= dict.fromkeys(("spacing", "lens_radius", "soft_radius"), (TINY, math.inf))
        limits |= {"rescale": (1, math.inf), "jpeg_quality": (1, 100), "soft_quality": (1, 100)}
        check_limits(self, limits, "degradation.")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            low, high = value if isinstance(value, tuple) else (value, value)
            if not low <= high < math.inf:
                raise ValueError(f"degradation.{field.name} must be finite and ordered: {value}")
        if (total := sum(getattr(self, kind) for kind in kinds)) > 1 + 1e-9:
            raise ValueError(f"degradation.{' + '.join(kinds)} must not exceed 1: {total}")


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


def to_light(values: Tensor, response: Tensor) -> Tensor:
    """Stored values in [0, 1] -> linear light in [0, 1]; the identity where `response` is 0."""
    light = torch.expm1(values * response) / torch.expm1(response)
    return torch.where(response > 0, light, values)


def to_values(light: Tensor, response: Tensor) -> Tensor:
    """Inverse of `to_light`."""
    values = torch.log1p(light * torch.expm1(response)) / response
    return torch.where(response > 0, values, light)


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


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """`images` (B, C, H, W), each through its homographies (B, T, 3, 3) -> (B, T, C, H, W); the
    border reflects."""
    B, C, H, W = images.shape
    T, device = matrices.shape[1], images.device
    x = torch.arange(W, device=device) - (W - 1) / 2
    y = torch.arange(H, device=device)[:, None] - (H - 1) / 2
    m = matrices.reshape(B * T, 3, 3) * torch.tensor([2 / W, 2 / H, 1])[:, None]
    m = m.to(device)[..., None, None]
    # not matmul, which TF32 would round; few operations, because a GPU launches each by itself
    u, v, w = (
        torch.addcmul(torch.addcmul(m[:, i, 2], m[:, i, 1], y), m[:, i, 0], x) for i in range(3)
    )
    grid = torch.stack([u, v], dim=-1) / w[..., None]  # (BT, H, W, 2)
    frames = images[:, None].expand(B, T, C, H, W).reshape(B * T, C, H, W)
    seen = F.grid_sample(frames, grid, padding_mode="reflection", align_corners=False)
    return seen.view(B, T, C, H, W)


def soft_mask(generator: torch.Generator, H: int, W: int) -> Tensor:
    """Random blobs (1, H, W) in [0, 1], a few per image, with edges some pixels wide."""
    rows = columns = 3 + int(uniform(generator, 0, 4))
    field = torch.randn(1, 1, rows, columns, generator=generator)
    field = F.interpolate(field, (H, W), mode="bicubic", align_corners=False)[0]
    return torch.sigmoid((field - uniform(generator, -0.3, 0.8)) * uniform(generator, 8, 40))


@dataclass(frozen=True)
class Motion:
    """Homographies (T, 3, 3) of the camera and of an object with its `mask` (1, H, W), if any."""

    camera: Tensor
    thing: Tensor
    mask: Tensor | None


def draw_motion(
    generator: torch.Generator,
    size: tuple[int, int],
    lengths: tuple[float, float],
    in_front: bool,
    config: DegradationConfig,
) -> Motion:
    """How camera and object move. With `in_front` the camera rests, and there is an object."""
    with_object = in_front or chance(generator, config.object_chance)
    drawn = [uniform(generator, *lengths, config.length_power) for _ in range(2)]
    if in_front:
        drawn = [0.0, 0.0 if chance(generator, config.rest_chance) else drawn[1]]
    half = math.ceil(max(drawn[: 1 + with_object]) / uniform(generator, *config.spacing) / 2)
    frames = 2 * min(max(half, 3), 24) + 1  # odd, at least GoPro's 7
    radius = max(128.0, math.hypot(*size) / 2)
    paths = [homographies(camera_path(generator, frames, length), radius) for length in drawn]
    return Motion(*paths, soft_mask(generator, *size) if with_object else None)


def average_frames(
    light: Tensor, front: Tensor, motions: Sequence[Motion], at_once: int = 4
) -> Tensor:
    """Exposure of linear-light images (B, 3, H, W) while camera and object move.

    `front` (B, 3, H, W) is what the objects are cut from. All images are rendered together,
    `at_once` frames of each at a time. They are sorted by their numbers of frames, so that those
    which still have frames come first.
    """
    order = sorted(range(len(motions)), key=lambda i: -len(motions[i].camera))
    motions = [motions[i] for i in order]
    counts = torch.tensor([len(motion.camera) for motion in motions])
    camera, thing = (padded([getattr(m, who) for m in motions]) for who in ("camera", "thing"))
    shares = (torch.arange(camera.shape[1]) < counts[:, None]) / counts[:, None]  # (B, T)
    shares = shares.to(light.device)[..., None, None, None]
    light, total = light[order], torch.zeros_like(light)
    objects = [i for i, motion in enumerate(motions) if motion.mask is not None]
    if objects:
        masks = torch.stack([motions[i].mask for i in objects]).to(light.device)
        layers = torch.cat([front[[order[i] for i in objects]], masks], dim=1)
    for start in range(0, camera.shape[1], at_once):
        part = slice(start, start + at_once)
        active = int((counts > start).sum())
        seen = warp(light[:active], camera[:active, part])
        if moved := sum(i < active for i in objects):
            things = warp(layers[:moved], thing[objects[:moved], part])
            behind = seen[objects[:moved]]
            seen[objects[:moved]] = torch.lerp(behind, things[:, :, :3], things[:, :, 3:])
        total[:active] += (seen * shares[:active, part]).sum(dim=1)
    return total[torch.tensor(order).argsort()]


def padded(paths: Sequence[Tensor]) -> Tensor:
    """Matrices (T_i, 3, 3) of B images -> (B, T, 3, 3), with the last one repeated."""
    longest = max(len(path) for path in paths)
    return torch.stack([path[torch.arange(longest).clamp(max=len(path) - 1)] for path in paths])


def soften(image: Tensor, generator: torch.Generator, config: DegradationConfig) -> Tensor:
    """`image` (3, H, W) out of focus in parts, or slightly in all of it; half are compressed.

    What students used to change most in sharp photographs were their slightly soft parts, and of
    those most the ones that light spreads over, such as a soft twig before the sky. So the blur is
    averaged in light, as in a lens.
    """
    low, high = config.soft_radius
    everywhere = chance(generator, 0.2)
    if everywhere:
        radius = low * uniform(generator, 0.5, 1.5)
    else:
        radius = uniform(generator, low, high, 2.0)
    response, brightest = torch.tensor(draw_light(generator, config), device=image.device)
    light = to_clipped_light(image, response, brightest)
    light = lens_blur(light, radius, gaussian=chance(generator, 0.5))
    soft = to_values(light.clamp(0, 1), response)
    if not everywhere:
        soft = torch.lerp(image, soft, soft_mask(generator, *image.shape[1:]).to(image.device))
    if chance(generator, 0.5):
        soft = jpeg(soft, round(uniform(generator, *config.soft_quality)))
    return soft


def lens_blur(image: Tensor, radius: float, gaussian: bool) -> Tensor:
    """`image` (C, H, W) blurred by a disk of `radius` pixels, or a Gaussian of half that sigma."""
    reach = math.ceil(1.5 * radius + 0.5) if gaussian else math.ceil(radius)
    offsets = torch.arange(-reach, reach + 1.0)
    distance = torch.hypot(*torch.meshgrid(offsets, offsets, indexing="ij"))
    kernel = (-2 * (distance / radius) ** 2).exp() if gaussian else radius + 0.5 - distance
    kernel = kernel.clamp(0, 1)
    H, W = image.shape[-2:]
    rows, columns = (mirror(size, reach, image.device) for size in (H, W))
    wide = image[:, rows][:, :, columns]
    return F.conv2d(wide[:, None], (kernel / kernel.sum()).to(image)[None, None])[:, 0]


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


@dataclass(frozen=True)
class Exposure:
    """What is drawn for one image before noise and transmission."""

    call: bool
    """A video call."""
    in_front: bool
    """An object from another image moves in front of a background at rest."""
    response: float
    brightest: float
    lens: tuple[float, bool] | None
    """Radius, and whether it is a Gaussian."""
    motion: Motion | None


def draw_light(generator: torch.Generator, config: DegradationConfig) -> tuple[float, float]:
    """Camera response, and how much brighter than white clipped white was."""
    response = uniform(generator, *config.response, config.response_power)
    return response, uniform(generator, *config.highlight, HIGHLIGHT_POWER)


def draw_exposure(
    image: Tensor, generator: torch.Generator, config: DegradationConfig
) -> tuple[Tensor, Exposure | None]:
    """(`image` (3, H, W), perhaps softened; its exposure, or None if it stays as it is)."""
    kind = uniform(generator)
    untouched = kind >= config.motion + config.video_call + config.moving_object
    in_front = not untouched and kind >= config.motion + config.video_call
    call = not untouched and not in_front and kind >= config.motion
    if config.soft_chance and not in_front and chance(generator, config.soft_chance):
        image = soften(image, generator, config)
    if untouched:
        return image, None
    response, brightest = draw_light(generator, config)
    lens = motion = None
    if (call and chance(generator, config.lens_chance)) or (
        in_front and chance(generator, config.background_chance)
    ):
        radius = config.soft_radius if in_front else config.lens_radius
        lens = uniform(generator, *radius), chance(generator, 0.5)
    if chance(generator, config.call_motion_chance if call else 1.0):
        length = config.call_length if call else config.length
        motion = draw_motion(generator, image.shape[1:], length, in_front, config)
    return image, Exposure(call, in_front, response, brightest, lens, motion)


def expose(sharp: Tensor, others: Tensor, drawn: Sequence[Exposure]) -> tuple[Tensor, Tensor]:
    """(blurry, sharp) of images (B, 3, H, W), before noise and transmission."""
    numbers = torch.tensor([[exposure.response, exposure.brightest] for exposure in drawn])
    response, brightest = numbers.to(sharp.device)[..., None, None, None].unbind(1)
    light = to_clipped_light(sharp, response, brightest)
    for i, exposure in enumerate(drawn):
        if exposure.lens:
            light[i] = lens_blur(light[i], *exposure.lens)
    front = light.clone()
    if ahead := [i for i, exposure in enumerate(drawn) if exposure.in_front]:
        front[ahead] = to_clipped_light(others[ahead], response[ahead], brightest[ahead])
        masks = torch.stack([drawn[i].motion.mask for i in ahead]).to(light.device)
        target = torch.lerp(light[ahead], front[ahead], masks).clamp(0, 1)
        sharp[ahead] = to_values(target, response[ahead])
    if moving := [i for i, exposure in enumerate(drawn) if exposure.motion]:
        motions = [drawn[i].motion for i in moving]
        light[moving] = average_frames(light[moving], front[moving], motions)
    return to_values(light.clamp(0, 1), response), sharp


def to_clipped_light(image: Tensor, response: Tensor, brightest: Tensor) -> Tensor:
    """Stored values -> light, in which clipped white is `brightest` above white (1)."""
    clipped = ((image - 0.96) / 0.04).clamp(0, 1)  # 0.96: only what the camera may have clipped
    return to_light(image, response) * (1 + clipped * brightest)


def add_noise_and_transmit(
    image: Tensor, generator: torch.Generator, call: bool, config: DegradationConfig
) -> Tensor:
    deviation = uniform(generator, *(config.noise if call else FAINT_NOISE))
    if deviation and chance(generator, config.noise_chance if call else 1.0):
        shot = uniform(generator)
        image = image + noise_like(image, generator) * deviation * (1 - shot + shot * image).sqrt()
    return transmit(image.clamp(0, 1), generator, config) if call else image


@torch.no_grad()
def degrade(
    sharp: Tensor,
    generators: Sequence[torch.Generator],
    config: DegradationConfig,
    others: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(blurry, sharp), made from `sharp` (B, 3, H, W) in [0, 1]: float32, rounded to 8-bit levels.

    Objects that move in front of an image are cut from `others` (B, 3, H, W; None: the images
    themselves, mirrored). Image i depends on sharp[i], others[i], generators[i] and config alone,
    so a batch may be split over processes in any way. The exposures of a batch are rendered
    together on the device of `sharp`. Parameters are drawn on the CPU, and only JPEG waits for the
    device. Call it outside autocast. Raises ValueError if the numbers of images and generators
    differ.
    """
    if len(generators) != len(sharp):
        raise ValueError(f"{len(sharp)} images need as many generators, got {len(generators)}")
    others = sharp.flip(3) if others is None else others
    images, exposures = zip(
        *(draw_exposure(*each, config) for each in zip(sharp, generators, strict=True)), strict=True
    )
    sharp = torch.stack(images)
    blurry = sharp.clone()
    if which := [i for i, exposure in enumerate(exposures) if exposure]:
        drawn = [exposures[i] for i in which]
        exposed, sharp[which] = expose(sharp[which], others[which], drawn)
        for i, image in zip(which, exposed, strict=True):
            blurry[i] = add_noise_and_transmit(image, generators[i], exposures[i].call, config)
    return to_levels(blurry) / 255, to_levels(sharp) / 255
