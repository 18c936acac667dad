"""The estimate before long work: what it counts, and when it gives advice."""

import pytest
from conftest import photo, save

from sharpening import estimate
from sharpening.file_inference import plan_jobs


def test_files_are_counted_from_their_headers(tmp_path):
    path = save(tmp_path / "a.png", photo(100, 200))
    assert estimate.size_of(path, "image") == (1, 0.02)
    (tmp_path / "b.png").write_text("")
    assert estimate.size_of(tmp_path / "b.png", "image") == (1, 0.0)
    assert estimate.size_of(tmp_path / "b.png", "video") == (1, 0.0)


def test_the_line_names_pictures_and_time(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "seconds_per_megapixel", lambda sharpen: 500.0)
    save(tmp_path / "in" / "a.png", photo(100, 200))
    sizes = estimate.sizes_of(plan_jobs(tmp_path / "in", tmp_path / "out"))
    assert sizes == [("image", 1, 0.02)]
    line, seconds = estimate.estimate(sizes * 30, lambda images: images)
    assert (line, seconds) == ("30 pictures: about 5 minutes, 0.1 a second", pytest.approx(300))
    assert estimate.estimate(sizes * 30, list, 2)[1] == pytest.approx(150)


def test_advice_only_for_long_work_and_never_for_what_is_in_use():
    assert estimate.advice(100, "pytorch", True) == []
    both = estimate.advice(3600, "openvino", True)
    assert both[0] == "faster: --size live, about 17 minutes, for 0.94 dB less PSNR"
    assert "openvino-int8" in both[1] and "0.14 dB" in both[1]
    assert len(estimate.advice(3600, "openvino-int8", True)) == 1
    assert estimate.advice(3600, "openvino", False) == []


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 second"), (60, "60 seconds"), (240, "4 minutes")]
)
def test_durations_in_words(seconds, words):
    assert estimate.duration(seconds) == words
    assert estimate.duration(9000) == "2.5 hours"
