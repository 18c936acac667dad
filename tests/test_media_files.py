"""media_files.py: pictures and videos come back as they were, whatever the caller did to them."""

import dataclasses
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps, PngImagePlugin
from stress_corpus import make_stress_corpus, make_video

from sharpening import media_files
from sharpening.file_inference import plan_jobs
from sharpening.media_files import MediaError, read_picture, write_picture
from sharpening.video_files import transform_video

EXTENSION = {"JPEG2000": "jp2", "TIFF": "tif"}
WRITTEN = [(name, layout) for name, held in media_files.WRITABLE.items() for layout in held]


def gradient(height: int, width: int, channels: int, dtype=np.uint8) -> np.ndarray:
    """Smooth, every channel different, nothing symmetric."""
    y, x = np.mgrid[:height, :width]
    planes = [(x * (3 + c) + y * (5 - c) + 40 * c) % 200 + 20 for c in range(channels)]
    scale = 257 if dtype == np.uint16 else 1
    return (np.dstack(planes) * scale + (np.dstack(planes) % 7 if scale > 1 else 0)).astype(dtype)


def picture_of(layout: str, height: int = 24, width: int = 37) -> Image.Image:
    channels = len(Image.new(layout, (1, 1)).getbands())
    pixels = gradient(height, width, channels)
    return Image.frombytes(layout, (width, height), pixels.tobytes())


def saved(folder: Path, image: Image.Image, name: str, format: str, **options) -> Path:
    path = folder / name
    image.save(path, format, **options)
    return path


def round_trip(path: Path, change=lambda rgb: rgb, **options):
    """The picture read, and the same read again after writing it."""
    picture = read_picture(path)
    target = path.with_name("out") / path.name
    write_picture(picture, change(picture.rgb), target, **options)
    assert [each.name for each in target.parent.iterdir()] == [target.name], "a temporary is left"
    target = target.rename(target.with_name("seen-" + target.name))
    again = read_picture(target)
    target.unlink()
    return picture, again


# Layouts, depths and colours ------------------------------------------------------------------


@pytest.mark.parametrize(("name", "layout"), WRITTEN)
def test_every_format_returns_every_layout_that_it_holds(tmp_path, name, layout):
    image = picture_of(layout)
    if (name, layout) == ("GIF", "RGBA"):  # whose alpha is all or nothing
        image.putalpha(image.getchannel("A").point(lambda level: 255 * (level > 120)))
    path = saved(tmp_path, image, "a." + EXTENSION.get(name, name.lower()), name)
    picture, again = round_trip(path)
    assert picture.format == name
    assert again.layout == picture.layout == layout
    assert again.rgb.shape == (24, 37, 3)
    if name in ("JPEG", "WEBP", "AVIF"):
        assert np.abs(again.rgb.astype(int) - picture.rgb).mean() < 3
    elif layout != "CMYK" and name != "GIF":
        np.testing.assert_array_equal(again.rgb, picture.rgb)
        np.testing.assert_array_equal(picture.rgb[..., 0], np.asarray(image.convert("RGB"))[..., 0])
    if layout.endswith("A"):
        np.testing.assert_array_equal(again.alpha, picture.alpha)


@pytest.mark.parametrize(("name", "layout"), WRITTEN)
@pytest.mark.parametrize("level", [3, 90, 252])
def test_flat_colour_keeps_its_mean_within_half_a_level(tmp_path, name, layout, level):
    channels = len(Image.new(layout, (1, 1)).getbands())
    colour = tuple([level, (level * 7) % 256, (level + 100) % 256, 255][:channels])
    if layout in ("LA", "CMYK"):
        colour = (level, 255) if layout == "LA" else (level, 20, (level + 100) % 256, 40)
    image = Image.new(layout, (40, 40), colour)
    path = saved(tmp_path, image, "a." + EXTENSION.get(name, name.lower()), name)
    picture, again = round_trip(path)
    before, after = (each.rgb.reshape(-1, 3).mean(axis=0) for each in (picture, again))
    # libavif's own conversion to YCbCr and back drifts by up to 2 levels, at any quality
    np.testing.assert_allclose(after, before, atol=2 if name == "AVIF" else 0.5)
    assert after.mean() == pytest.approx(before.mean(), abs=1 if name == "AVIF" else 0.5)


@pytest.mark.parametrize(
    ("kind", "extension"),
    [(kind, "png") for kind in ("g", "ga", "rgb", "rgba")]
    + [(kind, "tif") for kind in ("g", "rgb", "rgba")],
)
def test_16_bit_is_exact(tmp_path, kind, extension):
    channels = {"g": 1, "ga": 2, "rgb": 3, "rgba": 4}[kind]
    pixels = np.random.default_rng(0).integers(0, 65536, (67, 41, channels), dtype=np.uint16)
    path = tmp_path / f"a.{extension}"
    if extension == "tif":
        photometric = "minisblack" if channels < 3 else "rgb"
        extra = ["unassalpha"] if kind.endswith("a") else []
        tifffile.imwrite(path, pixels, photometric=photometric, extrasamples=extra)
    else:
        rows = pixels.astype(">u2").reshape(67, -1).view(np.uint8)
        data = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
        header = struct.pack(">2I5B", 41, 67, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
        path.write_bytes(png_of((b"IHDR", header), (b"IDAT", data), (b"IEND", b"")))
    picture, again = round_trip(path, lambda rgb: rgb ^ np.uint16(1))
    expected = pixels[..., :3] if channels > 2 else pixels[..., :1].repeat(3, axis=2)
    np.testing.assert_array_equal(picture.rgb, expected)
    np.testing.assert_array_equal(again.rgb, expected ^ 1)
    assert again.layout == picture.layout == {"g": "L", "ga": "LA"}.get(kind, kind.upper())
    if kind.endswith("a"):
        np.testing.assert_array_equal(picture.alpha, pixels[..., -1])
        np.testing.assert_array_equal(again.alpha, pixels[..., -1])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("predictor", [False, True])
def test_16_bit_tiff_written_by_others(tmp_path, order, planar, predictor):
    pixels = gradient(33, 21, 3, np.uint16)
    data = pixels if planar == "contig" else np.moveaxis(pixels, -1, 0)
    tifffile.imwrite(
        tmp_path / "a.tif",
        data,
        photometric="rgb",
        planarconfig=planar,
        byteorder=order,
        compression="zlib",
        predictor=predictor,
        rowsperstrip=5,
    )
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").rgb, pixels)


def test_16_bit_files_are_read_by_others(tmp_path):
    pixels = gradient(70, 21, 3, np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    picture = read_picture(tmp_path / "a.tif")
    write_picture(picture, pixels, tmp_path / "b.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), pixels)
    write_picture(picture, pixels, tmp_path / "b.png", format="png")
    np.testing.assert_array_equal(read_picture(tmp_path / "b.png").rgb, pixels)
    with Image.open(tmp_path / "b.png") as image:
        np.testing.assert_array_equal(np.asarray(image), pixels >> 8)


@pytest.mark.parametrize("dtype", [np.float32, np.uint32, np.int16])
def test_other_depths_are_refused(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 8, 3), dtype), photometric="rgb")
    with pytest.raises(MediaError, match="a.tif"):
        read_picture(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "g.tif", np.ones((8, 8), dtype), photometric="minisblack")
    with pytest.raises(MediaError, match="8 or 16-bit PNG or TIFF"):
        read_picture(tmp_path / "g.tif")


def test_deep_formats_that_would_be_cut_are_refused(tmp_path):
    deep = gradient(16, 16, 3, np.uint16)
    (tmp_path / "a.ppm").write_bytes(b"P6 16 16 65535\n" + deep.astype(">u2").tobytes())
    (tmp_path / "b.pgm").write_bytes(b"P5 16 16 100\n" + bytes(256))
    tifffile.imwrite(tmp_path / "c.tif", deep, photometric="rgb", tile=(16, 16))
    (tmp_path / "d.pfm").write_bytes(b"Pf\n16 16\n-1.0\n" + bytes(1024))
    reasons = {"a.ppm": "16-bit", "b.pgm": "value is 100,", "c.tif": "tiled", "d.pfm": "float"}
    for name, reason in reasons.items():
        with pytest.raises(MediaError, match=f"{reason}.* first"):
            read_picture(tmp_path / name)


@pytest.mark.parametrize(
    ("channels", "options", "reason"),
    [
        (1, {"photometric": "miniswhite"}, "white as zero.* convert it to RGB, or to grey"),
        (4, {"photometric": "separated"}, "CMYK.* convert it to RGB"),
        (4, {"photometric": "rgb", "extrasamples": ["assocalpha"]}, "multiplied.* save it with"),
        (4, {"photometric": "rgb", "extrasamples": ["unspecified"]}, "extra.* or without alpha"),
    ],
)
def test_tiff_of_other_colours_is_refused_at_16_bits_only(tmp_path, channels, options, reason):
    deep = gradient(16, 21, channels, np.uint16).squeeze()
    tifffile.imwrite(tmp_path / "deep.tif", deep, **options)
    with pytest.raises(MediaError, match=reason):
        read_picture(tmp_path / "deep.tif")
    tifffile.imwrite(tmp_path / "a.tif", (deep >> 8).astype(np.uint8), **options)
    assert read_picture(tmp_path / "a.tif").rgb.shape == (16, 21, 3)


def test_16_bits_and_transparency_do_not_vanish_in_a_jpeg(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", gradient(9, 9, 3, np.uint16), photometric="rgb")
    saved(tmp_path, picture_of("RGBA"), "b.png", "PNG")
    saved(tmp_path, picture_of("RGB").convert("RGBA"), "c.png", "PNG")
    for name in ("a.tif", "b.png"):
        picture = read_picture(tmp_path / name)
        with pytest.raises(MediaError, match="cannot hold"):
            write_picture(picture, picture.rgb, tmp_path / "out.jpg", format="jpg")
    picture = read_picture(tmp_path / "c.png")  # opaque, so nothing is lost
    write_picture(picture, picture.rgb, tmp_path / "out.jpg", format="jpg")
    assert read_picture(tmp_path / "out.jpg").layout == "RGB"


@pytest.mark.parametrize(
    ("transparency", "layout"), [(None, "RGB"), (3, "RGBA"), (bytes(range(0, 250, 5)), "RGBA")]
)
def test_palettes(tmp_path, transparency, layout):
    image = picture_of("RGB").quantize(50)
    options = {} if transparency is None else {"transparency": transparency}
    picture, again = round_trip(saved(tmp_path, image, "a.png", "PNG", **options))
    with Image.open(tmp_path / "a.png") as opened:
        expected = np.asarray(opened.convert("RGBA"))
    assert picture.mode == "P"
    assert picture.layout == again.layout == layout
    np.testing.assert_array_equal(again.rgb, expected[..., :3])
    if transparency is not None:
        np.testing.assert_array_equal(again.alpha, expected[..., 3])
        assert again.alpha.min() == 0


@pytest.mark.parametrize(("mode", "key"), [("L", 60), ("RGB", (20, 60, 100)), ("I;16", 1000)])
def test_a_colour_declared_transparent_becomes_alpha(tmp_path, mode, key):
    image = Image.new("L" if mode == "I;16" else mode, (5, 4), 0)
    if mode == "I;16":
        image = Image.fromarray(np.zeros((4, 5), np.uint16))
    image.putpixel((2, 1), key)
    picture, again = round_trip(saved(tmp_path, image, "a.png", "PNG", transparency=key))
    assert again.alpha[1, 2] == 0
    assert again.alpha.sum() == 19 * np.iinfo(picture.rgb.dtype).max


def test_grey_palettes_and_bitmaps_come_back_grey(tmp_path):
    bitmap = Image.fromarray(np.eye(9, dtype=bool))
    for name, image in (("a.gif", picture_of("L")), ("b.png", bitmap), ("c.tif", bitmap)):
        picture, again = round_trip(saved(tmp_path, image, name, media_files.format_name(name[2:])))
        assert picture.layout == again.layout == "L"
        np.testing.assert_array_equal(again.rgb, picture.rgb)


def test_cmyk_keeps_its_inks_and_an_rgb_format_gets_true_colours(tmp_path):
    inks = np.random.default_rng(1).integers(0, 200, (20, 30, 4), dtype=np.uint8)
    image = Image.frombytes("CMYK", (30, 20), inks.tobytes())
    path = saved(tmp_path, image, "a.tif", "TIFF")
    picture = read_picture(path)
    write_picture(picture, picture.rgb, tmp_path / "b.tif")
    write_picture(picture, picture.rgb, tmp_path / "b.png", format="png")
    with Image.open(tmp_path / "b.tif") as after:
        assert after.mode == "CMYK"
        change = np.asarray(after).astype(int) - inks
    assert np.abs(change[..., 3]).max() == 0
    assert np.abs(change[..., :3]).max() <= 3  # RGB under much black has few levels
    np.testing.assert_array_equal(read_picture(tmp_path / "b.png").rgb, picture.rgb)
    lighter = np.full_like(picture.rgb, 250)
    write_picture(picture, lighter, tmp_path / "c.tif")
    np.testing.assert_array_equal(read_picture(tmp_path / "c.tif").rgb, lighter)


def test_webp_keeps_being_lossless_or_not(tmp_path):
    image = picture_of("RGBA")
    picture, again = round_trip(saved(tmp_path, image, "a.webp", "WEBP", lossless=True, exact=True))
    np.testing.assert_array_equal(again.rgb, picture.rgb)
    assert picture.options["lossless"]
    lossy = read_picture(saved(tmp_path, image, "b.webp", "WEBP", quality=50))
    assert "lossless" not in lossy.options


def test_jpeg_keeps_its_chroma_sampling_and_obeys_quality(tmp_path):
    path = saved(tmp_path, picture_of("RGB"), "a.jpg", "JPEG", subsampling=2, progressive=True)
    picture = read_picture(path)
    sizes = []
    for quality in (40, 95):
        write_picture(picture, picture.rgb, tmp_path / "b.jpg", quality=quality)
        sizes.append((tmp_path / "b.jpg").stat().st_size)
        assert read_picture(tmp_path / "b.jpg").options == picture.options
    assert picture.options == {"subsampling": 2, "progressive": True}
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_avif_keeps_its_chroma_sampling(tmp_path, sampling):
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 255  # red and blue by turns: halved, they mix
    image = Image.fromarray(stripes)
    path = saved(tmp_path, image, "a.avif", "AVIF", subsampling=sampling, quality=95)
    picture, again = round_trip(path)
    assert picture.options == again.options == {"subsampling": sampling}
    loss = np.abs(again.rgb.astype(int) - stripes).mean()
    assert loss < 5 if sampling == "4:4:4" else loss > 40
    png = saved(tmp_path, image, "b.png", "PNG")
    write_picture(read_picture(png), stripes, tmp_path / "c.avif", format="avif")
    assert np.abs(read_picture(tmp_path / "c.avif").rgb.astype(int) - stripes).mean() < 5


def test_a_bare_jpeg_2000_codestream_stays_one(tmp_path):
    for name, no_jp2 in (("a.jp2", False), ("b.j2k", True)):
        path = saved(tmp_path, picture_of("RGB"), name, "JPEG2000", no_jp2=no_jp2)
        picture = read_picture(path)
        write_picture(picture, picture.rgb, tmp_path / "out.j2k")
        assert (tmp_path / "out.j2k").read_bytes()[:4] == path.read_bytes()[:4]


# Metadata -------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("source", ["jpg", "png", "webp", "tif", "avif"])
def test_exif_survives_a_change_of_format(tmp_path, source, target):
    exif = Image.Exif()
    exif[271] = "Maker"
    format = media_files.format_name(source)
    picture = read_picture(saved(tmp_path, picture_of("RGB"), f"a.{source}", format, exif=exif))
    write_picture(picture, picture.rgb, tmp_path / f"out.{target}", format=target)
    with Image.open(tmp_path / f"out.{target}") as image:
        assert image.getexif()[271] == "Maker"


def raw_profile(kind: str, data: bytes) -> str:
    """Bytes as older programs hide them in a text of a PNG."""
    digits = data.hex()
    lines = [digits[i : i + 72] for i in range(0, len(digits), 72)]
    return "\n".join(["", kind, f"{len(data):8d}", *lines, ""])


@pytest.mark.parametrize("orientation", [None, 1, 6])
def test_exif_hidden_in_the_text_of_a_png_survives(tmp_path, orientation):
    exif, info = Image.Exif(), PngImagePlugin.PngInfo()
    exif[271] = "Maker"
    if orientation:
        exif[0x0112] = orientation
    info.add_text("Raw profile type exif", raw_profile("exif", exif.tobytes()), zip=True)
    info.add_text("Raw profile type iptc", raw_profile("iptc", b"a caption"), zip=True)
    path = saved(tmp_path, picture_of("RGB"), "a.png", "PNG", pnginfo=info)
    picture = read_picture(path)
    assert picture.rgb.shape[:2] == ((37, 24) if orientation == 6 else (24, 37))
    write_picture(picture, picture.rgb, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert image.getexif()[271] == "Maker"
        assert image.getexif().get(0x0112, 1) == 1
        assert "Raw profile type exif" not in image.text
        assert b"a caption".hex() in image.text["Raw profile type iptc"]


def test_a_long_text_in_a_png_survives(tmp_path):
    info, workflow = PngImagePlugin.PngInfo(), "step " * 250_000
    info.add_itxt("workflow", workflow)
    path = saved(tmp_path, picture_of("RGB"), "a.png", "PNG", pnginfo=info)
    picture = read_picture(path)
    write_picture(picture, picture.rgb, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        image.load()
        assert image.text["workflow"] == workflow


def test_captions_and_comments_of_a_jpeg_survive(tmp_path):
    path = saved(tmp_path, picture_of("RGB"), "a.jpg", "JPEG", comment=b"by me")
    caption = b"\x1c\x02\x78\x00\x07harbour"
    block = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(caption)) + caption
    start, rest = path.read_bytes()[:2], path.read_bytes()[2:]
    path.write_bytes(start + b"\xff\xed" + struct.pack(">H", len(block) + 2) + block + rest)
    picture = read_picture(path)
    write_picture(picture, picture.rgb, tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.info["comment"] == b"by me"
        assert b"harbour" in image.info["photoshop"][0x0404]


def test_a_grey_palette_with_a_profile_of_colours_stays_in_its_space(tmp_path):
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(gradient(24, 37, 1)[..., 0]).convert("P")
    image.putpalette([level for level in range(256) for _ in range(3)])
    picture, again = round_trip(saved(tmp_path, image, "a.png", "PNG", icc_profile=icc))
    assert picture.layout == again.layout == "RGB"
    assert again.icc == icc


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.avif"])
def test_orientation_against_pillow(tmp_path, orientation, name):
    exif = Image.Exif()
    exif[0x0112], exif[271] = orientation, "Maker"
    path = saved(tmp_path, picture_of("RGB"), name, media_files.format_name(name[2:]), exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    picture, again = round_trip(path, quality=100)
    np.testing.assert_array_equal(picture.rgb, expected)
    assert again.rgb.shape == expected.shape
    assert np.abs(again.rgb.astype(int) - expected).mean() < 4
    exif = Image.Exif()
    exif.load(again.exif)
    assert exif.get(0x0112, 1) == 1
    assert exif[271] == "Maker"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["rgb", "grey"])
def test_orientation_of_16_bit_tiff(tmp_path, orientation, kind):
    pixels = gradient(9, 14, 3 if kind == "rgb" else 1, np.uint16)
    photometric = "rgb" if kind == "rgb" else "minisblack"
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric, extratags=tag)
    picture, again = round_trip(tmp_path / "a.tif")
    first = Image.fromarray((pixels[..., 0] >> 8).astype(np.uint8))
    exif = first.getexif()
    exif[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(first))
    np.testing.assert_array_equal(picture.rgb[..., 0] >> 8, expected)
    np.testing.assert_array_equal(again.rgb, picture.rgb)


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.avif", "deep.png", "deep.tif"]
)
def test_exif_icc_xmp_and_resolution_survive(tmp_path, name):
    exif = Image.Exif()
    exif[271], exif[0x0112] = "Maker", 6
    exif.get_ifd(0x8769)[0x9003] = "2024:01:02 03:04:05"
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 14.0)
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6" me="you"/></x:xmpmeta>'
    suffix = name.split(".")[1]
    options = {"exif": exif, "icc_profile": icc, "dpi": (300, 300), "xmp": xmp}
    if suffix == "png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
        options["pnginfo"].add_text("Title", "harbour")
        options["pnginfo"].add(b"gAMA", struct.pack(">I", 45455))
    if suffix == "tif":
        whole = exif.tobytes()
        exif = options["exif"] = Image.Exif()
        exif.load(whole)
        exif[700] = xmp
    path = saved(
        tmp_path, picture_of("RGB"), "a." + suffix, media_files.format_name(suffix), **options
    )
    picture = read_picture(path)
    if name.startswith("deep"):
        picture = dataclasses.replace(picture, rgb=picture.rgb.astype(np.uint16) * 257)
    write_picture(picture, picture.rgb, tmp_path / name)
    again = read_picture(tmp_path / name)
    found = Image.Exif()
    found.load(again.exif)
    assert found[271] == "Maker"
    assert found.get_ifd(0x8769)[0x9003] == "2024:01:02 03:04:05"
    assert tuple(float(each) for each in found.get_ifd(0x8825)[2]) == (48.0, 8.0, 14.0)
    assert again.icc == icc
    assert b'me="you"' in again.xmp
    assert b'tiff:Orientation="6"' not in again.xmp
    if suffix in ("jpg", "png", "tif"):
        assert again.dpi == pytest.approx((300, 300), abs=0.02)
    if suffix == "png":
        with Image.open(tmp_path / name) as image:
            assert image.info["gamma"] == pytest.approx(0.45455)
            assert image.text["Title"] == "harbour"


def test_a_damaged_exif_block_costs_only_itself(tmp_path):
    broken = b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff"
    path = saved(tmp_path, picture_of("RGB"), "a.jpg", "JPEG", exif=broken)
    picture, again = round_trip(path)
    assert again.rgb.shape == picture.rgb.shape == (24, 37, 3)


def test_frames_and_pages_are_announced(tmp_path):
    frames = [Image.new("L", (8, 6), level) for level in (10, 80, 200)]
    for name, format in (("a.gif", "GIF"), ("a.tif", "TIFF"), ("a.webp", "WEBP"), ("a.png", "PNG")):
        path = saved(tmp_path, frames[0], name, format, save_all=True, append_images=frames[1:])
        picture, again = round_trip(path)
        assert picture.n_frames == 3
        assert "only the first" in picture.warnings[0]
        assert again.n_frames == 1
        assert picture.rgb.mean() == pytest.approx(10, abs=1)


# Bad input, bad output ------------------------------------------------------------------------


def png_of(*chunks: tuple[bytes, bytes]) -> bytes:
    packed = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def bomb(width: int, height: int) -> bytes:
    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return png_of((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000"])
def test_truncated_files_are_refused(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), "a." + EXTENSION.get(name, name.lower()), name)
    data = path.read_bytes()
    for share in (0.05, 0.5, 0.8):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(MediaError, match=path.name):
            read_picture(path)


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_truncated_16_bit_files_are_refused(tmp_path, extension):
    noise = np.random.default_rng(0).integers(0, 65536, (64, 64, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", noise, photometric="rgb")
    path = tmp_path / f"b.{extension}"
    write_picture(read_picture(tmp_path / "a.tif"), noise, path, format=extension)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match="damaged|not an image"):
        read_picture(path)


def test_random_damage_gives_pictures_or_media_errors(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "TGA", "PCX", "PPM"):
        buffer = io.BytesIO()
        picture_of("RGB").save(buffer, name)
        for _ in range(40):
            data = bytearray(buffer.getvalue())
            for position in rng.integers(0, min(len(data), 300), 4):
                data[position] = rng.integers(0, 256)
            (tmp_path / "a").write_bytes(data)
            try:
                picture = read_picture(tmp_path / "a")
            except MediaError as error:
                assert str(tmp_path / "a") in str(error)
            else:
                assert picture.rgb.shape[2] == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"hello\n" * 50, "not an image"), (bytes(1000), "not an image")],
)
def test_what_is_no_image_is_refused_with_the_reason(tmp_path, content, reason):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(MediaError, match=reason):
        read_picture(tmp_path / "a.png")


def test_missing_files_and_folders_are_refused(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(MediaError, match="cannot be read"):
            read_picture(path)


def test_bombs_are_refused_unless_allowed_and_100_megapixels_are_no_bomb(tmp_path):
    (tmp_path / "a.png").write_bytes(bomb(60_000, 60_000))
    (tmp_path / "b.png").write_bytes(bomb(15_000, 14_000))
    for name in ("a.png", "b.png"):
        with pytest.raises(MediaError, match="allow huge"):
            read_picture(tmp_path / name)
    with pytest.raises(MediaError, match="damaged"):  # past the check: the data are missing
        read_picture(tmp_path / "b.png", allow_huge=True)
    large = Image.new("L", (10_000, 10_000), 7)
    picture = read_picture(saved(tmp_path, large, "c.png", "PNG", compress_level=1))
    assert picture.rgb.shape == (10_000, 10_000, 3)


def test_names_that_are_not_text_can_be_printed(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.png"))
    path.write_bytes(b"no image")
    with pytest.raises(MediaError) as caught:
        read_picture(path)
    str(caught.value).encode("utf-8")


def test_wrong_shapes_are_the_callers_mistake(tmp_path):
    picture = read_picture(saved(tmp_path, picture_of("RGB"), "a.png", "PNG"))
    with pytest.raises(ValueError, match="expected"):
        write_picture(picture, picture.rgb[:-1], tmp_path / "b.png")
    with pytest.raises(ValueError, match="choose one of"):
        write_picture(picture, picture.rgb, tmp_path / "b.psd", format="psd")


def output_alone(code: str, folder: Path) -> str:
    """What `code` prints in a process of its own, where `m` is media_files, working in `folder`."""
    environment = os.environ | {"PYTHONPATH": str(Path(media_files.__file__).parents[1])}
    command = [sys.executable, "-c", "from sharpening import media_files as m\n" + code]
    run = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return run.stdout


def output_on_a_full_disk(work: str, free: int, folder: Path) -> str:
    """The MediaError of `work` where no file may grow beyond `free` bytes; Python ignores the
    signal that comes with it."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({free}, {free}))"
    code = f"{limit}\ntry:\n    {work}\nexcept m.MediaError as error:\n    print(error)"
    return output_alone(code, folder)


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    picture = read_picture(saved(tmp_path, picture_of("RGB", 300, 300), "a.bmp", "BMP"))
    target = tmp_path / "out" / "b.bmp"
    write_picture(picture, picture.rgb, target)
    before = target.read_bytes()
    work = "p = m.read_picture('a.bmp'); m.write_picture(p, 255 - p.rgb, 'out/b.bmp')"
    assert "disk is full" in output_on_a_full_disk(work, 100_000, tmp_path)
    assert [each.name for each in target.parent.iterdir()] == ["b.bmp"]
    assert target.read_bytes() == before


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    picture = read_picture(saved(tmp_path, picture_of("RGB"), "a.png", "PNG"))

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(media_files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_picture(picture, picture.rgb, tmp_path / "out" / "b.png")
    assert not list((tmp_path / "out").iterdir())


def test_a_target_below_a_file_is_refused_with_its_path(tmp_path):
    picture = read_picture(saved(tmp_path, picture_of("RGB"), "a.png", "PNG"))
    for target in (tmp_path / "a.png" / "b.png", tmp_path / "a.png" / "c" / "b.png"):
        with pytest.raises(MediaError, match="b.png: cannot be written"):
            write_picture(picture, picture.rgb, target)
        with pytest.raises(MediaError, match="b.mp4: cannot be written"):
            transform_video(make_video(tmp_path / "v.mp4"), target.with_suffix(".mp4"), iter)


def test_a_format_too_small_for_the_picture_says_so(tmp_path):
    picture = read_picture(saved(tmp_path, Image.new("RGB", (17_000, 2)), "a.png", "PNG"))
    with pytest.raises(MediaError, match="choose another format"):
        write_picture(picture, picture.rgb, tmp_path / "b.webp", format="webp")
    assert not (tmp_path / "b.webp").exists()


# VmHWM is of this program alone; ru_maxrss begins with what the parent held when it forked
PEAK = """
def peak():
    line = next(each for each in open("/proc/self/status") if each.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
before = peak()
"""


@pytest.fixture
def peak_of():
    """peak_of(code, folder): by how many bytes the memory of a new process grows with `code`."""
    status = Path("/proc/self/status")
    if not status.exists() or "VmHWM" not in status.read_text():
        pytest.skip("this system does not say how much memory a process had at most")
    return lambda code, folder: int(output_alone(f"{PEAK}{code}\nprint(peak() - before)", folder))


def test_the_largest_image_stays_within_its_memory(tmp_path, peak_of):
    """Half of 100 megapixels: reading and writing at most 15 bytes each, and at least 3."""
    saved(tmp_path, Image.new("RGB", (10_000, 5_000), (1, 2, 3)), "a.png", "PNG", compress_level=1)
    code = "p = m.read_picture('a.png'); m.write_picture(p, p.rgb, 'b.jpg', format='jpg')"
    assert 3 < peak_of(code, tmp_path) / 50e6 < 15


@pytest.mark.parametrize("width", [4992, 5000])
def test_reading_16_bits_stays_within_its_memory(tmp_path, peak_of, width):
    """At most 18 bytes per pixel: Pillow's 4, FFmpeg's 6, 6 of the result; one copy more is 22."""
    picture = read_picture(saved(tmp_path, Image.new("RGB", (width, 4000)), "a.png", "PNG"))
    picture = dataclasses.replace(picture, rgb=picture.rgb.astype(np.uint16))
    write_picture(picture, picture.rgb, tmp_path / "b.png")
    assert 6 < peak_of("p = m.read_picture('b.png')", tmp_path) / (width * 4000) < 18


# Everything at once ---------------------------------------------------------------------------


def test_the_stress_corpus_goes_through_with_nothing_lost(tmp_path):
    corpus = make_stress_corpus(tmp_path / "in")
    assert len(corpus) >= 60
    plan = plan_jobs(tmp_path / "in", tmp_path / "out")
    outcomes = {problem.path: "fails" for problem in plan.problems}
    outcomes |= dict.fromkeys(plan.ignored, "ignored")
    for job in plan.jobs:
        try:
            if job.kind == "video":
                transform_video(job.source, job.target, iter, preset="ultrafast")
            else:
                picture = read_picture(job.source)
                write_picture(picture, picture.rgb, job.target)
                again = read_picture(job.target)
                assert again.rgb.shape == picture.rgb.shape
                assert again.rgb.dtype == picture.rgb.dtype
            outcomes[job.source] = "ok"
        except MediaError as error:
            assert job.source.name in str(error) or job.target.name in str(error)
            assert not job.target.exists()
            outcomes[job.source] = "fails"
    visible = {path: expected for path, expected in corpus.items() if expected != "unseen"}
    assert outcomes == visible
    written = {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert written == {job.target for job in plan.jobs if outcomes[job.source] == "ok"}
    again = plan_jobs(tmp_path / "in", tmp_path / "out")
    assert len(again.finished) == len(written)
