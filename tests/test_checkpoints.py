"""Checkpoints: written whole or not at all, read strictly, and what is foreign is named."""

import argparse
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_STUDENT, changed

import main_sharpening_script as script
from sharpening import SharpeningError, settings
from sharpening.image_pairs import demo_pairs
from sharpening.media_files import MediaError
from sharpening.synthetic_blur import DegradationConfig


@pytest.fixture
def student_file(config, tmp_path):
    torch.manual_seed(1)
    path = tmp_path / "student.pth"
    student = script.SEUNet(TINY_STUDENT)
    script.save_checkpoint(path, script.network_payload(student))
    return path, student


def test_a_student_comes_back_from_its_file_alone(student_file):
    path, student = student_file
    loaded = script.load_student(path)
    assert loaded.config == TINY_STUDENT
    image = torch.rand(1, 3, 20, 24)
    assert torch.equal(loaded(image), student.eval()(image))
    assert not any(p.requires_grad for p in loaded.parameters())


def test_half_precision_weights_load(student_file, tmp_path):
    path, _ = student_file
    payload = script.load_checkpoint(path)
    payload["params"] = {name: value.half() for name, value in payload["params"].items()}
    script.save_checkpoint(path, payload)
    assert {p.dtype for p in script.load_student(path).parameters()} == {torch.float32}


def test_a_full_disk_leaves_the_old_file(student_file, monkeypatch):
    path, _ = student_file
    before, files = path.read_bytes(), set(path.parent.iterdir())
    write = Path.write_bytes

    def full(self, content):
        write(self, content[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(MediaError, match=r"student\.pth.*disk is full"):
        script.save_checkpoint(path, {})
    assert path.read_bytes() == before
    assert set(path.parent.iterdir()) == files


def test_weights_that_are_not_finite_are_refused(student_file):
    path, student = student_file
    next(student.parameters()).data[0] = float("nan")
    script.save_checkpoint(path, script.network_payload(student))
    with pytest.raises(script.SharpeningError, match=r"student\.pth is damaged: 1 of its weights"):
        script.load_student(path)


def test_a_file_that_could_run_code_is_not_recommended(tmp_path):
    torch.save(Runs(), tmp_path / "evil.pth")
    with pytest.raises(script.SharpeningError, match=r"evil\.pth .*Runs.* can run code") as caught:
        script.load_checkpoint(tmp_path / "evil.pth")
    assert "weights_only" not in str(caught.value)


class Runs:
    """Something that only unpickling with code can rebuild."""


def test_settings_of_another_version_name_the_file(student_file):
    path, _ = student_file
    payload = script.load_checkpoint(path)
    for wrong in ({"colour": 1}, {"stem": 1, "encoder": [1], "decoder": [1]}):
        script.save_checkpoint(path, payload | {"student": wrong})
        with pytest.raises(script.SharpeningError, match=r"student\.pth do not fit this version"):
            script.load_student(path)


def test_of_several_kinds_of_weights_the_averaged_ones_teach(teacher_file, tmp_path):
    payload = script.load_checkpoint(teacher_file)
    average = {name: value + 1 for name, value in payload["params"].items()}
    for name in ("ema", "params_ema"):
        script.save_checkpoint(tmp_path / "both.pth", payload | {name: average})
        teacher = script.restormer_from_weights(tmp_path / "both.pth")
        assert torch.equal(teacher.patch_embed.proj.weight, average["patch_embed.proj.weight"])


def test_missing_truncated_and_foreign_files_are_named(student_file, tmp_path, teacher_file):
    path, _ = student_file
    with pytest.raises(script.SharpeningError, match=r"no checkpoint .*absent"):
        script.load_student(tmp_path / "absent.pth")
    cut = tmp_path / "cut.pth"
    cut.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(script.SharpeningError, match=r"cut\.pth"):
        script.load_student(cut)
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(script.SharpeningError, match=r"text\.pth"):
        script.load_student(tmp_path / "text.pth")
    with pytest.raises(script.SharpeningError, match=r"teacher\.pth is not a student"):
        script.load_student(teacher_file)


def test_a_file_damaged_anywhere_is_refused_or_still_a_student(student_file, tmp_path):
    import random

    content, damaged = student_file[0].read_bytes(), tmp_path / "damaged.pth"
    dice, refused = random.Random(0), 0
    for _ in range(150):
        copy = bytearray(content)
        for _ in range(dice.choice((1, 4, 64))):
            copy[dice.randrange(len(copy))] = dice.randrange(256)
        damaged.write_bytes(copy)
        try:
            script.load_student(damaged)
        except script.SharpeningError as error:
            assert "damaged.pth" in str(error)
            refused += 1
    assert refused > 10


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    torch.save({"student": {}, "params": Harm()}, tmp_path / "evil.pth")
    with pytest.raises(script.SharpeningError, match=r"evil\.pth"):
        script.load_student(tmp_path / "evil.pth")
    assert not (tmp_path / "harm").exists()


def test_weights_of_other_sizes_name_the_differing_entries(student_file):
    path, _ = student_file
    payload = script.load_checkpoint(path)
    payload["student"]["width"] = 8
    script.save_checkpoint(path, payload)
    with pytest.raises(script.SharpeningError, match=r"does not fit SEUNet.*entries differ"):
        script.load_student(path)


def test_config_survives_its_checkpoint(config, tmp_path):
    script.save_checkpoint(tmp_path / "c.pth", {"config": settings.to_dict(config)})
    stored = script.load_checkpoint(tmp_path / "c.pth")["config"]
    assert settings.from_dict(script.Config, stored) == config


def test_unknown_settings_are_named():
    with pytest.raises(ValueError, match="colour"):
        settings.from_dict(script.StudentConfig, {"colour": 1})


def test_default_checkpoint_prefers_given_then_newest_then_shipped(config, tmp_path):
    import os

    shipped = script.SHIPPED_STUDENTS["standard"]
    assert script.default_checkpoint(config) == shipped
    given = changed(config, checkpoint=tmp_path / "x.pth")
    assert script.default_checkpoint(given) == tmp_path / "x.pth"
    config.train.folder.mkdir()
    for index, epoch in enumerate((10, 2)):
        path = config.train.folder / f"student_model_ema_final_epoch_{epoch:03d}.pth"
        path.touch()
        os.utime(path, (index, index))
    assert script.default_checkpoint(config).name == "student_model_ema_final_epoch_002.pth"


@pytest.mark.parametrize("name", ["standard", "live"])
def test_the_students_that_ship_sharpen(name, runtime):
    path = script.SHIPPED_STUDENTS[name]
    weights = script.load_checkpoint(path)["params"]
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert script.load_student(path).config == script.STUDENT_SIZES[name]
    sharpen = script.Sharpener.load(name, runtime)
    motion = DegradationConfig(motion=1.0, video_call=0.0)
    images = script.EvaluationImages(demo_pairs("test"), motion)
    gains = [
        script.psnr(sharpen(blurry), sharp) - script.psnr(blurry, sharp)
        for _, blurry, sharp in images
    ]
    assert len(gains) == 4 and sum(gains) / 4 > 0.2


# --- checkpoints of other training scripts


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def nested(path, value):
    for name in reversed(path):
        value = {name: value}
    return value


@pytest.mark.parametrize(
    ("entries", "prefix"),
    [
        (["model"], ""),
        (["net"], ""),
        (["generator"], ""),
        (["model_state_dict"], ""),
        (["state_dict"], "net."),
        (["params"], "_orig_mod."),
        (["params"], "module.module."),
        (["params"], "module._orig_mod."),
        (["model", "state_dict"], "module.generator."),
        ([], "model.net."),
        (["params_ema"], ""),
    ],
)
def test_weights_of_other_training_scripts_are_found(teacher_file, tmp_path, entries, prefix):
    weights = script.load_checkpoint(teacher_file)["params"]
    other = {f"{prefix}{name}": value for name, value in weights.items()}
    payload = nested(entries, other)
    path = tmp_path / "other.pth"
    torch.save(payload | {"epoch": 3, "optimizer": {"state": {0: torch.zeros(2)}}}, path)
    assert same(script.restormer_from_weights(path).state_dict(), weights)


def test_what_an_average_and_a_lightning_module_save_beside_the_weights_is_left_out(
    config, runtime, tmp_path
):
    student = script.SEUNet(config.student)
    weights = student.state_dict()
    average = torch.optim.swa_utils.AveragedModel(student).state_dict()
    assert "n_averaged" in average
    lightning = {f"net.{name}": value for name, value in weights.items()}
    lightning |= {"vgg.0.weight": torch.ones(3), "loss.scale": torch.ones(1)}
    for payload in ({"model": average}, {"state_dict": lightning}):
        torch.save(payload, tmp_path / "given.pth")
        begun = changed(config, train={"initial_weights": tmp_path / "given.pth"})
        assert same(script.fresh_state(begun, None, runtime).trainee.net.state_dict(), weights)


def test_a_network_whose_own_names_look_wrapped_keeps_them(tmp_path):
    class Peer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = torch.nn.Conv2d(3, 3, 1)

    one, other = Peer(), Peer()
    for prefix in ("", "module."):
        weights = {f"{prefix}{name}": value for name, value in one.state_dict().items()}
        script.load_strictly(other, weights, tmp_path / "peer.pth")
        assert same(other.state_dict(), one.state_dict())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"best": np.float64(31.5)}, "scalar"),
        ({"hyper_parameters": argparse.Namespace(width=3)}, "argparse.Namespace"),
    ],
)
def test_a_file_with_more_than_weights_is_not_called_cut_short(tmp_path, more, named, zipped):
    path = tmp_path / "more.pth"
    weights = {"state_dict": {"a": torch.zeros(2)}}
    torch.save(weights | more, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(SharpeningError, match=rf"more\.pth .*{named}.*save the weights") as caught:
        script.load_checkpoint(path)
    assert "cut short" not in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value))
    assert "weights_only" not in shown.replace("weights_only=True)", "")
    assert "likely succeed" not in shown


@pytest.mark.parametrize("channels", [1, 6])
def test_a_teacher_for_other_channels_is_named(teacher_file, tmp_path, channels):
    weights = script.load_checkpoint(teacher_file)["params"]
    first = "patch_embed.proj.weight"
    weights[first] = torch.zeros(len(weights[first]), channels, 3, 3)
    torch.save({"params": weights}, tmp_path / "grey.pth")
    wanted = rf"grey\.pth .*{channels} channels.*have 3.*--teacher\.weights"
    with pytest.raises(SharpeningError, match=wanted):
        script.restormer_from_weights(tmp_path / "grey.pth")
