"""Image pairs: every layout is found, a pair shares its crop, faults are named."""

import json
import os

import numpy as np
import pytest
import torch
from conftest import blurred, photo, save, write_pairs

import main_sharpening_script as script
from sharpening import SharpeningError, image_pairs
from sharpening.image_pairs import (
    Pair,
    add_teacher_results,
    demo_pairs,
    read_pair,
    read_rgb,
    same_crop,
    stamp,
)
from sharpening.media_files import MediaError

DATA = script.DataConfig()


def pairs_below(folder, blurred_names=DATA.blurred_names):
    return image_pairs.find_pairs(folder, blurred_names, DATA.sharp_names)


def names(folder):
    return [pair.name for pair in pairs_below(folder)]


@pytest.mark.parametrize("layout", [("blurred", "sharp"), ("blur", "sharp"), ("input", "target")])
def test_flat_layouts(tmp_path, layout):
    write_pairs(tmp_path, 12, names=layout)
    found = pairs_below(tmp_path)
    assert [pair.name for pair in found] == [str(i) for i in range(12)]  # natural order
    assert all(pair.blurry.parent.name == layout[0] for pair in found)


def test_gopro_large_layout_with_gamma_folder(tmp_path):
    for scene in ("GOPR0372_07_00", "GOPR0374_11_01"):
        write_pairs(tmp_path / scene, 2, names=("blur", "sharp"))
        write_pairs(tmp_path / scene, 2, names=("blur_gamma", "sharp"))
    found = pairs_below(tmp_path)
    assert len(found) == 4
    assert {pair.blurry.parent.name for pair in found} == {"blur"}
    gamma = pairs_below(tmp_path, ("blur_gamma",))
    assert {pair.blurry.parent.name for pair in gamma} == {"blur_gamma"}


def test_suffixes_and_file_types_may_differ(tmp_path):
    save(tmp_path / "blurred" / "street_blurred.JPG", photo(40, 40))
    save(tmp_path / "sharp" / "street_sharp.png", photo(40, 40))
    save(tmp_path / "blurred" / "b_blur.webp", photo(40, 40))
    save(tmp_path / "sharp" / "b.tif", photo(40, 40))
    (tmp_path / "sharp" / "notes.txt").write_text("not an image")
    assert names(tmp_path) == ["b", "street"]


def test_only_sharp_is_blurred_synthetically(tmp_path):
    save(tmp_path / "sharp" / "a.png", photo(40, 40))
    (pair,) = pairs_below(tmp_path)
    assert pair.blurry is None


def test_images_that_would_be_passed_over_are_refused(tmp_path):
    """Blurred ones under an unknown name would be replaced by synthetic blur without a word."""
    write_pairs(tmp_path / "a", 1, names=("lq", "sharp"))
    (tmp_path / "a" / "notes").mkdir()
    with pytest.raises(SharpeningError, match=r"lq stands beside .*blurred-names lq"):
        pairs_below(tmp_path / "a")
    for known in (("lq",), ()):
        assert bool(pairs_below(tmp_path / "a", known)[0].blurry) == bool(known)
    write_pairs(tmp_path / "b", 1)
    write_pairs(tmp_path / "b", 1, names=("blurred/.thumbnails", "sharp/.thumbnails"))
    assert names(tmp_path / "b") == ["0"]
    write_pairs(tmp_path / "b", 1, names=("blurred/001", "sharp/001"))
    with pytest.raises(SharpeningError, match=r"sharp/001 is not read.*such as .*001/sharp"):
        pairs_below(tmp_path / "b")


def test_a_folder_link_that_leads_back_ends(tmp_path):
    write_pairs(tmp_path / "scene", 1)
    (tmp_path / "scene" / "loop").symlink_to(tmp_path)
    assert names(tmp_path) == ["scene/0"]


def test_empty_dataset_says_what_is_expected(tmp_path):
    with pytest.raises(SharpeningError, match=r"no images in .*sharp.*--demo"):
        pairs_below(tmp_path)


def test_unmatched_names_are_listed(tmp_path):
    write_pairs(tmp_path, 3)
    (tmp_path / "blurred" / "1.png").unlink()
    with pytest.raises(SharpeningError, match=r"1 images.*no partner.*: 1\. "):
        pairs_below(tmp_path)


def test_two_images_of_one_name_are_refused(tmp_path):
    write_pairs(tmp_path, 1)
    save(tmp_path / "sharp" / "0.bmp", photo(40, 40))
    with pytest.raises(SharpeningError, match="share a name"):
        pairs_below(tmp_path)


def test_unequal_sizes_are_named(tmp_path):
    sharp = save(tmp_path / "sharp" / "a.png", photo(40, 40))
    blurry = save(tmp_path / "blurred" / "a.png", photo(40, 41))
    with pytest.raises(SharpeningError, match=r"41 x 40.*40 x 40"):
        read_pair(Pair("a", sharp, blurry))


def test_truncated_image_is_named(tmp_path):
    path = save(tmp_path / "sharp" / "a.png", photo(200, 200))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(MediaError, match=r"a\.png"):
        read_pair(Pair("a", path))


@pytest.mark.parametrize("size", [(100, 80), (32, 32), (20, 50), (7, 9), (1, 1)])
def test_blurry_and_sharp_get_the_same_crop(size):
    sharp = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    for seed in range(8):
        a, b = same_crop((255 - sharp, sharp), 32, np.random.default_rng(seed))
        assert b.shape == (3, 32, 32)
        assert torch.equal(255 - a, b)


@pytest.mark.parametrize(
    ("size", "asked", "factor"),
    [
        ((100, 120), 2, 2), ((48, 200), 2, 1.5), ((20, 120), 2, 1),
        ((100, 120), 0.5, 0.5), ((10, 120), 0.5, 0.5),
    ],
)  # fmt: skip
def test_a_reduced_crop_shows_more_as_far_as_the_image_is_large_enough(size, asked, factor):
    sharp = np.tile(np.arange(size[1], dtype=np.uint8)[:, None], (size[0], 1, 3))
    for seed in range(8):
        images = (255 - sharp, sharp)
        a, b = same_crop(images, 32, np.random.default_rng(seed), asked)
        assert b.shape == (3, 32, 32) and (255 - a.int() - b.int()).abs().max() <= 1  # rounding
        steps = [b.int().diff(dim=axis)[:, 8:-8, 8:-8].abs().float().mean() for axis in (1, 2)]
        assert max(steps) == pytest.approx(factor, abs=0.05) and min(steps) == 0


def test_crops_take_every_flip_and_turn():
    sharp = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    views = {
        same_crop((sharp,), 32, np.random.default_rng(seed))[0].numpy().tobytes()
        for seed in range(100)
    }
    assert len(views) == 8


def test_the_demo_set_is_split_by_image():
    train, test = demo_pairs("train"), demo_pairs("test")
    assert len(train) + len(test) >= 12
    assert not {pair.sharp for pair in train} & {pair.sharp for pair in test}
    for pair in test:
        assert read_rgb(pair.sharp).shape[2] == 3


# --- a teacher's results


@pytest.fixture
def results(tmp_path):
    """Three real pairs, and a folder that has a result for each, by another program."""
    pairs = pairs_below(write_pairs(tmp_path / "data", 3))
    for pair, suffix in zip(pairs, ("png", "jpg", "tif"), strict=True):
        save(tmp_path / "taught" / f"{pair.name}.{suffix}", 255 - read_rgb(pair.blurry))
    return pairs, tmp_path / "taught"


def write_log(folder, made_from):
    (folder / image_pairs.RESULTS_LOG).write_text(json.dumps({"made_from": made_from}))


def test_results_are_found_by_name_whatever_their_format(results):
    pairs, folder = results
    found = add_teacher_results(pairs, folder, 0.5)
    assert [(pair.name, pair.sharp, pair.blurry) for pair in found] == [
        (pair.name, pair.sharp, pair.blurry) for pair in pairs
    ]
    assert [pair.taught.name for pair in found] == ["0.png", "1.jpg", "2.tif"]
    blurry, sharp, taught = read_pair(found[0])
    assert np.array_equal(taught, 255 - blurry) and not np.array_equal(taught, sharp)


def test_results_of_scenes_keep_their_folders(tmp_path):
    for scene in ("a", "b"):
        write_pairs(tmp_path / "data" / scene, 1)
        save(tmp_path / "taught" / scene / "0.png", photo(40, 48, seed=ord(scene)))
    found = add_teacher_results(pairs_below(tmp_path / "data"), tmp_path / "taught", 0.5)
    assert [pair.taught for pair in found] == [tmp_path / "taught" / s / "0.png" for s in "ab"]


def test_a_missing_result_is_named(results):
    pairs, folder = results
    (folder / "1.jpg").unlink()
    with pytest.raises(
        SharpeningError,
        match=r"taught has no results for 1 blurred images, such as 1: .*teacher_cache",
    ):
        add_teacher_results(pairs, folder, 0.5)
    with pytest.raises(SharpeningError, match=r"absent has no results for 3 blurred images"):
        add_teacher_results(pairs, folder.with_name("absent"), 0.5)


@pytest.mark.parametrize("seconds", [-1000, 0, 1000])
def test_a_result_of_another_image_of_the_same_name_is_refused(results, seconds):
    """An older file too, as a copy or an unpacked archive has it; and one of the same time."""
    pairs, folder = results
    write_log(folder, {pair.name: stamp(pair.blurry) for pair in pairs})
    assert len(add_teacher_results(pairs, folder, 0.5)) == 3
    path = pairs[2].blurry
    facts = path.stat()
    save(path, blurred(photo(40, 48, seed=77)))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + seconds * 10**9))
    with pytest.raises(
        SharpeningError, match=r"results of other images for 1 blurred images, such as 2: "
    ):
        add_teacher_results(pairs, folder, 0.5)


def test_images_that_the_log_does_not_know_are_not_stale(results):
    pairs, folder = results
    write_log(folder, {pairs[0].name: stamp(pairs[0].blurry), "of another set": [1, 2]})
    assert len(add_teacher_results(pairs, folder, 0.5)) == 3


def test_a_log_of_results_that_is_damaged_is_named(results):
    pairs, folder = results
    (folder / "results.json").write_text('{"made_from": {')
    with pytest.raises(SharpeningError, match=r"results\.json is damaged .*teacher_cache\.py"):
        add_teacher_results(pairs, folder, 0.5)


def test_there_are_no_results_for_synthetic_blur(results):
    pairs, folder = results
    synthetic = [Pair("s", pairs[0].sharp)]
    for given, share in ((pairs + synthetic, 0.5), (synthetic, 0.0)):
        with pytest.raises(SharpeningError, match="synthetic blur, which is new each time"):
            add_teacher_results(given, folder, share)
    assert len(add_teacher_results(pairs + synthetic, folder, 0.0)) == len(pairs)


def test_a_result_of_another_size_is_named(results):
    (pair, *_) = add_teacher_results(*results, 0.5)
    save(pair.taught, photo(7, 5))
    with pytest.raises(SharpeningError, match=r"taught.0\.png is 5 x 7 pixels"):
        read_pair(pair)
