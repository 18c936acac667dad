"""How far a training is, in a plan that may be another one after a resume."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Plan:
    """How long a training is and what its steps consist of, over all processes."""

    images: int
    """Training images."""
    draws: int
    """Images drawn for one optimizer step."""
    crops: int
    """Crops of one optimizer step."""
    per_epoch: int
    """Optimizer steps of one epoch."""
    epochs: int

    @property
    def steps(self) -> int:
        return self.per_epoch * self.epochs

    def differences(self, other: "Plan") -> str:
        """What is not as in `other`, the number of epochs apart; "" if nothing."""
        each = (
            ("training images", self.images, other.images),
            ("crops a step", self.crops, other.crops),
            ("steps an epoch", self.per_epoch, other.per_epoch),
        )
        return ", ".join(f"{new} {what} instead of {old}" for what, new, old in each if new != old)


@dataclass(kw_only=True)
class Progress:
    """What a training has done."""

    step: int = 0
    """Optimizer steps that were made."""
    position: int = 0
    """Steps of the plan that are done: `step`, until a resumed run has another plan."""
    drawn: int = 0
    """Images drawn from the training data, over all processes."""
    evaluated: int = 0
    """The last step after which the network was evaluated."""
    best: float = -math.inf
    """The best test PSNR so far, dB."""
    unlogged: dict[str, float] = field(default_factory=dict)
    """Sums of the loss terms since the last line of the log."""
    plan: Plan | None = None

    def done(self) -> dict[str, Any]:
        """The progress as plain values for a checkpoint."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(Progress)}
        return values | {"plan": dataclasses.asdict(self.plan) if self.plan else None}

    def go_back(self, payload: dict[str, Any]) -> None:
        """Take the progress in a checkpoint."""
        for each in dataclasses.fields(Progress):
            setattr(self, each.name, payload[each.name])
        self.plan = Plan(**payload["plan"])

    def follow(self, plan: Plan) -> str:
        """Go on by `plan` after the same share of an epoch -> what changes, or ""."""
        old, self.plan = self.plan or plan, plan
        self.position = self.position * plan.per_epoch // old.per_epoch
        if not (changes := plan.differences(old)):
            return ""
        return (
            f"resumed with {changes}: {self.position / plan.per_epoch:.2f} of {plan.epochs} epochs "
            "are done. The learning rate goes on from there in its schedule; it is not scaled with "
            "the batch"
        )

    def ends_epochs(self, count: int) -> bool:
        """Whether a multiple of `count` epochs ends here, or the plan."""
        return (
            self.position % (count * self.plan.per_epoch) == 0 or self.position == self.plan.steps
        )

    def advance(self) -> None:
        """Count one optimizer step."""
        self.step, self.position = self.step + 1, self.position + 1
        self.drawn += self.plan.draws
