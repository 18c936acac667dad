"""Checkpoints: written whole or not at all, read strictly, and what is foreign is named."""

from pathlib import Path

import pytest
import torch
from conftest import TINY_STUDENT, changed

import main_sharpening_script as script
from sharpening import settings
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
    with pytest.raises(script.SharpeningError, match=r"evil\.pth .*no file of weights") as caught:
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
