"""Muon for convolutions, Adam for the rest, as one optimizer."""

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class MuonAndAdam(torch.optim.Optimizer):
    """Muon (arXiv 2502.16982) for the convolutions, Adam for all else, at one learning rate.

    Muon makes the step of a matrix orthogonal, so all directions of the gradient are learnt at the
    same speed. It treats kernels (O, I, k, k) as matrices of O rows. Kernels with fewer than
    `NARROWEST` inputs or outputs, where images enter and leave, are left to Adam. Muon's steps are
    as large as Adam's (root mean square 0.2), so both share one learning rate.
    """

    NARROWEST = 16

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float):
        parameters = list(parameters)
        super().__init__(parameters, {"lr": learning_rate})
        wide = [p.ndim == 4 and min(p.shape[:2]) >= self.NARROWEST for p in parameters]
        self.kernels = list(itertools.compress(parameters, wide))
        self.matrices = [self.matrix(kernel.detach()).clone() for kernel in self.kernels]
        rest = [p for p, is_wide in zip(parameters, wide, strict=True) if not is_wide]
        self.parts: dict[str, torch.optim.Optimizer] = {}
        if self.matrices:
            self.parts["muon"] = torch.optim.Muon(
                self.matrices, learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
            )
        if rest:
            self.parts["adam"] = torch.optim.Adam(rest, learning_rate, (0.9, 0.99))

    @staticmethod
    def matrix(kernel: Tensor) -> Tensor:
        """(O, I, k, k) -> (O, k * k * I), without a copy if the memory is channels-last."""
        return kernel.permute(0, 2, 3, 1).flatten(1)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            matrix.copy_(self.matrix(kernel))
            matrix.grad = None if kernel.grad is None else self.matrix(kernel.grad)
        for part in self.parts.values():
            part.param_groups[0]["lr"] = self.param_groups[0]["lr"]
            part.step()
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            outputs, inputs, *side = kernel.shape
            kernel.copy_(matrix.view(outputs, *side, inputs).permute(0, 3, 1, 2))

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
