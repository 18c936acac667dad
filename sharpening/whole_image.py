"""What the whole image shows and a student cannot see, because a pixel depends on 25 around it.

    result = sharpen(image)
    result = refined(image, result, sharpen)

A shaken camera blurs all of an image. Where a student leaves much of the texture alone, the camera
was still, and the tone stays: blur that light averages is brighter than the sharp image, so a
student learns to darken, which is wrong in a sharp photograph. In an image that is blurred all over
the blur may be longer than a student sees. It sees further in a smaller image, so what it does
there is added where it does much more there than at full size.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Sharpen = Callable[[np.ndarray], np.ndarray]
"""An image (H, W, 3) -> the sharpened one, of the same size and type."""

BLOCK = 32
"""Side in pixels of the blocks that are compared, and of the windows whose mean is held."""
STEP = 8
"""Every eighth row is looked at to find out how much of the texture was left alone."""
TEXTURE = 4.0
"""Contrast of neighbouring pixels, in 8-bit levels, from which on a block counts fully."""
LEFT_ALONE = 0.06
"""Change of its contrast up to which a block was left alone. In blurred images it is 0.1 to 1."""
BLURRED, STILL, SHARP = 0.1, 0.2, 0.4
"""Shares of blocks left alone. Up to the first an image is blurred all over, from the last on it is
not. With `standard` sharp photographs have at least 0.4, images of a shaken camera at most 0.04
(docs/EXPERIMENTS.md)."""
CELL = 8
"""Side in pixels of the cells in which the change of tone is computed."""
LARGEST_SHIFT = 40.0
"""A change of tone by so many 8-bit levels stays: an object moved away. One by half as many is
held nearly whole."""
LEAST_SHIFT = 0.2
"""Change of tone in 8-bit levels, seen in some rows, up to which nothing is done: rounding would
leave nothing of it."""
REDUCTION = 2.5
"""How much smaller the image is in which longer blur is looked for."""
LONGER = (0.9, 2.0)
"""Change in the smaller image, relative to that at full size, from which on it counts, and from
which on it counts alone."""
AREA = 5
"""Side in cells of 4 x 4 pixels of the smaller image, over which the two changes are compared."""


def refined(
    image: np.ndarray,
    result: np.ndarray,
    sharpen: Sharpen | None,
    strength: float = 1.0,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """`result` (H, W, 3) uint8 or uint16 of sharpening `image` with `strength` -> a better one,
    computed on `device` if that is a CUDA GPU, else on the CPU: Apple's GPUs lack operations that
    are used here. `sharpen` computes the smaller image with the same strength; None: no longer blur
    is looked for.
    """
    device = device if torch.device(device).type == "cuda" else "cpu"
    writable = (np.require(each, requirements=["C", "W"]) for each in (image, result))
    before, after = (torch.from_numpy(each).to(device) for each in writable)
    alone, shift = sampled_change(before, after, strength)
    if alone > STILL and shift >= LEAST_SHIFT * strength:
        held = min((alone - STILL) / (SHARP - STILL), 1)
        return hold_tone(before, after, strength, held).cpu().numpy()
    if alone < STILL and sharpen is not None and min(image.shape[:2]) >= REDUCTION * BLOCK:
        blurred = min((STILL - alone) / (STILL - BLURRED), 1)
        return remove_long_blur(before, after, sharpen, strength, blurred).cpu().numpy()
    return result


def on_cpu(image: Tensor) -> bool:
    """Whether `image` is in a CPU's memory."""
    return image.device.type == "cpu"


def bands(image: Tensor) -> Iterator[slice]:
    """The rows of `image`, as many at a time as a CPU's cache holds. A GPU computes all at once."""
    height = 8 * CELL if on_cpu(image) else len(image)
    for top in range(0, len(image), height):
        yield slice(top, min(top + height, len(image)))


def hold_tone(image: Tensor, result: Tensor, strength: float = 1.0, held: float = 1.0) -> Tensor:
    """`result` with the local means of `image`, as far as `held` (0 to 1) says."""
    largest = LARGEST_SHIFT * strength * torch.iinfo(image.dtype).max / 255
    shift = held * window_means(cell_means(image, result))
    shift *= (1 - (shift / largest) ** 4).clamp(min=0) ** 2
    return corrected(result, -shift, (CELL, CELL))


def remove_long_blur(
    image: Tensor,
    result: Tensor,
    sharpen: Sharpen,
    strength: float = 1.0,
    blurred: float = 1.0,
) -> Tensor:
    """`result` with what `sharpen` does to a smaller image, where that is much more, as far as
    `blurred` (0 to 1) says."""
    small, first = (reduced(each) for each in (image, result))
    second = torch.from_numpy(sharpen(small.cpu().numpy())).to(small.device)
    before, once, again = (each.permute(2, 0, 1).float() for each in (small, first, second))
    full, further = (energy(each - before) + strength**2 / 2 for each in (once, again))
    start, end = LONGER
    share = blurred * (((further / full).sqrt() - start) / (end - start)).clamp(0, 1)
    share = F.interpolate(share[None], scale_factor=4, mode="bilinear")
    H, W = before.shape[1:]
    change = share[0, :, :H, :W] * (again - once) * (torch.iinfo(result.dtype).max / 255)
    scales = (image.shape[0] / H, image.shape[1] / W)
    return corrected(result, change.permute(1, 2, 0), scales)


def sampled_change(image: Tensor, result: Tensor, strength: float = 1.0) -> tuple[float, float]:
    """(share of the textured blocks of `image` (H, W, 3) that `result` does not change, 0 to 1;
    largest change of a block's mean in 8-bit levels), both of some rows of the green channel. An
    image smaller than a block gives 0 and 0."""
    if min(image.shape[:2]) < BLOCK:
        return 0.0, 0.0
    before, after = (green_rows(each) for each in (image, result))
    contrast, change = contrasts(before), contrasts(after - before)
    left_alone = (change / (contrast + 1)).sqrt() < LEFT_ALONE * strength
    weight = contrast.clamp(max=TEXTURE**2) + 1e-3
    shift = means((after - before).mean(dim=0)[..., None], BLOCK // STEP, BLOCK)
    return float((left_alone * weight).sum() / weight.sum()), shift.abs().max().item()


def green_rows(image: Tensor) -> Tensor:
    """Pairs of neighbouring rows of the green channel (2, rows, W), in 8-bit levels."""
    lower = image[1::STEP, :, 1].float()
    upper = image[::STEP, :, 1][: len(lower)].float()
    return torch.stack([upper, lower]) * (255 / torch.iinfo(image.dtype).max)


def contrasts(rows: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels in each block, of rows (2, rows, W)."""
    upper, lower = rows
    square = (lower - upper) ** 2
    square[:, 1:] += upper.diff(dim=1) ** 2
    return means(square[..., None], BLOCK // STEP, BLOCK)


def means(values: Tensor, height: int, width: int) -> Tensor:
    """Means of blocks of values (H, W, C); the border repeats to whole blocks."""
    H, W, C = values.shape
    if H % height:
        values = torch.cat([values, values[-1:].expand(-H % height, W, C)])
    if W % width:
        values = torch.cat([values, values[:, -1:].expand(-1, -W % width, C)], dim=1)
    rows = values.reshape(-1, height, values.shape[1] * C).sum(dim=1)
    return rows.reshape(len(rows), -1, width, C).sum(dim=2) / (height * width)


def cell_means(image: Tensor, result: Tensor) -> Tensor:
    """Mean change of each cell: (H / CELL, W / CELL, 3)."""
    changes = (result[rows].float() - image[rows].float() for rows in bands(image))
    return torch.cat([means(change, CELL, CELL) for change in changes])


def window_means(cells: Tensor) -> Tensor:
    """What to take from `cells` (h, w, 3) so that the mean of each window becomes nearly 0: the
    means of all windows, and those of windows of half the side in what then remains."""
    first = box(cells, BLOCK // CELL)
    return first + box(cells - first, BLOCK // CELL // 2)


def box(cells: Tensor, side: int) -> Tensor:
    """Mean over the window of `side` x `side` cells around each cell; the border repeats."""
    planes = F.pad(cells.permute(2, 0, 1), (side // 2,) * 4, mode="replicate")
    between = F.avg_pool2d(planes, side, stride=1)  # windows centred on the cells' corners
    return F.avg_pool2d(between, 2, stride=1).permute(1, 2, 0)


def reduced(image: Tensor) -> Tensor:
    """`image` in 8 bits, smaller by REDUCTION."""
    size = [round(side / REDUCTION) for side in image.shape[:2]]
    levels = image if image.dtype == torch.uint8 else (image.float() / 257).round().byte()
    planes = levels.permute(2, 0, 1)[None]
    if not on_cpu(image):  # only CPUs reduce whole numbers, seven times as fast as floats
        planes = planes.float()
    small = F.interpolate(planes, size, mode="bilinear", antialias=True)[0]
    return small.round().byte().permute(1, 2, 0).contiguous()


def energy(change: Tensor) -> Tensor:
    """Mean square of a change (3, H, W) around each cell of 4 x 4 pixels: (1, H / 4, W / 4)."""
    square = (change**2).mean(dim=0, keepdim=True)
    cells = F.avg_pool2d(square, 4, ceil_mode=True, count_include_pad=False)
    return F.avg_pool2d(F.pad(cells, (AREA // 2,) * 4, mode="replicate"), AREA, stride=1)


def corrected(result: Tensor, change: Tensor, scales: tuple[float, float]) -> Tensor:
    """`result` (H, W, 3) plus the coarse `change` (h, w, 3), whose values stand `scales` pixels
    apart and are interpolated; rounded and clipped."""
    (H, W, C), (h, w, _) = result.shape, change.shape
    peak, device = torch.iinfo(result.dtype).max, result.device
    above, below, share_below = neighbours(H, h, scales[0], device)
    left, right, share_right = neighbours(W, w, scales[1], device)
    # lerp is ten times as fast with a share for each channel
    share_right = share_right[:, None].repeat(1, C)
    coarse, kept = change.contiguous(), result.clone()
    for rows in bands(result):
        first, last = int(above[rows.start]), int(below[rows.stop - 1])
        near = coarse[first : last + 1]
        if near.abs().max() < 0.5:  # less is lost in rounding
            continue
        near = torch.lerp(near.index_select(1, left), near.index_select(1, right), share_right)
        exact = near.index_select(0, above[rows] - first)
        exact.lerp_(near.index_select(0, below[rows] - first), share_below[rows, None, None])
        exact += result[rows]
        kept[rows] = exact.round_().clamp_(0, peak).int()  # twice as fast as straight to bytes
    return kept


def neighbours(
    length: int, count: int, scale: float, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `length` pixels along an axis: the value before it and the one after it, of
    `count` values that stand `scale` pixels apart, and the share of the latter."""
    place = ((torch.arange(length, device=device) + 0.5) / scale - 0.5).clamp(0, count - 1)
    before = place.long()
    return before, (before + 1).clamp(max=count - 1), place - before
