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
"""Side in pixels of the blocks that are compared and corrected, and of the windows whose mean is
held."""
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
LEAST_SHIFT = 0.2
"""Change of tone in 8-bit levels, seen in some rows, below which rounding leaves nothing to do."""
BAND = 64
"""Rows whose cells are averaged at once, so that they stay in the processor's cache."""


def hold_tone(image: np.ndarray, result: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """`result` (H, W, 3) uint8 or uint16 of sharpening `image` with `strength` -> the same with the
    local means of `image`, if that was not blurred. If it was, this is `result` itself."""
    alone, roughly = seen_in_rows(image, result, strength)
    held = (alone - CRISP[0]) / (CRISP[1] - CRISP[0])
    if held <= 0 or roughly < LEAST_SHIFT:
        return result
    peak = np.iinfo(image.dtype).max
    shift = min(held, 1.0) * window_means(cell_means(image, result))
    moved = LARGEST_SHIFT * strength * peak / 255
    shift *= (1 - (shift / moved) ** 2).clamp(min=0) ** 2
    kept = result.copy()
    side = BLOCK // CELL  # one cell more to each side, because the change is interpolated
    largest = F.max_pool2d(shift.abs().amax(dim=2)[None], side + 2, side, padding=1, ceil_mode=True)
    for i, k in (largest[0] >= 0.5).nonzero().tolist():  # less is lost in rounding
        block = np.s_[BLOCK * i : BLOCK * (i + 1), BLOCK * k : BLOCK * (k + 1)]
        exact = torch.from_numpy(result[block].astype(np.float32))
        height, width, _ = exact.shape
        change = enlarged(enlarged(shift, BLOCK * i, height, axis=0), BLOCK * k, width, axis=1)
        kept[block] = (exact - change).round_().clamp_(0, peak).numpy()
    return kept


def seen_in_rows(
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
    blocks = torch.from_numpy(whole).view(-1, height, whole.shape[1] * C)
    return blocks.mean(dim=1).view(len(blocks), -1, width, C).mean(dim=2)


def cell_means(image: np.ndarray, result: np.ndarray) -> Tensor:
    """Mean change of each cell: (H / CELL, W / CELL, 3)."""
    bands = (slice(top, top + BAND) for top in range(0, len(image), BAND))
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


def enlarged(cells: Tensor, start: int, length: int, axis: int) -> Tensor:
    """`cells` between their centres, along `axis`, at `length` pixels from `start` on."""
    last = cells.shape[axis] - 1
    place = ((torch.arange(start, start + length) + 0.5) / CELL - 0.5).clamp(0, last)
    lower = place.long()
    upper = (lower + 1).clamp(max=last)
    share = (place - lower).view([-1 if i == axis else 1 for i in range(3)])
    return torch.lerp(cells.index_select(axis, lower), cells.index_select(axis, upper), share)
