"""The tools on pictures and weights: tiny input, the JSON line at the end, errors that say why."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import CPU, TINY_STUDENT, last_line, save, write_pairs
from PIL import Image

import main_sharpening_script as script
from sharpening import SharpeningError
from sharpening.image_pairs import demo_pairs, read_pair, read_rgb
from sharpening.runtime import pick_dtype
from tools import common, mix_weights, networks, pareto, pictures, scenes, variants
from tools import validation_table as validation


def test_a_tool_ends_with_a_status_and_a_line(capsys):
    def fails():
        raise SharpeningError("no such thing: make one")

    assert common.exit_status(fails) == 1
    assert capsys.readouterr().err == "error: no such thing: make one\n"
    assert [common.exit_status(lambda: None), common.exit_status(lambda: 2)] == [0, 2]


@pytest.mark.parametrize(
    "length, count, chosen", [(9, 3, [0, 4, 8]), (4, 3, [0, 2, 3]), (2, 5, [0, 1])]
)
def test_spread_is_even_and_holds_both_ends(length, count, chosen):
    assert common.spread(range(length), count) == chosen


def test_spread_refuses_to_choose_none():
    with pytest.raises(SharpeningError, match="at least one"):
        common.spread([1, 2], 0)


@pytest.mark.parametrize("place", ["no_such_module:Class", "json:NoSuchClass", "json"])
def test_a_wrong_import_path_is_named(place):
    with pytest.raises(SharpeningError, match="package.module:Class"):
        networks.load_class(place)


# Mixed weights


def checkpoint(path, seed, **more):
    torch.manual_seed(seed)
    script.save_checkpoint(path, script.network_payload(script.SEUNet(TINY_STUDENT), **more))
    return path


def test_mixed_weights_are_the_weighted_mean_in_half_precision(tmp_path, capsys):
    paths = [checkpoint(tmp_path / f"{seed}.pth", seed) for seed in (0, 1)]
    parts = (f"0.25={paths[0]}", f"0.75={paths[1]}")
    out = tmp_path / "mixed.pth"
    mix_weights.main(mix_weights.MixConfig(parts, out))
    first, second = (script.load_checkpoint(path)["params"] for path in paths)
    mixed = script.load_checkpoint(out)["params"]
    assert mixed.keys() == first.keys()
    for name, value in mixed.items():
        assert value.dtype == torch.float16
        assert torch.equal(value, (0.25 * first[name] + 0.75 * second[name]).half())
    assert script.load_student(out).config == TINY_STUDENT
    count = script.parameters(script.SEUNet(TINY_STUDENT))
    assert last_line(capsys) == {"checkpoint": str(out), "weights": count, "half": True}


def test_one_part_keeps_its_weights_and_an_average_counts_before_them(tmp_path):
    average = {n: v + 1 for n, v in script.SEUNet(TINY_STUDENT).state_dict().items()}
    path = checkpoint(tmp_path / "last.pth", 0, ema=average)
    mix_weights.main(mix_weights.MixConfig((f"1={path}",), tmp_path / "one.pth", half=False))
    mixed = script.load_checkpoint(tmp_path / "one.pth")["params"]
    assert all(torch.equal(mixed[name], average[name]) for name in average)


def test_what_cannot_be_mixed_is_refused(tmp_path):
    path = checkpoint(tmp_path / "a.pth", 0)
    other = tmp_path / "other.pth"
    wide = dataclasses.replace(TINY_STUDENT, width=8)
    script.save_checkpoint(other, script.network_payload(script.SEUNet(wide)))
    for parts, message in {
        (str(path),): "SHARE=CHECKPOINT",
        (f"half={path}",): "SHARE=CHECKPOINT",
        (f"0.5={path}", f"0.5={path}"): "each checkpoint once",
        (f"0.5={path}", f"0.4={other}"): "sum to 0.9, not to 1",
        (f"0.5={path}", f"0.5={other}"): "different settings",
    }.items():
        with pytest.raises(SharpeningError, match=message):
            mix_weights.main(mix_weights.MixConfig(parts, tmp_path / "mixed.pth"))
    assert not (tmp_path / "mixed.pth").exists()


# Plots and pictures


def test_pareto_keeps_what_nothing_beats(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="pip install -r requirements-dev.txt")
    measured = [("slow", 30, 100), ("beaten", 29, 110), ("fast", 28, 10)]
    lines = [json.dumps({"name": n, "psnr": p, "ms": ms}) for n, p, ms in measured]
    (tmp_path / "points.json").write_text("\n".join(lines))
    pareto.main(pareto.ParetoConfig(tmp_path / "points.json", tmp_path / "plot.png"))
    assert last_line(capsys)["unbeaten"] == ["fast", "slow"]
    assert (tmp_path / "plot.png").stat().st_size > 1000
    (tmp_path / "points.json").write_text('{"name": "no figures"}')
    with pytest.raises(SharpeningError, match="line 1: needs an object with name"):
        pareto.main(pareto.ParetoConfig(tmp_path / "points.json", tmp_path / "plot.png"))


def test_results_are_shown_as_three_crops_a_row(student_file, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    settings = {"output": out, "blurs": ("short", "long"), "crop": 64}
    pictures.main(pictures.PicturesConfig(student_file, rows=1, **settings))
    rows = last_line(capsys)["rows"]
    assert [row["blur"] for row in rows] == ["short", "long"]
    assert rows[0]["before"] > rows[1]["before"]  # the longer blur harms more
    assert all(row["before"] != row["after"] for row in rows)
    sheet = np.asarray(Image.open(out))
    assert sheet.shape == (2 * (64 + pictures.TITLE), 3 * 64, 3)
    titles = [sheet[:, x : x + 64][: pictures.TITLE] for x in (0, 64, 128)]
    assert all(title.min() == 0 and title.max() == 255 for title in titles)  # black on white
    photo = read_rgb(demo_pairs("test")[0].sharp)
    sharp = photo[pictures.middle(photo, 64)]
    assert np.array_equal(sheet[pictures.TITLE : pictures.TITLE + 64, 128:], sharp)
    with pytest.raises(SharpeningError, match="has 4 test photographs, not 5"):
        pictures.main(pictures.PicturesConfig(student_file, rows=5, **settings))


def test_a_crop_is_no_larger_than_its_photograph():
    pairs = demo_pairs("test")
    index = min(range(len(pairs)), key=lambda i: read_rgb(pairs[i].sharp).shape[0])
    sharp = read_rgb(pairs[index].sharp)
    assert sharp.shape[0] < 224
    for place in (pictures.middle(sharp, 224), pictures.most_blurred(sharp, sharp, 224)):
        assert sharp[place].shape == (sharp.shape[0], 224, 3)


def test_a_real_pair_is_shown_where_it_is_blurred_most(student_file, tmp_path, capsys):
    for name in ("blurred", "sharp"):
        image = np.full((96, 160, 3), 50, np.uint8)
        image[48:80, 112:144] += 100 * (name == "sharp")
        (tmp_path / name).mkdir()
        Image.fromarray(image).save(tmp_path / name / "0.png")
    settings = {"blurs": ("short",), "rows": 1, "crop": 32, "pairs": tmp_path}
    sheet = tmp_path / "sheet.png"
    pictures.main(pictures.PicturesConfig(student_file, output=sheet, **settings))
    assert [row["blur"] for row in last_line(capsys)["rows"]] == ["short", "real"]
    shown = np.asarray(Image.open(sheet))[-32:]
    assert (shown[:, :32] == 50).all() and (shown[:, 64:] == 150).all()


@pytest.mark.parametrize("show", ["scenes", "limits"])
def test_scenes_show_input_result_and_original(tmp_path, monkeypatch, show):
    """A network that changes nothing: the result is the input, and nothing differs."""
    nothing = script.Sharpener(torch.nn.Identity(), CPU)
    monkeypatch.setattr(script.Sharpener, "load", lambda *_: nothing)
    scenes.main(scenes.ScenesConfig(tmp_path / "student.pth", tmp_path / "sheet.png", show))
    sheet = read_rgb(tmp_path / "sheet.png")
    high, side = scenes.SIDE + pictures.TITLE, scenes.SIDE
    assert sheet.shape == (3 * high, len(scenes.SCENES[show]) * side, 3)
    for index, scene in enumerate(scenes.SCENES[show]):
        columns = sheet[:, index * side : (index + 1) * side]
        given, result, last = (
            columns[k * high + pictures.TITLE : (k + 1) * high] for k in range(3)
        )
        assert np.array_equal(given, result)
        if scene.length is None:
            assert (last == 128).all()
        else:
            assert 14 < script.psnr(given, last) < 30  # blurred


def test_scenes_begin_with_a_real_pair(student_file, tmp_path, capsys):
    pairs = write_pairs(tmp_path / "pairs", 1, size=(200, 240))
    scenes.main(scenes.ScenesConfig(student_file, tmp_path / "sheet.png", pair=pairs))
    first, second, _ = (row[0] for row in last_line(capsys)["titles"])
    assert first.startswith("real: ") and second.startswith("result: ")
    shown = read_rgb(tmp_path / "sheet.png")[-scenes.SIDE :, : scenes.SIDE]
    assert shown.std() > 1 and shown.shape == (scenes.SIDE, scenes.SIDE, 3)


def test_a_sheet_of_blur_holds_the_crops_and_the_real_pairs(tmp_path, capsys):
    pairs = write_pairs(tmp_path / "pairs", 2)
    out = tmp_path / "out" / "sheet.png"
    settings = {"rows": 2, "columns": 3, "crop": 32}
    pictures.main(pictures.PicturesConfig(None, pairs / "sharp", out, pairs=pairs, **settings))
    low, middle, high = last_line(capsys)["psnr_quartiles"]
    assert 10 < low <= middle <= high
    sheet = np.asarray(Image.open(out))
    assert sheet.shape == (3 * 32, 4 * 32, 3)  # two photographs, and both pairs in one row
    cells = sheet.reshape(3, 32, 4, 32, 3).swapaxes(1, 2)
    for index in range(2):
        files = (pairs / name / f"{index}.png" for name in ("sharp", "blurred"))
        real = [image[pictures.middle(image, 32)] for image in map(read_rgb, files)]
        assert np.array_equal(cells[index, 0], real[0])
        assert not any(np.array_equal(cells[index, k], real[0]) for k in (1, 2, 3))
        assert np.array_equal(cells[2, 2 * index : 2 * index + 2], real)


def test_pictures_names_a_folder_without_images_and_wants_one_source(student_file, tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(SharpeningError, match=f"no images in {folder}"):
            pictures.main(pictures.PicturesConfig(images=folder))
    for sources in ({}, {"checkpoint": student_file, "images": tmp_path}):
        with pytest.raises(ValueError, match="either --checkpoint or --images"):
            pictures.PicturesConfig(**sources)
    with pytest.raises(ValueError, match="blurs are .*: huge"):
        pictures.PicturesConfig(student_file, blurs=("huge",))


# Validation


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"pairs": ("folder",)}, "some_name=folder"),
        ({"other": "other.pth"}, "--other needs its --network"),
    ],
)
def test_validation_names_what_its_flags_lack(settings, message):
    with pytest.raises(SharpeningError, match=message):
        validation.main(validation.TableConfig(checkpoints=(), device="cpu", **settings))


def test_validation_loses_and_swaps_no_set(tmp_path):
    """Two sets of one name would be one, and sharp images no real pairs."""
    pairs = write_pairs(tmp_path, 1)
    named = f"a={pairs}"
    for settings in ({"pairs": (named, named)}, {"pairs": (named,), "sharp": (named,)}):
        with pytest.raises(SharpeningError, match="a name of its own"):
            validation.sets(validation.TableConfig(checkpoints=(), **settings))
    shutil.rmtree(pairs / "blurred")
    with pytest.raises(SharpeningError, match="no pairs of blurred and sharp"):
        validation.sets(validation.TableConfig(checkpoints=(), pairs=(named,)))


# Variants of a student


def rows_of(capsys, *arguments, **settings) -> tuple[dict, dict]:
    variants.main(variants.VariantsConfig(*arguments, **settings, device="cpu"))
    result = last_line(capsys)
    return result, {row["variant"]: row for row in result["rows"]}


def test_every_tile_and_window_has_a_row(student_file, tmp_path, capsys):
    pairs = write_pairs(tmp_path / "pairs", 3, size=(64, 96))
    settings = {"count": 2, "windows": (0, 16), "tiles": (0, 48), "overlap": 8}
    result, rows = rows_of(capsys, student_file, pairs, **settings)
    places = ("whole", "tiles of 48")
    assert list(rows) == [f"{tile}, pooled over {w}" for tile in places for w in ("all", 16)]
    net = script.with_pool_window(script.load_student(student_file), 16)
    chosen = [common.all_pairs(pairs, script.DataConfig())[index] for index in (0, 2)]
    images = [read_pair(pair) for pair in chosen]
    assert result["blurry"] == pytest.approx(np.mean([script.psnr(*pair) for pair in images]))
    there = dataclasses.replace(CPU, dtype=pick_dtype("auto", torch.device("cpu")))
    whole = [script.psnr(script.run_pytorch(net, there, [b])[0], s) for b, s in images]
    row = rows["whole, pooled over 16"]
    assert row["psnr"] == pytest.approx(np.mean(whole), abs=1e-3)
    assert row["gain"] == row["psnr"] - rows["whole, pooled over all"]["psnr"]


def test_leaving_out_a_block_costs_what_it_was_worth(tmp_path, capsys):
    """The only block that moves anything is one: without it nothing is done, without others all."""
    student = script.SEUNet(script.StudentConfig(width=4, max_width=8, stem=4, middle=1))
    for module in student.modules():
        if isinstance(module, script.ResidualBlock):
            torch.nn.init.zeros_(module.merge.weight)
    for module in (student.first, student.last, *student.down, *student.up):
        torch.nn.init.zeros_(module.bias)
    torch.nn.init.zeros_(student.first.weight)  # nothing but a bias of the block reaches the end
    torch.nn.init.constant_(student.decoder[0][0].merge.bias, 0.5)
    torch.nn.init.normal_(student.last.weight, std=0.1)
    path = tmp_path / "student.pth"
    script.save_checkpoint(path, script.network_payload(student))
    pairs = write_pairs(tmp_path / "pairs", 2, size=(48, 64))
    result, rows = rows_of(capsys, path, pairs, vary="blocks", count=2)
    lone = rows.pop("without decoder.0.0")
    names = ["decoder.1.0", "decoder.2.0", "decoder.2.1"]
    assert list(rows)[-3:] == [f"without {name}" for name in names]
    assert lone["psnr"] == pytest.approx(result["blurry"])
    assert rows["all blocks"]["psnr"] < result["blurry"] - 1
    assert {(row["gain"], row["psnr_to_first"]) for row in rows.values()} == {(0, 100)}


def test_the_quality_of_every_way_that_infer_computes(student_file, tmp_path, capsys, monkeypatch):
    pytest.importorskip("openvino", reason="pip install -r requirements-dev.txt")
    monkeypatch.setattr(variants.script, "calibration_crops", list)  # tests/test_openvino_backend
    monkeypatch.setattr(variants, "quantised", lambda model, *_, **__: model)
    pairs = write_pairs(tmp_path / "pairs", 2)
    result, rows = rows_of(capsys, student_file, pairs, vary="precisions")
    near = {name: row["psnr_to_first"] for name, row in rows.items()}
    assert list(rows)[:3] == ["pytorch fp32", "pytorch bf16", "openvino fp32"]
    assert near["pytorch fp32"] == 100
    assert 40 < near["pytorch bf16"] < 100
    for name in ("pytorch bf16", "openvino fp32", "openvino bf16"):
        assert rows[name]["psnr"] == pytest.approx(rows["pytorch fp32"]["psnr"], abs=0.02), name
        assert rows[name]["psnr"] != result["blurry"]


def test_a_folder_of_other_names_is_read_as_the_flags_say(student_file, tmp_path, capsys):
    pairs = write_pairs(tmp_path / "pairs", 1, names=("soft", "clear"))
    data = script.DataConfig(blurred_names=("soft",), sharp_names=("clear",))
    settings = {"windows": (0,), "tiles": (0,), "data": data}
    result, _ = rows_of(capsys, student_file, pairs, **settings)
    images = [read_rgb(pairs / name / "0.png") for name in ("soft", "clear")]
    assert result["blurry"] == pytest.approx(script.psnr(*images))
    save(pairs / "clear" / "1.png", images[1])
    with pytest.raises(SharpeningError, match="no partner"):
        rows_of(capsys, student_file, pairs, **settings)
