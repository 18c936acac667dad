"""Keep the tone of images that are not blurred.

    result = hold_tone(image, sharpen(image))

Blur that light averages is brighter than the sharp image, so a student learns to darken. In a sharp
photograph that is wrong, but a student sees 25 pixels and cannot tell. The whole image can: a
shaken camera blurs all of it. Where a student leaves much of the texture alone, the camera was
still, and the mean of each small window stays as it is.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

STEP = 8
"""Every eighth row is looked at to find out how much of the texture was left alone."""
BLOCK = 32
"""Side in pixels of the blocks that are compared, and of the windows whose mean is held."""
TEXTURE = 4.0
"""Contrast of neighbouring pixels, in 8-bit levels, from which on a block counts fully."""
LEFT_ALONE = 0.06
"""Change of its contrast up to which a block was left alone. In blurred images it is 0.1 to 1."""
CRISP = (0.2, 0.4)
"""Share of blocks left alone above which the tone is held, and is held fully. Sharp photographs
have at least 0.4, images of a shaken camera at most 0.04 (docs/EXPERIMENTS.md)."""
CELL = 8
"""Side in pixels of the cells in which the change of tone is computed."""
LARGEST_SHIFT = 64.0
"""A change by so many 8-bit levels stays, a smaller one in part: an object moved away there."""
BAND = 64
"""Rows that are corrected at once."""


def hold_tone(image: np.ndarray, result: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """`result` (H, W, 3) uint8 or uint16 of sharpening `image` with `strength` -> the same with the
    local means of `image`, if that was not blurred. If it was, this is `result` itself."""
    start, full = CRISP
    held = (share_left_alone(image, result, strength) - start) / (full - start)
    if held <= 0:
        return result
    peak = np.iinfo(image.dtype).max
    shift = min(held, 1.0) * window_means(cell_means(image, result))
    largest = LARGEST_SHIFT * strength * peak / 255
    shift *= (1 - (shift / largest) ** 2).clamp(min=0) ** 2
    H, W, _ = image.shape
    shift = enlarged(shift, 0, W, axis=1)
    kept = result.copy()
    for top in range(0, H, BAND):
        bottom = min(top + BAND, H)
        change = enlarged(shift, top, bottom, axis=0)
        if change.abs().max() >= 0.5:  # less is lost in rounding
            rows = torch.from_numpy(result[top:bottom].astype(np.float32))
            kept[top:bottom] = rows.sub_(change).round_().clamp_(0, peak).numpy()
    return kept


def share_left_alone(image: np.ndarray, result: np.ndarray, strength: float = 1.0) -> float:
    """Share of the textured blocks of `image` (H, W, 3) that `result` does not change, 0 to 1. It
    is 0 for images smaller than a block."""
    if min(image.shape[:2]) < BLOCK:
        return 0.0
    before, after = (green_rows(each) for each in (image, result))
    contrast, change = contrasts(before), contrasts(after - before)
    alone = (change / (contrast + 1)).sqrt() < LEFT_ALONE * strength
    weight = contrast.clamp(max=TEXTURE**2) + 1e-3
    return float((alone * weight).sum() / weight.sum())


def green_rows(image: np.ndarray) -> Tensor:
    """Pairs of neighbouring rows of the green channel (2, rows, W), in 8-bit levels."""
    lower = image[1::STEP, :, 1]
    upper = image[::STEP, :, 1][: len(lower)]
    return torch.from_numpy(np.stack([upper, lower]) * np.float32(255 / np.iinfo(image.dtype).max))


def contrasts(rows: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels in each block, of rows (2, rows, W)."""
    upper, lower = rows
    square = (lower - upper) ** 2
    square[:, 1:] += upper.diff(dim=1) ** 2
    return means(square[..., None], (BLOCK // STEP, BLOCK))


def means(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Means over blocks of `size` of values (H, W, C), at the lower and right edge over less."""
    pooled = F.avg_pool2d(values.permute(2, 0, 1), size, ceil_mode=True, count_include_pad=False)
    return pooled.permute(1, 2, 0)


def cell_means(image: np.ndarray, result: np.ndarray) -> Tensor:
    """Mean change of each cell: (H / CELL, W / CELL, 3)."""
    bands = (slice(top, top + BAND) for top in range(0, len(image), BAND))
    changes = (np.subtract(result[rows], image[rows], dtype=np.float32) for rows in bands)
    return torch.cat([means(torch.from_numpy(each), (CELL, CELL)) for each in changes])


def window_means(cells: Tensor) -> Tensor:
    """What to take from `cells` (h, w, 3) so that the mean of each window becomes nearly 0: the
    means of all windows, and those of what then remains."""
    first = box(cells)
    return first + box(cells - first)


def box(cells: Tensor) -> Tensor:
    """Mean over the window of BLOCK x BLOCK pixels around each cell; the border repeats."""
    reach = BLOCK // CELL // 2
    weights = torch.ones(2 * reach + 1)
    weights[[0, -1]] = 0.5  # the window ends in the middle of these cells
    kernel = torch.outer(weights, weights) / weights.sum() ** 2
    planes = F.pad(cells.permute(2, 0, 1)[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(planes, kernel[None, None])[:, 0].permute(1, 2, 0)


def enlarged(cells: Tensor, start: int, end: int, axis: int) -> Tensor:
    """`cells` between their centres, along `axis`, at the pixels from `start` to `end`."""
    place = ((torch.arange(start, end) + 0.5) / CELL - 0.5).clamp(0, cells.shape[axis] - 1)
    lower = place.long()
    upper = (lower + 1).clamp(max=cells.shape[axis] - 1)
    share = (place - lower).view([-1 if i == axis else 1 for i in range(3)])
    return torch.lerp(cells.index_select(axis, lower), cells.index_select(axis, upper), share)
