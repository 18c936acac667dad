"""Images as programs hold them -> the (H, W, 3) arrays of integers that are computed, and back."""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from sharpening import SharpeningError

PILLOW_MODES = {"L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "P": "RGB", "1": "L"}
"""Mode of a PIL image -> the mode in which it is computed and comes back."""


def to_rgb(image: Any) -> tuple[np.ndarray, Callable[[np.ndarray], Any]]:
    """An image as (H, W, 3) uint8 or uint16, and the function that gives a result its form.

    Understood: arrays (H, W), (H, W, 3) and (H, W, 4), of uint8, uint16, or floats from 0 to 1, and
    PIL images of `PILLOW_MODES`. Alpha stays as it is. Floats are computed with 16 bits. Raises
    SharpeningError for any other kind, for an empty image, and for floats outside 0 to 1.
    """
    if isinstance(image, Image.Image):
        if image.mode not in PILLOW_MODES:
            known = ", ".join(PILLOW_MODES)
            raise SharpeningError(
                f"a PIL image of mode {image.mode} is not understood: convert it to one of {known}"
            )
        rgb, back = to_rgb(np.asarray(image.convert(PILLOW_MODES[image.mode])))
        return rgb, lambda result: Image.fromarray(back(result))
    if not isinstance(image, np.ndarray):
        kind = type(image).__name__
        raise SharpeningError(f"an image must be a NumPy array or a PIL image, not {kind}")
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (2,), (3,), (4,)) or not image.size:
        raise SharpeningError(
            f"an image must have the shape (H, W), (H, W, 3) or (H, W, 4), not {image.shape}"
        )
    levels = _levels(image)
    if image.ndim == 2:
        grey = levels[..., None].repeat(3, axis=2)
        return grey, lambda result: _from_levels(_grey(result), image.dtype)
    colours = 1 if image.shape[2] == 2 else 3
    alpha = image[..., colours:]
    rgb = np.ascontiguousarray(levels[..., :colours].repeat(3 // colours, axis=2))

    def back(result: np.ndarray) -> np.ndarray:
        shown = _grey(result)[..., None] if colours == 1 else result
        return np.concatenate([_from_levels(shown, image.dtype), alpha], axis=2)

    return rgb, back


def _levels(image: np.ndarray) -> np.ndarray:
    if image.dtype in (np.uint8, np.uint16):
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise SharpeningError(f"an image must be uint8, uint16 or float, not {image.dtype}")
    low, high = image.min(), image.max()
    if not (low >= 0 and high <= 1):  # false for NaN, too
        raise SharpeningError(f"an image of floats must lie in 0 to 1, not in {low:g} to {high:g}")
    return np.rint(image * 65535).astype(np.uint16)


def _from_levels(levels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return levels if np.issubdtype(dtype, np.integer) else (levels / 65535).astype(dtype)


def _grey(rgb: np.ndarray) -> np.ndarray:
    return np.rint(rgb.mean(axis=2, dtype=np.float32)).astype(rgb.dtype)
