"""Less flicker: a moving average of the residual, over still areas only.

The rule, its reasons and its exact arithmetic stand at the top of `web/temporal_filter.js`. This is
the same in numpy; `tests/test_temporal_filter.py` compares the two bit by bit.
"""

from __future__ import annotations

import numpy as np

STILL, MOVING, LONGEST = 4 / 255, 8 / 255, 16


def stored(values: np.ndarray) -> np.ndarray:
    """What the rule stores: float32. Held as float64, in which the next line is computed."""
    return values.astype(np.float32).astype(np.float64)


class TemporalFilter:
    """Called with each frame in turn: `picture` (H, W, 3) in [0, 1] and `residual` (H, W, 3), both
    float32 and at the size at which the network computes -> the averaged residual, the same."""

    def __init__(self) -> None:
        self.reset(0, 0)

    def reset(self, height: int, width: int) -> None:
        """Forget the past; the next frames have this size."""
        self.reference = np.zeros((height, width))
        self.count = np.zeros((height, width))
        self.mean = np.zeros((height, width, 3))

    def __call__(self, picture: np.ndarray, residual: np.ndarray) -> np.ndarray:
        if picture.shape != self.mean.shape:
            self.reset(*picture.shape[:2])
        r, g, b = np.moveaxis(picture.astype(np.float64), -1, 0)
        luma = stored(0.25 * r + 0.5 * g + 0.25 * b)
        change = np.pad(stored(abs(luma - self.reference)), 1, mode="edge")
        row = stored(change[:, :-2] + change[:, 1:-1] + change[:, 2:])
        difference = stored((row[:-2] + row[1:-1] + row[2:]) / 9)
        still = stored(((MOVING - difference) / (MOVING - STILL)).clip(0, 1))
        self.count = stored(1 + still * np.minimum(self.count, LONGEST - 1))
        self.reference = stored(self.reference + (luma - self.reference) / self.count)
        self.mean = stored(self.mean + (residual - self.mean) / self.count[..., None])
        return self.mean.astype(np.float32)
