"""What main_sharpening_script.py stands on. No module in here imports the script."""

import math
from typing import Any

__version__ = "1.0.0"


class SharpeningError(Exception):
    """Says what went wrong, with which file, and how to fix it. It is shown without a traceback."""


Limits = dict[str, tuple[float, float]]
"""Field -> lowest and highest value, both allowed."""


def check_limits(settings: Any, limits: Limits, prefix: str = "") -> None:
    """Raise ValueError if a number in `settings` is outside its limits; None is always inside.

    A field that is a tuple is checked number by number. `prefix` stands before the name in the
    message, as in the flag.
    """
    for name, (low, high) in limits.items():
        value = getattr(settings, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not low <= number <= high:
                wanted = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
                raise ValueError(f"{prefix}{name} must be {wanted}: {value}")
