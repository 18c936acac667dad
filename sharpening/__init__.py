"""What main_sharpening_script.py stands on. No module here imports the script."""


class SharpeningError(Exception):
    """Says what went wrong, with which file, and how to fix it; shown without a traceback."""
