"""Data: every layout is found, a pair shares its crop, draws are reproducible, faults are named."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import photo, save, write_pairs

import main_sharpening_script as script

DATA = script.DataConfig(crop=32, batch_size=4, crops_per_image=2, workers=0)


def names(folder, config=DATA):
    return [pair.name for pair in script.find_pairs(folder, config)]


@pytest.mark.parametrize("layout", [("blurred", "sharp"), ("blur", "sharp"), ("input", "target")])
def test_flat_layouts(tmp_path, layout):
    write_pairs(tmp_path, 12, names=layout)
    found = script.find_pairs(tmp_path, DATA)
    assert [pair.name for pair in found] == [str(i) for i in range(12)]  # natural order
    assert all(pair.blurry.parent.name == layout[0] for pair in found)


def test_gopro_large_layout_with_gamma_folder(tmp_path):
    for scene in ("GOPR0372_07_00", "GOPR0374_11_01"):
        write_pairs(tmp_path / scene, 2, names=("blur", "sharp"))
        write_pairs(tmp_path / scene, 2, names=("blur_gamma", "sharp"))
    found = script.find_pairs(tmp_path, DATA)
    assert len(found) == 4
    assert {pair.blurry.parent.name for pair in found} == {"blur"}
    gamma = dataclasses.replace(DATA, blurred_names=("blur_gamma",))
    assert {p.blurry.parent.name for p in script.find_pairs(tmp_path, gamma)} == {"blur_gamma"}


def test_suffixes_and_file_types_may_differ(tmp_path):
    save(tmp_path / "blurred" / "street_blurred.JPG", photo(40, 40))
    save(tmp_path / "sharp" / "street_sharp.png", photo(40, 40))
    save(tmp_path / "blurred" / "b_blur.webp", photo(40, 40))
    save(tmp_path / "sharp" / "b.tif", photo(40, 40))
    (tmp_path / "sharp" / "notes.txt").write_text("not an image")
    assert names(tmp_path) == ["b", "street"]


def test_only_sharp_is_blurred_synthetically(tmp_path):
    save(tmp_path / "sharp" / "a.png", photo(40, 40))
    (pair,) = script.find_pairs(tmp_path, DATA)
    assert pair.blurry is None


def test_images_that_would_be_passed_over_are_refused(tmp_path):
    """Blurred ones under an unknown name would be replaced by synthetic blur without a word."""
    write_pairs(tmp_path / "a", 1, names=("lq", "sharp"))
    (tmp_path / "a" / "notes").mkdir()
    with pytest.raises(script.SharpeningError, match=r"lq lies beside .*blurred-names lq"):
        script.find_pairs(tmp_path / "a", DATA)
    for known in (("lq",), ()):
        named = dataclasses.replace(DATA, blurred_names=known)
        assert bool(script.find_pairs(tmp_path / "a", named)[0].blurry) == bool(known)
    write_pairs(tmp_path / "b", 1)
    write_pairs(tmp_path / "b", 1, names=("blurred/.thumbnails", "sharp/.thumbnails"))
    assert names(tmp_path / "b") == ["0"]
    write_pairs(tmp_path / "b", 1, names=("blurred/001", "sharp/001"))
    with pytest.raises(script.SharpeningError, match=r"sharp/001 is not read.*as in .*001/sharp"):
        script.find_pairs(tmp_path / "b", DATA)


def test_a_folder_link_that_leads_back_ends(tmp_path):
    write_pairs(tmp_path / "scene", 1)
    (tmp_path / "scene" / "loop").symlink_to(tmp_path)
    assert names(tmp_path) == ["scene/0"]


def test_empty_dataset_says_what_is_expected(tmp_path):
    with pytest.raises(script.SharpeningError, match=r"no images in .*sharp.*--demo"):
        script.find_pairs(tmp_path, DATA)


def test_unmatched_names_are_listed(tmp_path):
    write_pairs(tmp_path, 3)
    (tmp_path / "blurred" / "1.png").unlink()
    with pytest.raises(script.SharpeningError, match=r"1 images.*no partner.*: 1;"):
        script.find_pairs(tmp_path, DATA)


def test_two_images_of_one_name_are_refused(tmp_path):
    write_pairs(tmp_path, 1)
    save(tmp_path / "sharp" / "0.bmp", photo(40, 40))
    with pytest.raises(script.SharpeningError, match="share a name"):
        script.find_pairs(tmp_path, DATA)


def test_unequal_sizes_are_named(tmp_path):
    sharp = save(tmp_path / "sharp" / "a.png", photo(40, 40))
    blurry = save(tmp_path / "blurred" / "a.png", photo(40, 41))
    with pytest.raises(script.SharpeningError, match=r"41 x 40.*40 x 40"):
        script.read_pair(script.Pair("a", sharp, blurry))


def test_truncated_image_is_named(tmp_path):
    path = save(tmp_path / "sharp" / "a.png", photo(200, 200))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(script.MediaError, match=r"a\.png"):
        script.read_pair(script.Pair("a", path))


@pytest.mark.parametrize("size", [(100, 80), (32, 32), (20, 50), (7, 9), (1, 1)])
def test_blurry_and_sharp_get_the_same_crop(size):
    sharp = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    for seed in range(8):
        a, b = script.same_crop((255 - sharp, sharp), 32, np.random.default_rng(seed))
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
        a, b = script.same_crop(images, 32, np.random.default_rng(seed), asked)
        assert b.shape == (3, 32, 32) and (255 - a.int() - b.int()).abs().max() <= 1  # rounding
        steps = [b.int().diff(dim=axis)[:, 8:-8, 8:-8].abs().float().mean() for axis in (1, 2)]
        assert max(steps) == pytest.approx(factor, abs=0.05) and min(steps) == 0


def test_crops_are_reduced_as_often_as_asked(tmp_path):
    write_pairs(tmp_path, 2)
    config = dataclasses.replace(DATA, reduction_chance=0.25, reduction=(1.5, 3.0))
    dataset = script.GoProSharpeningDataset(script.find_pairs(tmp_path, config), config, 0)
    rng = np.random.default_rng(0)
    drawn = np.array([dataset.reduction(rng) for _ in range(4000)])
    assert np.mean(drawn == 1) == pytest.approx(0.75, abs=0.03)
    assert drawn[drawn > 1].min() >= 1.5 and drawn.max() <= 3
    assert np.log(drawn[drawn > 1]).mean() == pytest.approx(np.log(4.5) / 2, abs=0.03)
    always = dataclasses.replace(config, reduction_chance=1.0)
    reduced = script.GoProSharpeningDataset(dataset.real, always, 0)
    plain = script.GoProSharpeningDataset(dataset.real, DATA, 0)
    for draw in range(4):
        assert reduced[draw][1].shape == plain[draw][1].shape
        assert not torch.equal(reduced[draw][1], plain[draw][1])


def test_crops_take_every_flip_and_turn():
    sharp = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    views = {
        script.same_crop((sharp,), 32, np.random.default_rng(seed))[0].numpy().tobytes()
        for seed in range(100)
    }
    assert len(views) == 8


def test_an_epoch_shows_every_image_once_and_epochs_differ(tmp_path):
    write_pairs(tmp_path, 9)
    dataset = script.GoProSharpeningDataset(script.find_pairs(tmp_path, DATA), DATA, seed=3)
    first = [dataset.pair(draw).name for draw in range(9)]
    second = [dataset.pair(draw).name for draw in range(9, 18)]
    assert sorted(first) == sorted(second) == sorted(str(i) for i in range(9))
    assert first != second


def test_real_and_synthetic_mix_by_their_share(tmp_path):
    write_pairs(tmp_path / "real", 3)
    for index in range(5):
        save(tmp_path / "photos" / "sharp" / f"{index}.png", photo(40, 40, index))
    config = dataclasses.replace(DATA, synthetic_share=0.25)
    dataset = script.GoProSharpeningDataset(script.find_pairs(tmp_path, config), config, 0)
    share = np.mean([dataset.pair(draw).blurry is None for draw in range(2000)])
    assert share == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(("share", "kind"), [(0.0, "real"), (1.0, "synthetic")])
def test_what_is_never_drawn_is_neither_counted_nor_kept(tmp_path, share, kind):
    write_pairs(tmp_path / "real", 3)
    for index in range(5):
        save(tmp_path / "photos" / "sharp" / f"{index}.png", photo(40, 40, index))
    config = dataclasses.replace(DATA, synthetic_share=share)
    dataset = script.GoProSharpeningDataset(script.find_pairs(tmp_path, config), config, 0)
    assert len(dataset) == len(dataset.cache) == {"real": 3, "synthetic": 5}[kind]
    drawn = {dataset.pair(draw).blurry is None for draw in range(20)}
    assert drawn == {kind == "synthetic"}


@pytest.mark.parametrize("cache_gb", [0, 0.00002, 1])
def test_items_depend_on_the_draw_alone(tmp_path, cache_gb):
    write_pairs(tmp_path, 4)
    pairs = script.find_pairs(tmp_path, DATA)
    plain = script.GoProSharpeningDataset(pairs, dataclasses.replace(DATA, cache_gb=0), 1)
    cached = script.GoProSharpeningDataset(pairs, dataclasses.replace(DATA, cache_gb=cache_gb), 1)
    for draw in (5, 0, 5, 17):
        for a, b in zip(plain[draw], cached[draw], strict=True):
            assert torch.equal(a, b)


def test_workers_and_processes_share_out_the_same_draws(tmp_path, runtime):
    write_pairs(tmp_path, 5)
    pairs = script.find_pairs(tmp_path, DATA)
    double = dataclasses.replace(DATA, batch_size=8, workers=1)
    whole = script.training_batches(script.GoProSharpeningDataset(pairs, double, 0), 0, runtime)
    single = script.GoProSharpeningDataset(pairs, DATA, 0)
    ranks = [
        script.training_batches(single, 0, dataclasses.replace(runtime, rank=rank, world=2))
        for rank in range(2)
    ]
    for _ in range(3):
        parts = [next(rank) for rank in ranks]
        for expected, *found in zip(next(whole), *parts, strict=True):
            assert torch.equal(expected, torch.cat(found))


def test_batches_start_anywhere(tmp_path, runtime):
    write_pairs(tmp_path, 5)
    dataset = script.GoProSharpeningDataset(script.find_pairs(tmp_path, DATA), DATA, 0)
    running = script.training_batches(dataset, 0, runtime)
    for _ in range(3):
        next(running)
    resumed = script.training_batches(dataset, 3, runtime)
    for a, b in zip(next(running), next(resumed), strict=True):
        assert torch.equal(a, b)


def test_prepare_batch_blurs_only_what_is_synthetic(config):
    sharp = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    blurry, keys = 255 - sharp, torch.tensor([-1, 7, -1, 8])
    motion = script.DegradationConfig(motion=1.0, video_call=0.0, length=(20.0, 20.0))
    config = dataclasses.replace(config, degradation=motion)
    ready, target, _ = script.prepare_batch((blurry, sharp, keys), config, torch.device("cpu"))
    assert torch.equal(target, sharp.float() / 255)
    assert torch.equal(ready[[0, 2]], blurry[[0, 2]].float() / 255)
    assert (ready[[1, 3]] - target[[1, 3]]).abs().mean() > 0.05
    again, *_ = script.prepare_batch((blurry, sharp, keys), config, torch.device("cpu"))
    assert torch.equal(ready, again)


def test_the_demo_set_is_split_by_image():
    train, test = script.demo_pairs("train"), script.demo_pairs("test")
    assert len(train) + len(test) >= 12
    assert not {pair.sharp for pair in train} & {pair.sharp for pair in test}
    for pair in test:
        assert script.read_rgb(pair.sharp).shape[2] == 3


def test_test_images_are_whole_and_their_blur_is_fixed(config):
    images = script.TestImages(script.demo_pairs("test"), config)
    index, blurry, sharp = images[1]
    assert (index, blurry.shape) == (1, sharp.shape)
    assert np.array_equal(blurry, images[1][1])
    assert sharp.shape == script.read_rgb(script.demo_pairs("test")[1].sharp).shape
