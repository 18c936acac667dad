"""What main_sharpening_script.py stands on. No module in here imports the script."""

__version__ = "1.0.0"


class SharpeningError(Exception):
    """Says what went wrong, with which file, and how to fix it. It is shown without a traceback."""
