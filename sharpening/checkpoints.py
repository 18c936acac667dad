"""Files of weights: written whole, read without running the code that they may hold, whoever wrote
them."""

import io
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharpening import SharpeningError
from sharpening.media_files import atomic_write

UNREADABLE = (
    pickle.UnpicklingError, struct.error, ArithmeticError, AssertionError, AttributeError, EOFError,
    LookupError, OSError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What `torch.load` raises on a file that is damaged or something else."""


OTHER_OBJECT = re.compile(r"(?:GLOBAL|class|function) ([\w.]+)")
"""Where PyTorch names what it does not read. The rest of its text would advise to run its code."""


def reason(error: BaseException) -> str:
    """Why, in one line of our own."""
    if isinstance(error, pickle.UnpicklingError):
        return "it is no file of weights"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def save_checkpoint(path: Path, payload: dict[str, Any]) -> None:
    """`torch.save` under a temporary name, then a rename: an interruption leaves the old file.
    Raises `MediaError` if the file system refuses."""
    whole = io.BytesIO()  # what torch.save raises on a full disk is no OSError
    torch.save(payload, whole)
    with atomic_write(path) as temporary:
        temporary.write_bytes(whole.getvalue())  # getbuffer in a traceback ends Python 3.12


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, on the CPU, without running code that it may hold."""
    if not path.is_file():
        raise SharpeningError(f"there is no checkpoint {path}: check the path, or train first")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        text = (
            f"{path} is no readable checkpoint ({reason(error)}): it may be cut short; download or "
        )
        text += "copy it again, or give another"
        if isinstance(error, pickle.UnpicklingError) and (other := OTHER_OBJECT.search(str(error))):
            text = (
                f"{path} holds not only weights but also {other[1]}, which is not read because "
                "such objects can run code. Where the file was made, save the weights alone: "
                'torch.save({"params": net.state_dict()}, "weights.pth")'
            )
        raise SharpeningError(text) from None  # PyTorch's text advises to run the code
    if not isinstance(payload, dict):
        raise SharpeningError(f"{path} holds a {type(payload).__name__}, not a checkpoint")
    return payload


WEIGHTS = (
    "ema", "params_ema", "ema_state_dict", "state_dict_ema", "model_ema", "g_ema", "netG_ema",
    "params", "state_dict", "model_state_dict", "net_state_dict", "weights", "model", "net",
    "network", "generator", "netG", "net_g", "G", "student", "module",
)  # fmt: skip
"""Entries under which training scripts save the weights of a network, averaged ones first."""
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "generator.", "netG.", "net_g.")
"""What stands before the names of weights that were saved inside something: DataParallel, an
average of torch.optim.swa_utils, torch.compile, a Lightning module."""


def network_weights(payload: dict[str, Any]) -> dict[str, Tensor]:
    """The state dict in a checkpoint of this or another training script: the averaged weights if
    there are any."""
    while inner := next((payload[k] for k in WEIGHTS if holds_weights(payload.get(k))), None):
        payload = inner
    return {name: value for name, value in payload.items() if isinstance(value, Tensor)}


def holds_weights(value: Any) -> bool:
    """Whether a state dict is in there, or in an entry of it."""
    if not isinstance(value, dict):
        return False
    return any(isinstance(v, Tensor) for v in value.values()) or any(
        holds_weights(value.get(name)) for name in WEIGHTS
    )


def unwrapped(weights: dict[str, Tensor], entry: str) -> dict[str, Tensor]:
    """`weights` under the names that they have in a network with the entry `entry`."""
    while entry not in weights:
        wrapper = next((w for w in WRAPPERS if any(n.startswith(w) for n in weights)), None)
        if wrapper is None:
            break
        inside = ((n, value) for n, value in weights.items() if n.startswith(wrapper))
        weights = {name.removeprefix(wrapper): value for name, value in inside}
    return weights


def load_strictly(
    net: nn.Module,
    weights: dict[str, Tensor],
    path: Path,
    advice: str = "it belongs to another architecture or other sizes",
) -> None:
    """`load_state_dict` that names the file and the first keys that differ, or that are not
    finite: a back end in 8 bits would turn those into black pictures."""
    own = {name: value.shape for name, value in net.state_dict().items()}
    weights = unwrapped(weights, next(iter(own), ""))
    theirs = {name: value.shape for name, value in weights.items()}
    if differing := [n for n in own.keys() | theirs.keys() if own.get(n) != theirs.get(n)]:
        shown = ", ".join(sorted(differing)[:4])
        raise SharpeningError(
            f"{path} does not fit {type(net).__name__}: {len(differing)} entries differ, such as "
            f"{shown}; {advice}"
        )
    if broken := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise SharpeningError(
            f"{path} is damaged: {len(broken)} of its weights are not finite, such as {broken[0]}; "
            "take an earlier checkpoint"
        )
    net.load_state_dict(weights)
