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
from conftest import photo
from PIL import Image, ImageCms, ImageOps, PngImagePlugin
from stress_corpus import make_video

from sharpening import media_files, metadata
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
    (tmp_path / "d.pfm").write_bytes(b"Pf\n16 16\n-1.0\n" + bytes(1024))
    reasons = {"a.ppm": "16-bit", "b.pgm": "value is 100,", "d.pfm": "float"}
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


# Metadata, byte for byte ------------------------------------------------------------------------

NAME, COMMENT = "Verein für Fotografie 写真".encode(), b"UNICODE\0" + "Übung".encode("utf-16-le")


def camera_exif(order: str, turn: int = 6, note_size: int = 40) -> bytes:
    """EXIF as cameras write it: text in UTF-8 and UTF-16, a maker's note whose pointer counts from
    the start of the block, interoperability, GPS, sizes, and a thumbnail."""
    block = bytearray({"<": b"II*\0", ">": b"MM\0*"}[order] + bytes(4))

    def number(kind: int, value: int) -> tuple:
        return kind, 1, struct.pack(order + {3: "H", 4: "I"}[kind], value)

    def directory(entries: dict, following: int = 0) -> int:
        rows = struct.pack(order + "H", len(entries))
        for tag, (kind, count, data) in sorted(entries.items()):
            if len(data) > 4:
                place = len(block) + len(block) % 2
                if tag == 0x927C:  # the note ends in a text, and its pointer leads there
                    pointer = struct.pack(order + "I", place + count - 8)
                    data = data[:8] + pointer + data[12:]
                block.extend(bytes(len(block) % 2) + data)
                data = struct.pack(order + "I", place)
            rows += struct.pack(order + "HHI", tag, kind, count) + data.ljust(4, b"\0")
        place = len(block) + len(block) % 2
        block.extend(bytes(len(block) % 2) + rows + struct.pack(order + "I", following))
        return place

    thumbnail = directory({0x0103: number(3, 6), 0x0201: number(4, 0), 0x0202: number(4, 0)})
    interoperability = directory({1: (2, 4, b"R98\0"), 2: (7, 4, b"0100")})
    gps = directory({1: (2, 2, b"N\0"), 2: (5, 3, struct.pack(order + "6I", 48, 1, 51, 1, 7, 1))})
    exif = {
        0x9003: (2, 20, b"2021:06:05 10:11:12\0"),
        0x927C: (7, note_size, b"CAMERA\0\0" + bytes(note_size - 16) + b"the note"),
        0x9286: (7, len(COMMENT), COMMENT),
        0xA002: number(4, 37),
        0xA003: number(3, 24),
        0xA005: number(4, interoperability),
        0xA300: (7, 1, b"\3"),
    }
    first = {
        0x010F: (2, len(NAME) + 1, NAME + b"\0"),
        0x0112: number(3, turn),
        0x013B: (2, len(NAME) + 1, NAME + b"\0"),
        0x4746: number(3, 4),
        0x8769: number(4, directory(exif)),
        0x8825: number(4, gps),
        0x9C9B: (1, 10, "Über\0".encode("utf-16-le")),
    }
    struct.pack_into(order + "I", block, 4, directory(first, thumbnail))
    return b"Exif\0\0" + bytes(block)


def with_exif(path: Path, exif: bytes, deep: bool = False) -> Path:
    """A picture with this very block, in the format that `path` ends with."""
    rgb = gradient(24, 37, 3, np.uint16 if deep else np.uint8)
    empty = media_files.Picture(rgb, None, None, "RGB", "RGB", "PNG")
    picture = dataclasses.replace(empty, exif=exif)
    write_picture(picture, rgb, path, format=path.suffix)
    return path


def facts(exif: bytes) -> dict:
    """What a block says: directory and tag -> type, count and bytes; directories by their tag."""
    tiff = metadata.Tiff(io.BytesIO(exif[6:]))
    first, _ = tiff.directory(tiff.first)
    found = {"first": first}
    for pointer, within in ((0x8769, "first"), (0x8825, "first"), (0xA005, 0x8769)):
        found[pointer] = tiff.below(found[within], pointer)
    pointers = (0x8769, 0x8825, 0xA005, 0x0112)
    return {
        (where, tag): (entry.type, entry.count, entry.data)
        for where, entries in found.items()
        for tag, entry in entries.items()
        if tag not in pointers and tag != 0x927C
    }


def note_and_its_end(exif: bytes) -> tuple[bytes, bytes]:
    """The maker's note without its pointer, and the text to which the pointer leads."""
    tiff = metadata.Tiff(io.BytesIO(exif[6:]))
    note = tiff.below(tiff.directory(tiff.first)[0], 0x8769)[0x927C].data
    (place,) = tiff.unpack("I", note[8:12])
    return note[:8] + note[12:], exif[6 + place : 6 + place + 8]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif"])
def test_a_turned_photo_keeps_every_byte_of_exif_that_need_not_change(tmp_path, suffix, order):
    exif = camera_exif(order)
    path = with_exif(tmp_path / f"a.{suffix}", camera_exif(order, turn=1))
    data = path.read_bytes()
    upright = camera_exif(order, turn=1)[6:]
    assert data.count(upright) == 1
    path.write_bytes(data.replace(upright, exif[6:]))
    if suffix == "png":
        chunk = png_of((b"eXIf", exif[6:]))[8:]
        start = data.find(b"eXIf") - 4
        path.write_bytes(data[:start] + chunk + data[start + len(chunk) :])
    picture, again = round_trip(path)
    if suffix == "avif":  # its own boxes turn a picture, EXIF does not
        assert picture.exif == again.exif == camera_exif(order, turn=1)
        return
    assert picture.rgb.shape == again.rgb.shape == (37, 24, 3)
    assert again.exif == picture.exif
    changed = [at for at, pair in enumerate(zip(exif, again.exif, strict=True)) if len({*pair}) > 1]
    assert len(changed) == 4  # orientation, the pointer to the thumbnail, width and height
    tiff = metadata.Tiff(io.BytesIO(again.exif[6:]))
    first, end = tiff.directory(tiff.first)
    assert tiff.numbers(first[0x0112]) == (1,)
    assert tiff.read(end, 4) == bytes(4), "the thumbnail is not turned"
    sizes = [tiff.numbers(tiff.below(first, 0x8769)[tag]) for tag in (0xA002, 0xA003)]
    assert sizes == [(24,), (37,)]
    assert note_and_its_end(again.exif) == note_and_its_end(exif)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("source", ["jpg", "png", "webp", "tif"])
def test_exif_survives_the_way_into_a_tiff_and_back(tmp_path, source, deep, order):
    if deep and source in ("jpg", "webp"):
        pytest.skip("8 bits only")
    exif = camera_exif(order, turn=1)
    first = with_exif(tmp_path / f"a.{source}", exif, deep)
    picture = read_picture(first)
    write_picture(picture, picture.rgb, tmp_path / "b.tif", format="tif")
    between = read_picture(tmp_path / "b.tif")
    np.testing.assert_array_equal(between.rgb, picture.rgb)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), picture.rgb)
    back = "png" if source == "tif" else source
    write_picture(between, between.rgb, tmp_path / f"c.{back}", format=back)
    for name in ("b.tif", f"c.{back}"):
        found = read_picture(tmp_path / name)
        assert not found.warnings
        assert facts(found.exif) == facts(exif), name
        assert note_and_its_end(found.exif) == note_and_its_end(exif), name
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        page = tiff.pages.first
        assert page.tags[0x8769].value["DateTimeOriginal"] == "2021:06:05 10:11:12"
        assert page.tags[0x8825].value["GPSLatitude"] == (48, 1, 51, 1, 7, 1)
        assert NAME in (tmp_path / "b.tif").read_bytes()


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tags_of_a_tiff_keep_their_bytes(tmp_path, dtype, big):
    tags = [
        (315, 2, len(NAME) + 1, NAME + b"\0", True),
        (40092, 1, 8, "Übe\0".encode("utf-16-le"), True),  # XPComment
        (33550, 12, 3, (0.5, 0.5, 0.0), True),  # of a map
        (37724, 7, 4000, bytes(4000), True),  # Photoshop's layers
    ]
    pixels = gradient(24, 37, 3, dtype)
    order = "<" if big else ">"
    options = {"photometric": "rgb", "extratags": tags, "bigtiff": big, "byteorder": order}
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    picture, again = round_trip(tmp_path / "a.tif")
    np.testing.assert_array_equal(again.rgb, pixels)
    assert picture.warnings == ("left out: Photoshop's layers",)
    assert not again.warnings
    assert facts(again.exif) == facts(picture.exif)
    found = {tag: data for (_, tag), (_, _, data) in facts(again.exif).items()}
    assert found[315] == NAME + b"\0"
    assert found[40092] == "Übe\0".encode("utf-16-le")
    assert found[33550] == struct.pack(f"{order}3d", 0.5, 0.5, 0.0)


def test_a_note_far_inside_a_tiff_moves_with_a_warning(tmp_path):
    exif = camera_exif("<", turn=1)
    path = with_exif(tmp_path / "a.tif", exif)
    tiff = metadata.Tiff(io.BytesIO(path.read_bytes()))
    pointer = tiff.directory(tiff.first)[0][0x8769].place
    data = bytearray(path.read_bytes() + bytes(70_000 - path.stat().st_size % 2))
    struct.pack_into("<I", data, pointer, len(data))
    entries = tiff.below(tiff.directory(tiff.first)[0], 0x8769)
    moved = {tag: entry._replace(place=None) for tag, entry in entries.items()}
    metadata.append_directory(data, "<", moved)
    struct.pack_into("<I", data, pointer, metadata.append_directory(data, "<", moved))
    path.write_bytes(data)
    picture = read_picture(path)
    assert "maker's note moves" in picture.warnings[0]
    assert facts(picture.exif) == facts(exif)


@pytest.mark.parametrize("target", ["jpg", "tif", "png", "webp", "avif"])
def test_a_long_block_of_exif_is_split_and_joined(tmp_path, target):
    exif = camera_exif("<", turn=1, note_size=150_000)
    path = with_exif(tmp_path / "a.jpg", exif)
    segments = metadata.jpeg_parts(path.read_bytes()).segments
    assert [data[:6] for marker, data in segments if marker == 0xE1] == [b"Exif\0\0"] * 3
    picture = read_picture(path)
    assert picture.exif == exif
    write_picture(picture, picture.rgb, tmp_path / f"b.{target}", format=target)
    again = read_picture(tmp_path / f"b.{target}")
    assert facts(again.exif) == facts(exif)
    assert note_and_its_end(again.exif) == note_and_its_end(exif)


def packet_of(*descriptions: str) -> bytes:
    """An XMP packet."""
    inner = "".join(
        f'<rdf:Description rdf:about="" {each}</rdf:Description>' for each in descriptions
    )
    start = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/'
    return f'{start}02/22-rdf-syntax-ns#">{inner}</rdf:RDF></x:xmpmeta>'.encode()


SHORT = 'xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="here">'
LONG = f'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:rights>{"y" * 90_000}</dc:rights>'


def test_long_xmp_is_split_into_segments_and_read_whole(tmp_path):
    picture = read_picture(saved(tmp_path, picture_of("RGB"), "a.png", "PNG"))
    for name, xmp in (("b", packet_of(SHORT, LONG)), ("c", b"no packet at all " * 9000)):
        picture = dataclasses.replace(picture, xmp=xmp)
        write_picture(picture, picture.rgb, tmp_path / f"{name}.jpg", format="jpg")
    segments = [data for _, data in metadata.jpeg_parts((tmp_path / "b.jpg").read_bytes())[0]]
    packet = next(data for data in segments if data.startswith(metadata.XMP_HEADER))
    assert b'dc:source="here"' in packet  # what is short stays where every program looks
    joined = read_picture(tmp_path / "b.jpg")
    assert not joined.warnings
    assert joined.xmp.count(b'dc:source="here"') == joined.xmp.count(b"y" * 90_000) == 1
    assert b"HasExtendedXMP" not in joined.xmp
    assert (
        b"no packet at all " * 9000
        in b"".join(  # not joined, but there
            data[75:] for _, data in metadata.jpeg_parts((tmp_path / "c.jpg").read_bytes())[0]
        )
    )
    for suffix in ("png", "tif", "webp", "jpg"):
        write_picture(joined, joined.rgb, tmp_path / f"d.{suffix}", format=suffix)
        assert b"y" * 90_000 in read_picture(tmp_path / f"d.{suffix}").xmp


def test_an_incomplete_extension_of_xmp_costs_only_itself(tmp_path):
    picture = read_picture(saved(tmp_path, picture_of("RGB"), "a.png", "PNG"))
    picture = dataclasses.replace(picture, xmp=packet_of(SHORT, LONG))
    write_picture(picture, picture.rgb, tmp_path / "b.jpg", format="jpg")
    data = (tmp_path / "b.jpg").read_bytes()
    last = data.rfind(metadata.EXTENSION_HEADER) - 4
    (size,) = struct.unpack(">H", data[last + 2 : last + 4])
    (tmp_path / "b.jpg").write_bytes(data[:last] + data[last + 2 + size :])
    again = read_picture(tmp_path / "b.jpg")
    assert "not complete" in again.warnings[0]
    assert b'dc:source="here"' in again.xmp


# Colours told by other means than a profile -----------------------------------------------------

# x and y of Display P3 and of the phosphors of old televisions -> columns of their profiles, as
# published with them (adapted to D50)
P3_COLUMNS = [[0.51512, 0.2412, -0.00105], [0.29198, 0.69225, 0.04189], [0.1571, 0.06657, 0.78407]]


def profile_of(icc: bytes) -> tuple[list[list[float]], float]:
    """Columns of red, green and blue, and the light of a stored 0.5."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc)).profile
    columns = [profile.red_colorant, profile.green_colorant, profile.blue_colorant]
    start = icc.find(b"para") + 8
    (kind,) = struct.unpack(">H", icc[start : start + 2])
    count = {0: 1, 3: 5}[kind]
    values = np.frombuffer(icc[start + 4 :][: 4 * count], ">i4") / 65536
    light = 0.5 ** values[0] if kind == 0 else (values[1] * 0.5 + values[2]) ** values[0]
    return [list(column[0]) for column in columns], light


def avif_with_numbers(path: Path, primaries: int, transfer: int) -> Path:
    saved(path.parent, picture_of("RGB"), path.name, "AVIF", quality=90)
    data = bytearray(path.read_bytes())
    struct.pack_into(">HH", data, data.index(b"colrnclx") + 8, primaries, transfer)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("target", ["avif", "png", "jpg", "webp", "tif", "jp2"])
def test_numbers_of_avif_become_a_profile(tmp_path, target):
    picture = read_picture(avif_with_numbers(tmp_path / "a.avif", 12, 13))
    write_picture(picture, picture.rgb, tmp_path / f"b.{target}", format=target)
    icc = read_picture(tmp_path / f"b.{target}").icc
    columns, light = profile_of(icc)
    np.testing.assert_allclose(columns, P3_COLUMNS, atol=2e-4)
    assert light == pytest.approx(0.21404, abs=1e-4)  # sRGB's curve


@pytest.mark.parametrize(
    ("primaries", "transfer", "light"),
    [(1, 13, None), (2, 2, None), (1, 8, 0.5), (9, 1, 0.2597), (1, 4, 0.5**2.2)],
)
def test_other_numbers_of_avif(tmp_path, primaries, transfer, light):
    icc = read_picture(avif_with_numbers(tmp_path / "a.avif", primaries, transfer)).icc
    if light is None:
        assert icc == b""  # sRGB needs no profile
    else:
        assert profile_of(icc)[1] == pytest.approx(light, abs=2e-4)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_told_by_numbers_is_refused_by_name(tmp_path, transfer, name):
    for path in (
        avif_with_numbers(tmp_path / "a.avif", 9, transfer),
        png_with(tmp_path / "b.png", (b"cICP", bytes([9, transfer, 0, 1]))),
    ):
        with pytest.raises(MediaError, match=rf"HDR picture \({name}\): tone-map"):
            read_picture(path)
    with pytest.raises(MediaError, match="colours .*77.* convert it to sRGB"):
        read_picture(avif_with_numbers(tmp_path / "a.avif", 77, 13))


def png_with(path: Path, *chunks: tuple[bytes, bytes], image: Image.Image | None = None) -> Path:
    """A PNG with further chunks after its first."""
    saved(path.parent, image or picture_of("RGB"), path.name, "PNG")
    data = path.read_bytes()
    path.write_bytes(data[:33] + png_of(*chunks)[8:] + data[33:])
    return path


P3_CHROMATICITIES = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


@pytest.mark.parametrize(
    ("chunks", "light"),
    [
        ([(b"cICP", bytes([12, 13, 0, 1]))], 0.21404),
        ([(b"cHRM", P3_CHROMATICITIES)], 0.21404),
        ([(b"gAMA", struct.pack(">I", 100_000)), (b"cHRM", P3_CHROMATICITIES)], 0.5),
        ([(b"gAMA", struct.pack(">I", 45_455)), (b"cHRM", P3_CHROMATICITIES)], 0.21404),
    ],
)
def test_colours_that_a_png_tells_without_a_profile(tmp_path, chunks, light):
    picture = read_picture(png_with(tmp_path / "a.png", *chunks))
    columns, found = profile_of(picture.icc)
    np.testing.assert_allclose(columns, P3_COLUMNS, atol=2e-4)
    assert found == pytest.approx(light, abs=2e-4)
    write_picture(picture, picture.rgb, tmp_path / "b.png")
    data = (tmp_path / "b.png").read_bytes()
    assert all(png_of(chunk)[8:] in data for chunk in chunks)
    assert b"iCCP" not in data  # a PNG tells its colours as it did
    write_picture(picture, picture.rgb, tmp_path / "c.jpg", format="jpg")
    assert read_picture(tmp_path / "c.jpg").icc == picture.icc


def test_a_png_that_tells_srgb_or_has_a_profile_gets_no_other(tmp_path):
    gamma, srgb = (b"gAMA", struct.pack(">I", 45_455)), (b"sRGB", b"\0")
    assert read_picture(png_with(tmp_path / "a.png", gamma)).icc == b""
    linear = (b"gAMA", struct.pack(">I", 100_000))
    assert read_picture(png_with(tmp_path / "a.png", linear, srgb)).icc == b""
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    packed = (b"iCCP", b"mine\0\0" + zlib.compress(icc))
    assert read_picture(png_with(tmp_path / "a.png", linear, packed)).icc == icc
    grey = png_with(tmp_path / "b.png", linear, image=picture_of("L"))
    picture, again = round_trip(grey)
    assert picture.icc[16:20] == b"GRAY"
    assert again.icc == picture.icc
    write_picture(picture, picture.rgb, tmp_path / "c.jpg", format="jpg")
    assert read_picture(tmp_path / "c.jpg").icc == picture.icc


def jp2_with_colours(path: Path, content: bytes) -> Path:
    saved(path.parent, picture_of("RGB"), path.name, "JPEG2000")
    data = path.read_bytes()
    start = data.index(b"colr") - 4
    (size,) = struct.unpack(">I", data[start : start + 4])
    new = struct.pack(">I4s", 8 + len(content), b"colr") + content
    header = data.index(b"jp2h") - 4
    (whole,) = struct.unpack(">I", data[header : header + 4])
    whole = struct.pack(">I", whole + len(new) - size)
    path.write_bytes(data[:header] + whole + data[header + 4 : start] + new + data[start + size :])
    return path


def test_a_profile_in_jpeg_2000_travels(tmp_path):
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = jp2_with_colours(tmp_path / "a.jp2", b"\2\0\0" + icc)
    picture, again = round_trip(path)
    assert picture.icc == again.icc == icc
    np.testing.assert_array_equal(again.rgb, picture.rgb)
    write_picture(picture, picture.rgb, tmp_path / "b.png", format="png")
    assert read_picture(tmp_path / "b.png").icc == icc
    with pytest.raises(MediaError, match="colour space 14: convert it to sRGB"):
        read_picture(jp2_with_colours(tmp_path / "c.jp2", b"\1\0\0" + struct.pack(">I", 14)))


def test_exif_and_xmp_find_their_place_in_jpeg_2000(tmp_path):
    exif, xmp = camera_exif("<", turn=1), packet_of(SHORT)
    picture = read_picture(with_exif(tmp_path / "a.png", exif))
    picture = dataclasses.replace(picture, xmp=xmp)
    write_picture(picture, picture.rgb, tmp_path / "b.jp2", format="jp2")
    _, again = round_trip(tmp_path / "b.jp2")
    assert again.exif == exif
    assert again.xmp == xmp
    np.testing.assert_array_equal(again.rgb, picture.rgb)


# Sound files that look odd, damaged files that look sound ---------------------------------------


def test_long_profiles_and_texts_are_no_damage(tmp_path):
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    icc = struct.pack(">I", 2_500_000) + icc[4:].ljust(2_499_996, b"\7")
    text = b"workflow\0\0" + zlib.compress(b'{"a":1}' * 450_000)
    path = png_with(
        tmp_path / "a.png", (b"iCCP", b"mine\0\0" + zlib.compress(icc)), (b"zTXt", text)
    )
    picture, again = round_trip(path)
    assert picture.icc == again.icc == icc
    assert dict(again.options["chunks"])[b"zTXt"] == text
    np.testing.assert_array_equal(picture.rgb, gradient(24, 37, 3))


@pytest.mark.parametrize("name", [b"tEXt", b"iTXt", b"tIME", b"gAMA", b"eXIf"])
@pytest.mark.parametrize("deep", [False, True])
def test_a_wrong_checksum_beside_the_pixels_costs_only_its_chunk(tmp_path, name, deep):
    path = with_exif(tmp_path / "a.png", b"", deep)
    data = path.read_bytes()
    chunk = bytearray(png_of((name, b"Title\0harbour"))[8:])
    chunk[-1] ^= 1
    path.write_bytes(data[:33] + bytes(chunk) + data[33:])
    picture = read_picture(path)
    assert picture.warnings == (f"its chunk {name.decode()} is damaged and left out",)
    np.testing.assert_array_equal(picture.rgb, gradient(24, 37, 3, np.uint16 if deep else np.uint8))


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"tRNS", b"IDAT"])
def test_a_wrong_checksum_of_pixels_is_damage(tmp_path, name):
    image = picture_of("RGB").quantize(50)
    path = saved(tmp_path, image, "a.png", "PNG", transparency=3)
    data = bytearray(path.read_bytes())
    start = data.index(name)
    (size,) = struct.unpack(">I", data[start - 4 : start])
    data[start + 4 + size] ^= 1
    path.write_bytes(data)
    with pytest.raises(MediaError, match=f"checksum of {name.decode()} is wrong"):
        read_picture(path)


def jpeg_of_noise(progressive: bool = False) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=80, progressive=progressive)
    return buffer.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_damage_in_the_middle_of_a_jpeg_is_a_failure(tmp_path, mode, progressive):
    data = bytearray(jpeg_of_noise(progressive))
    if mode != "RGB":
        image = Image.open(io.BytesIO(data)).convert(mode)
        saved(tmp_path, image, "a.jpg", "JPEG", progressive=progressive)
        data = bytearray((tmp_path / "a.jpg").read_bytes())
    assert not read_warnings(tmp_path / "a.jpg", data)
    middle = len(data) // 3
    data[middle : middle + 2000] = bytes(2000)
    with pytest.raises(MediaError, match="damaged"):
        read_warnings(tmp_path / "a.jpg", data)


@pytest.mark.parametrize(
    ("options", "least"), [({"optimize": True}, 36), ({"progressive": True}, 50)]
)
def test_most_damage_of_16_bytes_in_a_jpeg_is_a_failure(tmp_path, options, least):
    """libjpeg alone finds 30 and 34 of these 60: it passes over blocks of too many values."""
    image = Image.fromarray(photo(400, 500, 1))
    sound = saved(tmp_path, image, "a.jpg", "JPEG", quality=90, **options).read_bytes()
    rng, found = np.random.default_rng(0), 0
    for _ in range(60):
        data, at = bytearray(sound), rng.integers(sound.index(b"\xff\xda") + 14, len(sound) - 18)
        data[at : at + 16] = rng.bytes(16)
        try:
            read_warnings(tmp_path / "a.jpg", data)
        except MediaError:
            found += 1
    assert found >= least


def read_warnings(path: Path, data: bytes) -> tuple[str, ...]:
    path.write_bytes(data)
    return read_picture(path).warnings


def test_a_jpeg_that_lacks_only_its_end_marker_is_read_with_a_warning(tmp_path):
    data, path = jpeg_of_noise(), tmp_path / "a.jpg"
    path.write_bytes(data)
    whole = read_picture(path).rgb
    for lacking in (1, 2):
        path.write_bytes(data[:-lacking])
        picture = read_picture(path)
        assert "its end is missing" in picture.warnings[0]
        np.testing.assert_array_equal(picture.rgb, whole)
    with pytest.raises(MediaError, match="damaged"):
        read_warnings(path, data[:-400])


def test_what_cameras_put_before_and_after_the_end_of_a_jpeg(tmp_path):
    data, path = jpeg_of_noise(), tmp_path / "a.jpg"
    for filling in (bytes(300), b"\xff" * 30, b"\0"):
        assert not read_warnings(path, data[:-2] + filling + data[-2:])
    assert "bytes remain" in read_warnings(path, data[:-2] + b"\x12\x34" + data[-2:])[0]
    with pytest.raises(MediaError, match="extraneous"):
        read_warnings(path, data[:-2] + b"\x12\x34" * 40 + data[-2:])
    assert not read_warnings(path, data + bytes(5000))
    assert "2000 bytes that follow" in read_warnings(path, data + b"\x12\x34" * 1000)[0]


def test_uncommon_jpegs_raise_no_alarm(tmp_path):
    rng = np.random.default_rng(0)
    for size in ((1, 1), (7, 9), (16, 16), (33, 17), (90, 70)):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        for mode in ("RGB", "L", "CMYK"):
            image = Image.fromarray(pixels).convert(mode)
            for sampling in (0, 1, 2):
                for further in ({}, {"progressive": True}, {"restart_marker_blocks": 1}):
                    options = {"quality": int(rng.integers(1, 100)), **further}
                    path = saved(tmp_path, image, "a.jpg", "JPEG", subsampling=sampling, **options)
                    assert not read_picture(path).warnings, (size, mode, options)


@pytest.mark.parametrize("compression", ["tiff_adobe_deflate", "jpeg"])
def test_damage_in_a_strip_of_a_tiff_is_a_failure(tmp_path, compression):
    image = Image.open(io.BytesIO(jpeg_of_noise()))
    path = saved(tmp_path, image, "a.tif", "TIFF", compression=compression)
    assert not read_picture(path).warnings
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        start, size = (
            each[0] for each in (tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts)
        )
    middle = start + size // 2
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(MediaError, match="damaged"):
        read_picture(path)


# What phones add, and what else a file may hold -------------------------------------------------

PHONE = (
    'xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" '
    'xmlns:C="http://ns.google.com/photos/1.0/container/" '
    'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" '
    'xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="here" '
)
PARTS = "><C:Directory><rdf:Seq><rdf:li><C:Item/></rdf:li></rdf:Seq></C:Directory>"


def jpeg_with(xmp: bytes, *segments: tuple[int, bytes], after: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    picture_of("RGB").save(buffer, "JPEG")
    data = buffer.getvalue()
    new = [(0xE1, metadata.XMP_HEADER + xmp)] if xmp else []
    new = b"".join(metadata.jpeg_segment(*each) for each in (*new, *segments))
    return data[:20] + new + data[20:] + after


def test_a_motion_photo_tells_no_longer_of_its_video(tmp_path):
    xmp = packet_of(PHONE + 'GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion="1"' + PARTS)
    video = b"\0\0\0\x18ftypmp42" + bytes(3000)
    (tmp_path / "a.jpg").write_bytes(jpeg_with(xmp, after=video))
    picture, again = round_trip(tmp_path / "a.jpg")
    assert picture.warnings == ("left out: the video of a motion photo, the list of its parts",)
    assert not again.warnings
    assert b'dc:source="here"' in again.xmp
    assert not any(word in again.xmp for word in (b"MotionPhoto", b"Directory", b"C:Item"))
    (tmp_path / "b.jpg").write_bytes(jpeg_with(b"", after=video))
    assert read_picture(tmp_path / "b.jpg").warnings == ("left out: the video of a motion photo",)


@pytest.mark.parametrize("gain_map", [True, False])
@pytest.mark.parametrize("index", [True, False])
def test_a_second_picture_is_noticed_with_and_without_a_gain_map(tmp_path, gain_map, index):
    claim = PHONE + ('hdrgm:Version="1.0" hdrgm:GainMapMax="2.5"' if gain_map else "") + ">"
    second = jpeg_with(b"")
    mpf = b"MPF\0II*\0\x08\0\0\0" + struct.pack("<H", 3)
    mpf += struct.pack("<HHI4s", 0xB000, 7, 4, b"0100") + struct.pack("<HHII", 0xB001, 4, 1, 2)
    mpf += struct.pack("<HHII", 0xB002, 7, 32, 50) + bytes(4)
    first = len(jpeg_with(packet_of(claim), (0xE2, mpf + bytes(32))))
    mpf += struct.pack("<IIIHH", 0x030000, first, 0, 0, 0)
    mpf += struct.pack("<IIIHH", 0, len(second), first - 30 - len(packet_of(claim)) - 63, 0, 0)
    segments = [(0xE2, mpf)] if index else []
    (tmp_path / "a.jpg").write_bytes(jpeg_with(packet_of(claim), *segments, after=second))
    picture, again = round_trip(tmp_path / "a.jpg")
    shown = "; ".join(picture.warnings)
    assert "only the first is used" in shown
    assert ("an HDR gain map" in shown) == gain_map
    assert b"hdrgm:Version" not in again.xmp and b"hdrgm:Gain" not in again.xmp
    assert not again.warnings


def test_the_shape_of_a_pixel_survives_and_no_resolution_is_invented(tmp_path):
    data = bytearray(jpeg_with(b""))
    assert data[13] == 0
    struct.pack_into(">HH", data, 14, 2, 1)  # twice as wide as high
    (tmp_path / "a.jpg").write_bytes(data)
    _, again = round_trip(tmp_path / "a.jpg")
    assert again.options["aspect"] == (2, 1)
    assert again.dpi is None
    exif = camera_exif("<", turn=1)  # which tells no resolution, so Pillow says 72
    (tmp_path / "b.jpg").write_bytes(jpeg_with(b"", (0xE1, exif)))
    picture, again = round_trip(tmp_path / "b.jpg")
    assert picture.dpi is again.dpi is None
    path = png_with(tmp_path / "c.png", (b"pHYs", struct.pack(">IIB", 2, 1, 0)))
    picture = read_picture(path)
    write_picture(picture, picture.rgb, tmp_path / "d.png")
    with Image.open(tmp_path / "d.png") as image:
        assert image.info["aspect"] == (2, 1)


def test_every_comment_of_a_jpeg_survives(tmp_path):
    comments = [(0xFE, b"one"), (0xFE, b"two"), (0xFE, b"three")]
    (tmp_path / "a.jpg").write_bytes(jpeg_with(b"", *comments))
    picture = read_picture(tmp_path / "a.jpg")
    write_picture(picture, picture.rgb, tmp_path / "b.jpg")
    segments = metadata.jpeg_parts((tmp_path / "b.jpg").read_bytes()).segments
    found = {data for marker, data in segments if marker == 0xFE}
    assert found == {b"one", b"two", b"three"}


def test_chunks_of_a_png_that_remain_true_survive(tmp_path):
    chunks = [
        (b"sBIT", b"\5\6\5"),
        (b"bKGD", struct.pack(">3H", 1, 2, 3)),
        (b"tIME", struct.pack(">H5B", 2021, 6, 5, 10, 11, 12)),
        (b"oFFs", struct.pack(">2iB", 3, 4, 0)),
        (b"prVt", b"private, and safe to copy"),
    ]
    unsafe = (b"prVT", b"true of these very pixels only")
    path = png_with(tmp_path / "a.png", *chunks, unsafe)
    picture = read_picture(path)
    write_picture(picture, picture.rgb, tmp_path / "b.png")
    data = (tmp_path / "b.png").read_bytes()
    assert all(png_of(chunk)[8:] in data for chunk in chunks)
    assert unsafe[0] not in data
    palette = png_with(tmp_path / "c.png", image=picture_of("RGB").quantize(50))
    data = palette.read_bytes()
    end = data.index(b"IDAT") - 4
    palette.write_bytes(data[:end] + png_of((b"bKGD", b"\7"))[8:] + data[end:])
    picture = read_picture(palette)
    write_picture(picture, picture.rgb, tmp_path / "d.png")
    with Image.open(palette) as image:
        colour = image.getpalette()[21:24]
    assert png_of((b"bKGD", struct.pack(">3H", *colour)))[8:] in (tmp_path / "d.png").read_bytes()


def test_exif_and_xmp_that_older_programs_hide_in_a_text(tmp_path):
    exif, xmp = camera_exif("<", turn=6), packet_of(SHORT)
    for kind, data in (("APP1", exif), ("xmp", xmp), ("APP1", metadata.XMP_HEADER + xmp)):
        info = PngImagePlugin.PngInfo()
        info.add_text(f"Raw profile type {kind}", raw_profile(kind, data), zip=True)
        picture, again = round_trip(
            saved(tmp_path, picture_of("RGB"), "a.png", "PNG", pnginfo=info)
        )
        if data is exif:
            assert picture.rgb.shape == (37, 24, 3)
            assert facts(again.exif)["first", 315][2] == NAME + b"\0"
        else:
            assert again.xmp == picture.xmp == xmp


def test_the_depth_of_an_avif_is_told_right(tmp_path):
    saved(tmp_path, picture_of("RGB"), "a.avif", "AVIF")
    data = bytearray((tmp_path / "a.avif").read_bytes())
    for flags, bits in ((0x40, 10), (0x60, 12)):
        data[data.index(b"av1C") + 6] |= flags
        start = data.index(b"pixi") + 8
        data[start + 1 : start + 1 + data[start]] = bytes([bits]) * data[start]
        (tmp_path / "b.avif").write_bytes(data)
        with pytest.raises(MediaError, match=f"{bits}-bit"):
            read_picture(tmp_path / "b.avif")


def test_a_bmp_whose_fourth_byte_is_empty_is_opaque(tmp_path):
    pixels = np.dstack([gradient(8, 9, 3), np.zeros((8, 9), np.uint8)])[::-1, :, [2, 1, 0, 3]]
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 124, 9, 8, 1, 32, 3, pixels.nbytes, 0, 0, 0, 0) + masks
    start = struct.pack("<2sIHHI", b"BM", 138 + pixels.nbytes, 0, 0, 138)
    (tmp_path / "a.bmp").write_bytes(start + header.ljust(124, b"\0") + pixels.tobytes())
    picture, again = round_trip(tmp_path / "a.bmp")
    assert picture.layout == again.layout == "RGB"
    np.testing.assert_array_equal(again.rgb, gradient(8, 9, 3))


def test_qoi_keeps_what_it_says_of_its_colours(tmp_path):
    for told in ("sRGB", "linear"):
        path = saved(tmp_path, picture_of("RGB"), "a.qoi", "QOI", colorspace=told)
        picture = read_picture(path)
        write_picture(picture, picture.rgb, tmp_path / "b.qoi")
        assert (tmp_path / "b.qoi").read_bytes()[:14] == path.read_bytes()[:14]


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits", "zstd", "lzma"])
@pytest.mark.parametrize("layout", ["L", "RGB", "RGBA"])
def test_16_bit_tiff_of_every_compression(tmp_path, compression, layout):
    pixels = np.random.default_rng(0).integers(0, 65536, (37, 45, len(layout)), dtype=np.uint16)
    options = {"photometric": "minisblack" if layout == "L" else "rgb", "compression": compression}
    options |= {"extrasamples": ["unassalpha"]} if layout == "RGBA" else {}
    for number, further in enumerate(
        ({}, {"bigtiff": True}, {"tile": (16, 16)}, {"byteorder": ">", "rowsperstrip": 5})
    ):
        path = tmp_path / f"{number}.tif"
        tifffile.imwrite(path, pixels.squeeze(), **options, **further)
        picture, again = round_trip(path)
        assert picture.layout == again.layout == layout
        for each in (picture, again):
            np.testing.assert_array_equal(
                each.rgb, np.broadcast_to(pixels[..., :3], each.rgb.shape)
            )
            assert layout != "RGBA" or np.array_equal(each.alpha, pixels[..., 3])


@pytest.mark.parametrize("compression", [None, "zlib", "zstd"])
def test_16_bit_tiff_that_is_cut_short_is_refused(tmp_path, compression):
    noise = np.random.default_rng(0).integers(0, 65536, (64, 64, 3), dtype=np.uint16)
    options = {"photometric": "rgb", "compression": compression, "rowsperstrip": 8}
    tifffile.imwrite(tmp_path / "a.tif", noise, **options)
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(MediaError, match="damaged"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("channels", "kinds", "layout"),
    [
        (4, ["unspecified"], "RGB"),
        (5, ["unassalpha", "unspecified"], "RGBA"),
        (5, ["unspecified", "unspecified"], "RGB"),
    ],
)
def test_extra_channels_are_left_out_with_a_warning(tmp_path, channels, kinds, layout):
    pixels = gradient(24, 37, channels)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=kinds)
    picture = read_picture(tmp_path / "a.tif")
    np.testing.assert_array_equal(picture.rgb, pixels[..., :3])
    assert picture.layout == layout
    assert picture.warnings == (
        f"left out: channels besides its colours, {channels - len(layout)}",
    )


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
