"""EMA and schedule: closed forms."""

import copy

import pytest
import torch

import main_sharpening_script as script

SETTINGS = script.TrainConfig(warmup_steps=0, restart_cycles=3, cycle_growth=2.0)


def test_learning_rate_is_torchs_cosine_annealing_with_warm_restarts():
    steps = 70  # cycles of 10, 20 and 40
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], SETTINGS.learning_rate)
    oracle = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, T_0=10, T_mult=2, eta_min=SETTINGS.lowest_rate
    )
    for step in range(steps):
        expected = optimizer.param_groups[0]["lr"]
        assert script.learning_rate(step, steps, SETTINGS) == pytest.approx(expected, rel=1e-6)
        optimizer.step()
        oracle.step()


@pytest.mark.parametrize("steps", [1, 2, 7, 50, 333])
def test_the_last_cycle_ends_with_the_last_step(steps):
    ends = script.cycle_ends(steps, 3, 2.0)
    assert ends[-1] == steps
    rates = [script.learning_rate(step, steps, SETTINGS) for step in range(steps)]
    assert max(rates) <= SETTINGS.learning_rate
    assert min(rates) >= SETTINGS.lowest_rate
    if steps > 30:
        assert rates[-1] < 0.02 * SETTINGS.learning_rate


def test_warm_up_is_linear():
    settings = script.TrainConfig(warmup_steps=10, restart_cycles=1)
    for step in (0, 4, 9):
        expected = settings.learning_rate * (step + 1) / 10
        assert script.learning_rate(step, 10**6, settings) == pytest.approx(expected, rel=1e-3)


def test_ema_of_constant_weights_is_their_closed_form():
    net = torch.nn.Linear(2, 2)
    ema = copy.deepcopy(net)
    start = [p.detach().clone() for p in ema.parameters()]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)
    for _ in range(5):
        script.update_ema(ema, net, 0.9)
    for parameter, first in zip(ema.parameters(), start, strict=True):
        assert torch.allclose(parameter, first + 1 - 0.9**5, atol=1e-6)


def test_ema_copies_integers():
    net, ema = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    net.num_batches_tracked.fill_(7)
    script.update_ema(ema, net, 0.9)
    assert ema.num_batches_tracked == 7


def test_ema_decay_warms_up_to_its_setting():
    decays = [script.ema_decay(step, 0.999) for step in range(1, 20_000)]
    assert decays[0] == pytest.approx(2 / 11)
    assert decays == sorted(decays)
    assert decays[-1] == 0.999
