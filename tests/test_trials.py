"""Trials of one more idea: parts begin without effect, and every term reaches the loss."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import last_line, make_student

import main_sharpening_script as script
from sharpening.runtime import start_runtime
from tools import trials
from tools.common import run_beside_script


@pytest.fixture
def student(tmp_path):
    path = tmp_path / "student.pth"
    script.save_checkpoint(path, script.network_payload(make_student()))
    return path


def test_a_candidate_begins_as_the_student(student):
    blurry, plain = torch.rand(1, 3, 21, 30), script.load_student(student).eval()
    net = trials.Candidate(trials.TrialConfig(student, gate=1.0, wide=3)).eval()
    assert torch.allclose(net(blurry), plain(blurry), atol=1e-5)
    assert net.logit.shape == (1, 1, 21, 30)
    torch.nn.init.constant_(net.gate.bias, -20)
    assert torch.allclose(net(blurry), blurry, atol=1e-5)  # a closed gate leaves the image alone
    assert len(net.middle) == len(plain.middle) + 2


def test_composites_are_sharp_in_parts_and_only_of_real_pairs():
    blurry = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
    sharp, seeds = blurry + 200, torch.tensor([-1] * 7 + [5])
    trial = trials.TrialConfig(composites=1.0)
    ((mixed, *same),) = trials.with_composites((b for b in [(blurry, sharp, seeds)]), trial)
    assert same[0] is sharp and same[1] is seeds
    assert (mixed[:7].amax(dim=(1, 2, 3)) > 100).any() and (mixed[:7] < 100).any()
    assert (mixed[7] == 0).all()


def test_the_most_blurred_of_several_crops_is_taken():
    sharp, rng = np.zeros((64, 64, 3), np.uint8), np.random.default_rng(0)
    blurry = sharp.copy()
    blurry[:16, :16] = 200

    def brightness(count: int) -> float:
        crops = [trials.most_blurred_crop(count, (blurry, sharp), 16, rng)[0] for _ in range(20)]
        return torch.stack(crops).float().mean().item()

    assert brightness(30) > 3 * brightness(1)
    assert not any(side.any() for side in trials.most_blurred_crop(3, (sharp, sharp), 16, rng))


def test_a_teacher_that_turns_with_the_image_gives_one_result():
    image = torch.rand(2, 3, 8, 8)
    assert torch.allclose(trials.taught_by(torch.nn.Identity(), image, 8), image, atol=1e-6)


def test_all_ideas_train_and_are_measured(config, student, tmp_path, capsys):
    flags = {
        "student": student,
        "teacher": student,
        **{"composites": 1, "blurred-of": 2, "tone": 1, "gate": 1, "wide": 3, "orientations": 2},
        "pairs": f"pairs={config.data.root}/test",
        "device": "cpu",
        "data.root": config.data.root,
        **{"data.crop": 32, "data.batch-size": 4, "data.crops-per-image": 2, "data.workers": 0},
        "train.folder": tmp_path / "run",
        "train.samples": tmp_path / "samples",
        **{"train.epochs": 1, "train.steps-per-epoch": 1, "train.precision": "fp32"},
        "loss.ssim": 0,
    }
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    run_beside_script(trials.main, trials.TrialConfig, "", words)
    result = last_line(capsys)
    assert result["trial"]["wide"] == 3 and "psnr" in result["sets"]["pairs"]["trial"]
    weights = script.load_checkpoint(tmp_path / "run" / "last.pth")["params"]
    assert weights["gate.weight"].abs().max() > 0 and "middle.1.mix.weight" in weights


def test_terms_are_added_to_the_loss(student):
    trial = trials.TrialConfig(student, tone=2.0, gate=3.0)
    net = trials.Candidate(trial)
    sharp, blurry = torch.rand(2, 1, 3, 32, 32)
    config = dataclasses.replace(script.LossConfig().without_teacher(), ssim=0.0)
    with start_runtime("cpu", "fp32") as runtime, torch.no_grad():
        restored = net(blurry)
        total, terms = trials.extended_loss(trial, net, None, runtime)(restored, sharp, config)
        plain, _ = script.distillation_loss(restored, sharp, config)
    assert torch.allclose(total, plain + 2 * terms["tone"] + 3 * terms["gate"])
    assert terms["tone"] > 0 and terms["gate"] > 0
