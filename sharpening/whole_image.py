"""What the whole image shows and a student cannot see, because a pixel depends on 25 around it.

    result = sharpen(image)
    result = refined(image, result, sharpen)

A shaken camera blurs all of an image. Where a student leaves much of the texture alone, the camera
was still, and the tone stays: blur that light averages is brighter than the sharp image, so a
student learns to darken, which is wrong in a sharp photograph. In an image that is blurred all over
the blur may be longer than a student sees. It sees further in a smaller image, so what it does
there is added where it does much more there than at full size.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
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
LARGEST_SHIFT = 64.0
"""A change of tone by so many 8-bit levels stays, a smaller one in part: an object moved away."""
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
    image: np.ndarray, result: np.ndarray, sharpen: Sharpen | None, strength: float = 1.0
) -> np.ndarray:
    """`result` (H, W, 3) uint8 or uint16 of sharpening `image` with `strength` -> a better one.
    `sharpen` computes the smaller image with the same strength; None: no longer blur is looked for.
    """
    alone, shift = sampled_change(image, result, strength)
    if alone > STILL and shift >= LEAST_SHIFT * strength:
        held = min((alone - STILL) / (SHARP - STILL), 1)
        return hold_tone(image, result, strength, held)
    if alone < STILL and sharpen is not None and min(image.shape[:2]) >= REDUCTION * BLOCK:
        blurred = min((STILL - alone) / (STILL - BLURRED), 1)
        return remove_long_blur(image, result, sharpen, strength, blurred)
    return result


def hold_tone(
    image: np.ndarray, result: np.ndarray, strength: float = 1.0, held: float = 1.0
) -> np.ndarray:
    """`result` with the local means of `image`, as far as `held` (0 to 1) says."""
    largest = LARGEST_SHIFT * strength * np.iinfo(image.dtype).max / 255
    shift = held * window_means(cell_means(image, result))
    shift *= (1 - (shift / largest) ** 2).clamp(min=0) ** 2
    return corrected(result, -shift, (CELL, CELL))


def remove_long_blur(
    image: np.ndarray,
    result: np.ndarray,
    sharpen: Sharpen,
    strength: float = 1.0,
    blurred: float = 1.0,
) -> np.ndarray:
    """`result` with what `sharpen` does to a smaller image, where that is much more, as far as
    `blurred` (0 to 1) says."""
    small, first = (reduced(each) for each in (image, result))
    before, once, again = (
        torch.from_numpy(each.astype(np.float32)).permute(2, 0, 1)
        for each in (small, first, sharpen(small))
    )
    full, further = (energy(each - before) + strength**2 / 2 for each in (once, again))
    start, end = LONGER
    share = blurred * (((further / full).sqrt() - start) / (end - start)).clamp(0, 1)
    share = F.interpolate(share[None], scale_factor=4, mode="bilinear")
    H, W = before.shape[1:]
    change = share[0, :, :H, :W] * (again - once) * (np.iinfo(result.dtype).max / 255)
    scales = (image.shape[0] / H, image.shape[1] / W)
    return corrected(result, change.permute(1, 2, 0), scales)


def sampled_change(
    image: np.ndarray, result: np.ndarray, strength: float = 1.0
) -> tuple[float, float]:
    """(share of the textured blocks of `image` (H, W, 3) that `result` does not change, 0 to 1;
    largest change of a block's mean in 8-bit levels), both of some rows of the green channel. An
    image smaller than a block gives 0 and 0."""
    if min(image.shape[:2]) < BLOCK:
        return 0.0, 0.0
    before, after = (green_rows(each) for each in (image, result))
    contrast, change = contrasts(before), contrasts(after - before)
    left_alone = (change / (contrast + 1)).sqrt() < LEFT_ALONE * strength
    weight = contrast.clamp(max=TEXTURE**2) + 1e-3
    shift = means((after - before).mean(axis=0)[..., None], BLOCK // STEP, BLOCK)
    return float((left_alone * weight).sum() / weight.sum()), shift.abs().max().item()


def green_rows(image: np.ndarray) -> np.ndarray:
    """Pairs of neighbouring rows of the green channel (2, rows, W), in 8-bit levels."""
    lower = image[1::STEP, :, 1]
    upper = image[::STEP, :, 1][: len(lower)]
    return np.stack([upper, lower]) * np.float32(255 / np.iinfo(image.dtype).max)


def contrasts(rows: np.ndarray) -> Tensor:
    """Mean squared difference of neighbouring pixels in each block, of rows (2, rows, W)."""
    upper, lower = rows
    square = (lower - upper) ** 2
    square[:, 1:] += np.diff(upper, axis=1) ** 2
    return means(square[..., None], BLOCK // STEP, BLOCK)


def means(values: np.ndarray, height: int, width: int) -> Tensor:
    """Means of blocks of values (H, W, C); the border repeats to whole blocks."""
    H, W, C = values.shape
    whole = np.pad(values, ((0, -H % height), (0, -W % width), (0, 0)), mode="edge")
    rows = whole.reshape(-1, height, whole.shape[1] * C).sum(axis=1)
    # not by PyTorch, whose threads get into the way of those of the network in such small work
    sums = np.einsum("hwkc->hwc", rows.reshape(len(rows), -1, width, C))
    return torch.from_numpy(sums / np.float32(height * width))


def cell_means(image: np.ndarray, result: np.ndarray, band: int = 64) -> Tensor:
    """Mean change of each cell: (H / CELL, W / CELL, 3). A `band` of rows fits into the cache."""
    bands = (slice(top, top + band) for top in range(0, len(image), band))
    changes = (np.subtract(result[rows], image[rows], dtype=np.float32) for rows in bands)
    return torch.cat([means(change, CELL, CELL) for change in changes])


def window_means(cells: Tensor) -> Tensor:
    """What to take from `cells` (h, w, 3) so that the mean of each window becomes nearly 0: the
    means of all windows, and those of what then remains."""
    first = box(cells)
    return first + box(cells - first)


def box(cells: Tensor) -> Tensor:
    """Mean over the window of BLOCK x BLOCK pixels around each cell; the border repeats."""
    side = BLOCK // CELL
    planes = F.pad(cells.permute(2, 0, 1), (side // 2,) * 4, mode="replicate")
    between = F.avg_pool2d(planes, side, stride=1)  # windows centred on the cells' corners
    return F.avg_pool2d(between, 2, stride=1).permute(1, 2, 0)


def reduced(image: np.ndarray) -> np.ndarray:
    """`image` in 8 bits, smaller by REDUCTION."""
    levels = image if image.dtype == np.uint8 else (image / 257).round().astype(np.uint8)
    size = [round(side / REDUCTION) for side in (image.shape[1], image.shape[0])]
    bilinear = Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(levels).resize(size, bilinear, reducing_gap=1))


def energy(change: Tensor) -> Tensor:
    """Mean square of a change (3, H, W) around each cell of 4 x 4 pixels: (1, H / 4, W / 4)."""
    square = (change**2).mean(dim=0, keepdim=True)
    cells = F.avg_pool2d(square, 4, ceil_mode=True, count_include_pad=False)
    return F.avg_pool2d(F.pad(cells, (AREA // 2,) * 4, mode="replicate"), AREA, stride=1)


def corrected(
    result: np.ndarray, change: Tensor, scales: tuple[float, float], side: int = 128
) -> np.ndarray:
    """`result` (H, W, 3) plus the coarse `change` (h, w, 3), whose values stand `scales` pixels
    apart and are interpolated, in blocks of `side` pixels; rounded and clipped."""
    kept, change = result.copy(), change.contiguous()
    H, W, _ = result.shape
    for top in range(0, H, side):
        rows = enlarged(change, top, min(side, H - top), scales[0], axis=0)
        for left in range(0, W, side):
            near = slice(max(0, int(left / scales[1]) - 1), int((left + side) / scales[1]) + 2)
            if rows[:, near].abs().max() < 0.5:  # less is lost in rounding
                continue
            block = np.s_[top : top + side, left : left + side]
            exact = torch.from_numpy(result[block].astype(np.float32))
            exact += enlarged(rows, left, exact.shape[1], scales[1], axis=1)
            kept[block] = exact.round_().clamp_(0, np.iinfo(result.dtype).max).numpy()
    return kept


def enlarged(values: Tensor, start: int, length: int, scale: float, axis: int) -> Tensor:
    """Coarse `values`, which stand `scale` pixels apart along `axis`, at `length` pixels from
    `start` on."""
    last = values.shape[axis] - 1
    place = ((torch.arange(start, start + length) + 0.5) / scale - 0.5).clamp(0, last)
    lower = place.long()
    upper = (lower + 1).clamp(max=last)
    share = (place - lower).view([-1 if i == axis else 1 for i in range(3)])
    return torch.lerp(values.index_select(axis, lower), values.index_select(axis, upper), share)
