"""What travels beside the pixels of a picture: EXIF, XMP and colours, as the bytes of the file.

Nothing here decodes pixels, and nothing is read that need not change: a block of EXIF keeps its
bytes, and only numbers that describe turned pixels are set in place. So text in any encoding and
a camera maker's own notes, whose pointers count from the start of the block, stay what they are.

Read from top to bottom: TIFF directories and EXIF, XMP, colour profiles, JPEG segments, boxes.
Damage raises `LookupError`, `ValueError` or `struct.error`.
"""

import hashlib
import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from sharpening import SharpeningError

# ----------------------------------------------------------------------------------------------
# TIFF directories and EXIF
# ----------------------------------------------------------------------------------------------

EXIF_HEADER = b"Exif\0\0"
ORIENTATION, EXIF, GPS = 0x0112, 0x8769, 0x8825  # a tag and two directories of EXIF
INTEROPERABILITY, MAKER_NOTE = 0xA005, 0x927C  # a directory and a tag inside `EXIF`
XMP_TAG, ICC_TAG, LAYERS = 700, 34675, 37724  # of TIFF; the last one holds Photoshop's layers
STRIP_OFFSETS, STRIP_SIZES, JPEG_TABLES = 273, 279, 347

SIDES = ((256, 257), (0xA002, 0xA003))
"""Width and height in the first directory and in `EXIF`: they change places in a turned picture."""

STORAGE = frozenset(
    {
        *range(254, 260), *range(262, 269), ORIENTATION, *range(277, 285), *range(288, 294), 296,
        297, 317, *range(320, 348), 400, *range(512, 522), *range(529, 533), XMP_TAG, ICC_TAG,
        LAYERS, 33421, 33422, 33424, 34306, 34310, EXIF, GPS, STRIP_OFFSETS, STRIP_SIZES,
    }
)  # fmt: skip
"""Tags of a first directory that tell how pixels are stored, what is written anew with them, or
where other directories lie. Every other tag describes the picture."""

TYPE_SIZES = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8,
    17: 8, 18: 8,
}  # fmt: skip
NUMBER_SIZES = TYPE_SIZES | {5: 4, 10: 4}  # a fraction is two numbers
POINTER_TYPES = (13, 18)
LONG = 4
FARTHEST = 65_000  # place of a maker's note that is worth so many empty bytes before it


class Entry(NamedTuple):
    """One value of a directory, in the byte order of its file."""

    type: int
    count: int
    data: bytes
    place: int | None = None
    """Where `data` begin in the file; None: wherever there is room."""


class Tiff:
    """The directories of a TIFF file or BigTIFF, or of a block of EXIF (a TIFF without pixels)."""

    def __init__(self, file: BinaryIO):
        self.file = file
        head = self.read(0, 16)
        self.order = {b"II": "<", b"MM": ">"}[head[:2]]
        self.big = self.unpack("H", head[2:4])[0] == 43
        where = head[8:16] if self.big else head[4:8]
        (self.first,) = self.unpack("Q" if self.big else "I", where)

    def read(self, place: int, size: int) -> bytes:
        self.file.seek(place)
        return self.file.read(size)

    def unpack(self, layout: str, data: bytes) -> tuple:
        return struct.unpack(self.order + layout, data)

    def directory(self, place: int) -> tuple[dict[int, Entry], int]:
        """Tag -> entry, and where the pointer to the next directory lies.

        Entries whose value lies outside the file are passed over, layers are not read.
        """
        layout, room = ("HHQ", 8) if self.big else ("HHI", 4)
        step = 4 + 2 * room
        head = self.read(place, room if self.big else 2)
        (count,) = self.unpack("Q" if self.big else "H", head)
        start = place + len(head)
        rows = self.read(start, min(count, 65535) * step)
        if len(rows) != count * step:
            raise ValueError("a directory is cut short")
        entries = {}
        for row in range(0, len(rows), step):
            tag, kind, number = self.unpack(layout, rows[row : row + step - room])
            size = number * TYPE_SIZES.get(kind, 0) if tag != LAYERS else 0
            where = start + row + step - room
            if size > room:
                (where,) = self.unpack("Q" if self.big else "I", rows[row + step - room :][:room])
            data = self.read(where, size)
            if kind in TYPE_SIZES and len(data) == size:
                entries[tag] = Entry(kind, number, data, where)
        return entries, start + len(rows)

    def numbers(self, entry: Entry | None) -> tuple[int, ...]:
        """The whole numbers of an entry; none if there is no entry."""
        if entry is None:
            return ()
        letter = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}[entry.type]
        return self.unpack(f"{entry.count}{letter}", entry.data)

    def below(self, entries: dict[int, Entry], pointer: int) -> dict[int, Entry]:
        """The directory that the entry `pointer` leads to; empty where there is none."""
        places = self.numbers(entries.get(pointer))
        return self.directory(places[0])[0] if places else {}

    def strips(self, entries: dict[int, Entry]) -> Iterator[bytes]:
        """The encoded strips or tiles of the picture that a directory describes."""
        offsets, sizes = (273, 279) if 273 in entries else (324, 325)
        numbers = (self.numbers(entries.get(tag)) for tag in (offsets, sizes))
        for place, size in zip(*numbers, strict=True):
            yield self.read(place, size)


def append_directory(block: bytearray, order: str, entries: dict[int, Entry], base: int = 0) -> int:
    """Append a directory to `block`, which begins at `base` of its file -> where it lies there.

    Values that have a place stay in it, the others are appended before the directory.
    """
    rows = []
    for tag, (kind, count, data, place) in sorted(entries.items()):
        if len(data) > 4:
            if place is None:
                block += bytes(len(block) % 2)
                place = base + len(block)
                block += data
            data = struct.pack(order + "I", place)
        rows.append(struct.pack(order + "HHI", tag, kind, count) + data.ljust(4, b"\0"))
    block += bytes(len(block) % 2)
    place = base + len(block)
    block += struct.pack(order + "H", len(rows)) + b"".join(rows) + bytes(4)
    return place


def exif_of_tiff(tiff: Tiff, notes: list[str]) -> bytes:
    """The block of EXIF of a TIFF file's first picture; what to tell about it joins `notes`.

    Values are copied byte for byte, whatever their type. The maker's note keeps its place if that
    lies near the start of the file: its pointers may count from there.
    """
    whole, _ = tiff.directory(tiff.first)
    if LAYERS in whole:
        notes.append("left out: Photoshop's layers")
    found = tiff.below(whole, EXIF)
    first, exif, gps, interoperability = (
        {
            tag: entry._replace(place=None)
            for tag, entry in entries.items()
            if entry.type <= 12 and tag != INTEROPERABILITY
        }
        for entries in (whole, found, tiff.below(whole, GPS), tiff.below(found, INTEROPERABILITY))
    )
    first = {tag: entry for tag, entry in first.items() if tag not in STORAGE}
    if not (first or exif or gps):
        return b""
    version = struct.pack(tiff.order + "H", 42)
    block = bytearray({"<": b"II", ">": b"MM"}[tiff.order] + version + bytes(4))
    if note := exif.get(MAKER_NOTE):
        place = found[MAKER_NOTE].place
        if 8 <= place <= FARTHEST:
            block = block.ljust(place, b"\0") + note.data
            exif[MAKER_NOTE] = note._replace(place=place)
        elif note.count > 4:
            notes.append("the camera maker's note moves: what its pointers lead to may be lost")

    def added(entries: dict[int, Entry]) -> Entry:
        place = append_directory(block, tiff.order, entries)
        return Entry(LONG, 1, struct.pack(tiff.order + "I", place))

    if interoperability:
        exif[INTEROPERABILITY] = added(interoperability)
    first |= {tag: added(each) for tag, each in ((EXIF, exif), (GPS, gps)) if each}
    struct.pack_into(tiff.order + "I", block, 4, append_directory(block, tiff.order, first))
    return EXIF_HEADER + bytes(block)


def first_tags(exif: bytes) -> tuple[int, ...]:
    """The tags of the first directory of a block of EXIF."""
    tiff = Tiff(io.BytesIO(exif[len(EXIF_HEADER) :]))
    return tuple(tiff.directory(tiff.first)[0])


def orientation(exif: bytes, xmp: bytes) -> int:
    """How the pixels have to be turned to be upright, 1 to 8: what EXIF says, or else XMP."""
    if exif:
        tiff = Tiff(io.BytesIO(exif[len(EXIF_HEADER) :]))
        if numbers := tiff.numbers(tiff.directory(tiff.first)[0].get(ORIENTATION)):
            return numbers[0]
    told = re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp)
    return int(told[1]) if told else 1


def upright_exif(exif: bytes, orientation: int) -> bytes:
    """EXIF for pixels that were turned as `orientation` asks: the same bytes, but that the
    orientation is reset and, in a turned picture, width and height change places and the
    thumbnail, which is not turned, is no longer pointed to."""
    tiff, block = Tiff(io.BytesIO(exif[len(EXIF_HEADER) :])), bytearray(exif)
    first, end = tiff.directory(tiff.first)

    def put(entry: Entry, number: int) -> None:
        place = len(EXIF_HEADER) + entry.place
        data = number.to_bytes(TYPE_SIZES[entry.type], {"<": "little", ">": "big"}[tiff.order])
        block[place : place + len(data)] = data

    if ORIENTATION in first and tiff.numbers(first[ORIENTATION]) != (1,):
        put(first[ORIENTATION], 1)
    if orientation != 1:
        place = len(EXIF_HEADER) + end
        block[place : place + 4] = bytes(len(block[place : place + 4]))
    if orientation in (5, 6, 7, 8):
        for entries, sides in zip((first, tiff.below(first, EXIF)), SIDES, strict=True):
            width, height = (tiff.numbers(entries.get(side)) for side in sides)
            if width and height:
                put(entries[sides[0]], height[0])
                put(entries[sides[1]], width[0])
    return bytes(block)


def tiff_with_metadata(encoded: bytes, exif: bytes, xmp: bytes) -> list[bytes]:
    """The parts of a TIFF file: the block of EXIF as it is, the file `encoded` (of one picture in
    strips, for 16 bits in the byte order of the block), and a directory for both.

    The block comes first, so that everything in it that counts from its start remains true.
    """
    image, entries = Tiff(io.BytesIO(encoded)), {}
    block = bytearray(exif[len(EXIF_HEADER) :] or encoded[:8])
    own = Tiff(io.BytesIO(bytes(block)))
    if exif:
        described, _ = own.directory(own.first)
        entries = {
            tag: entry
            for tag, entry in described.items()
            if tag in (EXIF, GPS) or tag not in STORAGE
        }
    block += bytes(-len(block) % 16)
    pixels, _ = image.directory(image.first)
    offsets = [place + len(block) for place in image.numbers(pixels[STRIP_OFFSETS])]
    for tag, (kind, count, data, _) in pixels.items():
        if tag == STRIP_OFFSETS:
            kind, data = LONG, struct.pack(f"{image.order}{count}I", *offsets)
        if image.order != own.order:
            data = np.frombuffer(data, f"u{NUMBER_SIZES[kind]}").byteswap().tobytes()
        entries[tag] = Entry(kind, count, data)
    if xmp:
        entries[XMP_TAG] = Entry(1, len(xmp), xmp)
    directory = bytearray()
    base = len(block) + len(encoded)
    directory += bytes(base % 2)
    place = append_directory(directory, own.order, entries, base)
    struct.pack_into(own.order + "I", block, 4, place)
    return [bytes(block), encoded, bytes(directory)]


def exif_order(exif: bytes) -> str:
    """The byte order of a block of EXIF, "<" or ">"; "<" where there is none."""
    return ">" if exif[len(EXIF_HEADER) :].startswith(b"MM") else "<"


# ----------------------------------------------------------------------------------------------
# XMP
# ----------------------------------------------------------------------------------------------

XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
EXTENSION_HEADER = b"http://ns.adobe.com/xmp/extension/\0"
SEGMENT = 65_533  # bytes in one segment of a JPEG

EMPTY_PACKET = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-'
    b'rdf-syntax-ns#"></rdf:RDF></x:xmpmeta>'
)

# What a phone says about the parts that follow its picture -> namespace, names of properties.
MOTION_PHOTO = "the video of a motion photo"
EXTRAS = {
    MOTION_PHOTO: (
        b"http://ns.google.com/photos/1.0/camera/",
        rb"(?:MotionPhoto|MicroVideo)\w*",
    ),
    "the list of its parts": (b"http://ns.google.com/photos/1.0/container/", rb"\w+"),
    "an HDR gain map": (b"http://ns.adobe.com/hdr-gain-map/1.0/", rb"\w+"),
    "Apple's HDR gain map": (b"http://ns.apple.com/HDRGainMap/1.0/", rb"\w+"),
}


def upright_xmp(xmp: bytes, orientation: int) -> bytes:
    """XMP for pixels that were turned as `orientation` asks."""
    xmp = re.sub(rb'(tiff:Orientation(?:="|>))\d', rb"\g<1>1", xmp)
    if orientation in (5, 6, 7, 8):
        for width, height in (
            (b"tiff:ImageWidth", b"tiff:ImageLength"),
            (b"exif:PixelXDimension", b"exif:PixelYDimension"),
        ):
            found = [re.search(name + rb'(?:="|>)(\d+)', xmp) for name in (width, height)]
            if all(found):
                first, second = sorted(found, key=lambda match: match.start())
                xmp = b"".join(
                    (
                        xmp[: first.start(1)], second[1], xmp[first.end(1) : second.start(1)],
                        first[1], xmp[second.end(1) :],
                    )
                )  # fmt: skip
    return xmp


def without_extras(xmp: bytes) -> tuple[bytes, list[str]]:
    """XMP without the claims of `EXTRAS`, and the names of those that were there."""
    found = []
    for what, (namespace, names) in EXTRAS.items():
        prefix = re.search(rb"xmlns:([\w-]+)\s*=\s*[\"']" + re.escape(namespace), xmp)
        if not prefix:
            continue
        name = re.escape(prefix[1]) + b":" + names
        before = xmp
        xmp = re.sub(rb"\s*<(" + name + rb")\b(?:[^<>]*/>|.*?</\1\s*>)", b"", xmp, flags=re.DOTALL)
        xmp = re.sub(rb"\s+" + name + rb"\s*=\s*(?:\"[^\"]*\"|'[^']*')", b"", xmp)
        if xmp != before:
            found.append(what)
    return xmp, found


def _descriptions(xmp: bytes) -> list[tuple[int, int]]:
    """Where the outermost descriptions of a packet begin and end."""
    found, depth, start = [], 0, 0
    for tag in re.finditer(rb"<(/?)rdf:Description\b[^>]*?(/?)>", xmp):
        closing, empty = bool(tag[1]), bool(tag[2])
        if not depth and not closing:
            start = tag.start()
        depth += 0 if empty else -1 if closing else 1
        if not depth:
            found.append((start, tag.end()))
    return found


def _joined_xmp(packet: bytes, extension: bytes) -> bytes:
    """One packet with the properties of both."""
    packet = re.sub(
        rb'<rdf:Description rdf:about="" xmlns:xmpNote="[^"]*"\s*xmpNote:HasExtendedXMP="\w*"/>',
        b"",
        packet,
    )
    packet = re.sub(rb"\s*\w+:HasExtendedXMP\s*=\s*([\"']).*?\1", b"", packet)
    packet = re.sub(rb"<(\w+:HasExtendedXMP)\s*>.*?</\1\s*>", b"", packet, flags=re.DOTALL)
    inner = re.search(rb"<rdf:RDF\b([^>]*)>(.*)</rdf:RDF\s*>", extension, re.DOTALL)
    end, start = packet.rfind(b"</rdf:RDF"), re.search(rb"<rdf:RDF\b[^>]*", packet)
    if not inner or end < 0 or not start:
        raise ValueError("it is no XMP")
    declared = re.findall(rb"\sxmlns:[\w-]+\s*=\s*(?:\"[^\"]*\"|'[^']*')", inner[1])
    lacking = [each for each in declared if each.split(b"=")[0].strip() not in start[0]]
    opening = packet[: start.end()] + b"".join(lacking)
    return opening + packet[start.end() : end] + inner[2] + packet[end:]


def xmp_of_jpeg(segments: list[tuple[int, bytes]], notes: list[str]) -> bytes:
    """The XMP of a JPEG, its extension included; that a part is missing joins `notes`."""
    contents = [data for marker, data in segments if marker == 0xE1]
    packets = [data[len(XMP_HEADER) :] for data in contents if data.startswith(XMP_HEADER)]
    packet = packets[0] if packets else b""
    wanted = re.search(rb"HasExtendedXMP(?:\s*=\s*[\"']|>)\s*([0-9A-Fa-f]{32})", packet)
    if not wanted:
        return packet
    parts, total = {}, 0
    for data in contents:
        if data.startswith(EXTENSION_HEADER):
            guid, total, offset = struct.unpack(">32sII", data[len(EXTENSION_HEADER) :][:40])
            if guid.upper() == wanted[1].upper():
                parts[offset] = data[len(EXTENSION_HEADER) + 40 :]
    extension = b"".join(data for _, data in sorted(parts.items()))
    try:
        if not extension or len(extension) != total:
            raise ValueError("it is not complete")
        return _joined_xmp(packet, extension)
    except ValueError as error:
        notes.append(f"the extension of its XMP is left out ({error})")
        return _joined_xmp(packet, EMPTY_PACKET)


def xmp_segments(xmp: bytes) -> list[bytes]:
    """Contents of the APP1 segments that hold `xmp`: one, or a short packet and its extension, to
    which the longest descriptions move."""
    limit = SEGMENT - len(XMP_HEADER)
    if len(xmp) > limit:
        xmp = re.sub(rb"\s{64,}(<\?xpacket end)", rb"\n\1", xmp)  # room left for editors
    if len(xmp) <= limit:
        return [XMP_HEADER + xmp] if xmp else []
    moved, packet = [], xmp
    for start, end in sorted(_descriptions(xmp), key=lambda span: span[0] - span[1]):
        moved.append(xmp[start:end])
        packet = packet.replace(moved[-1], b"", 1)
        if len(packet) < limit - 500:
            break
    opening = re.search(rb"<rdf:RDF\b[^>]*>", packet)
    if opening and len(packet) < limit - 500:
        body = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">' + opening[0] + b"".join(moved)
        body += b"</rdf:RDF></x:xmpmeta>"
    else:  # not built as packets are: it moves whole
        packet, body = EMPTY_PACKET, xmp
        opening = re.search(rb"<rdf:RDF\b[^>]*>", packet)
    guid = hashlib.md5(body, usedforsecurity=False).hexdigest().upper().encode()
    link = b'<rdf:Description rdf:about="" xmlns:xmpNote="http://ns.adobe.com/xmp/note/"'
    link += b' xmpNote:HasExtendedXMP="' + guid + b'"/>'
    packet = packet.replace(opening[0], opening[0] + link, 1)
    step = 65_000
    return [XMP_HEADER + packet] + [
        EXTENSION_HEADER + guid + struct.pack(">II", len(body), at) + body[at : at + step]
        for at in range(0, len(body), step)
    ]


# ----------------------------------------------------------------------------------------------
# Colour profiles
# ----------------------------------------------------------------------------------------------

# Numbers of ITU-T H.273, in AVIF, PNG and video -> x and y of white, red, green and blue.
_D65 = (0.3127, 0.329)
SRGB_PRIMARIES = (*_D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
PRIMARIES = {
    1: SRGB_PRIMARIES, 2: SRGB_PRIMARIES,  # 2: not said
    4: (0.31, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.6, 0.15, 0.06),
    6: (*_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: (*_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    8: (0.31, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*_D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (*_D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    22: (*_D65, 0.63, 0.34, 0.295, 0.605, 0.155, 0.077),
}  # fmt: skip
# -> the parameters of ICC's curve: an exponent, or one with a straight start.
_BT709 = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
CURVES = {
    1: _BT709, 6: _BT709, 14: _BT709, 15: _BT709, 2: SRGB_CURVE, 13: SRGB_CURVE,
    4: (2.2,), 5: (2.8,), 8: (1.0,), 7: (1 / 0.45, 1 / 1.1115, 0.1115 / 1.1115, 1 / 4, 0.0912),
    17: (2.6,),
}  # fmt: skip
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}


class UnknownColours(SharpeningError):
    """Colours that no ICC profile here describes. The message says which and what to do."""


def cicp_profile(primaries: int, transfer: int, *, grey: bool = False) -> bytes:
    """An ICC profile of the colours that two numbers of ITU-T H.273 name; empty for sRGB.

    Raises `UnknownColours` for colours that no such profile describes, HDR among them.
    """
    if transfer in HDR_TRANSFERS:
        raise UnknownColours(
            f"an HDR picture ({HDR_TRANSFERS[transfer]}): tone-map it to SDR first"
        )
    if primaries not in PRIMARIES or transfer not in CURVES:
        numbers = f"primaries {primaries}, transfer {transfer} of ITU-T H.273"
        raise UnknownColours(f"its colours ({numbers}) are not known: convert it to sRGB first")
    return matrix_profile(PRIMARIES[primaries], CURVES[transfer], grey=grey)


def matrix_profile(
    primaries: tuple[float, ...], curve: tuple[float, ...], *, grey: bool = False
) -> bytes:
    """An ICC profile (version 4) from x and y of white, red, green and blue, and the parameters of
    a curve from stored numbers to light; empty for sRGB itself."""
    same_curve = np.shape(curve) == np.shape(SRGB_CURVE) and np.allclose(curve, SRGB_CURVE)
    if same_curve and (grey or np.allclose(primaries, SRGB_PRIMARIES, atol=0.002)):
        return b""
    tags = {b"desc": _icc_text("colours as told by the file"), b"cprt": _icc_text("none")}
    d50 = np.array([0.9642, 1, 0.8249])
    tags[b"wtpt"] = b"XYZ \0\0\0\0" + _fixed(d50)
    kind = {1: 0, 5: 3}[len(curve)]
    response = b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + _fixed(curve)
    if grey:
        tags[b"kTRC"] = response
    else:
        x, y = np.reshape(primaries, (4, 2)).T
        white, *colours = np.stack([x / y, np.ones(4), (1 - x - y) / y], axis=1)
        bradford = np.array(
            [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
        )
        cones = np.diag((bradford @ d50) / (bradford @ white))
        adapted = np.linalg.inv(bradford) @ cones @ bradford
        tags[b"chad"] = b"sf32\0\0\0\0" + _fixed(adapted.ravel())
        amounts = np.linalg.solve(np.transpose(colours), white)
        for name, column, amount in zip("rgb", colours, amounts, strict=True):
            tags[f"{name}XYZ".encode()] = b"XYZ \0\0\0\0" + _fixed(adapted @ column * amount)
            tags[f"{name}TRC".encode()] = response
    table, contents, places = b"", b"", {}
    for name, data in tags.items():
        if data not in places:
            places[data] = 132 + 12 * len(tags) + len(contents)
            contents += data + bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, places[data], len(data))
    body = struct.pack(">I", len(tags)) + table + contents
    space = b"GRAY" if grey else b"RGB "
    header = struct.pack(
        ">I4xI4s4s4s6H4s28x", 128 + len(body), 0x04300000, b"mntr", space, b"XYZ ",
        2026, 1, 1, 0, 0, 0, b"acsp",
    )  # fmt: skip
    return (header + _fixed(d50)).ljust(128, b"\0") + body


def _fixed(values: tuple[float, ...] | np.ndarray) -> bytes:
    """Numbers as ICC stores them, in steps of 1/65536."""
    return np.rint(np.asarray(values) * 65536).astype(">i4").tobytes()


def _icc_text(text: str) -> bytes:
    data = text.encode("utf-16-be")
    return b"mluc" + struct.pack(">IIIHHII", 0, 1, 12, 0x656E, 0x5553, len(data), 28) + data


# ----------------------------------------------------------------------------------------------
# JPEG segments
# ----------------------------------------------------------------------------------------------


class JpegParts(NamedTuple):
    """How a JPEG file is built."""

    segments: list[tuple[int, bytes]]
    """Marker (0xE1, ...) and content of the segments, in the order of the file."""
    end: int | None
    """Where the picture ends, past its end marker; None if that marker is missing."""


_NEXT_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")


def jpeg_parts(data: bytes) -> JpegParts:
    """The parts of a JPEG."""
    segments, position = [], 2
    while match := _NEXT_MARKER.search(data, position):
        marker, position = match[1][0], match.end()
        if marker == 0xD9:
            return JpegParts(segments, position)
        if marker in (0x01, 0xD8):
            continue
        (size,) = struct.unpack(">H", data[position : position + 2])
        segments.append((marker, data[position + 2 : position + size]))
        position += max(size, 2)
    return JpegParts(segments, None)


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def exif_segments(exif: bytes) -> list[bytes]:
    """Contents of the APP1 segments that hold a block of EXIF: one, or several that continue each
    other, as programs write it that keep long notes of cameras."""
    body, step = exif[len(EXIF_HEADER) :], SEGMENT - len(EXIF_HEADER)
    return [EXIF_HEADER + body[at : at + step] for at in range(0, len(body), step)]


# ----------------------------------------------------------------------------------------------
# PNG chunks, RIFF chunks
# ----------------------------------------------------------------------------------------------

LONGEST_TEXT = 1 << 26  # bytes of a profile or packet when unpacked
LASTING_CHUNKS = (
    b"gAMA", b"cHRM", b"sRGB", b"cICP", b"tEXt", b"zTXt", b"iTXt", b"tIME", b"sBIT", b"bKGD",
    b"oFFs", b"sCAL", b"sTER",
)  # fmt: skip


class Chunk(NamedTuple):
    """One part of a PNG."""

    name: bytes
    data: bytes
    """Empty for pixels."""
    place: int
    size: int
    """With its length, name and checksum."""
    sound: bool
    """It is there to its end, and its checksum is right."""


def read_png_chunks(file: BinaryIO) -> list[Chunk]:
    """The chunks of a PNG, read once from its first to its last byte."""
    chunks, place = [], 8
    while len(head := _at(file, place, 8)) == 8:
        size, name = struct.unpack(">I4s", head)
        checksum, left, parts = zlib.crc32(name), size, []
        while left and (part := file.read(min(left, 1 << 20))):
            checksum, left = zlib.crc32(part, checksum), left - len(part)
            parts += [] if name in (b"IDAT", b"fdAT") else [part]
        sound = file.read(4) == struct.pack(">I", checksum)
        chunks.append(Chunk(name, b"".join(parts), place, size + 12, sound))
        place += size + 12
        if name == b"IEND":
            break
    return chunks


def _at(file: BinaryIO, place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)


def png_chunks(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Chunks as a PNG holds them."""
    return b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def may_be_copied(name: bytes) -> bool:
    """Whether a chunk remains true when pixels change: the standard of PNG tells, or its name."""
    if name in LASTING_CHUNKS:
        return True
    return name[0:1].islower() and name[3:4].islower() and name not in (b"eXIf", b"pHYs")


def widened(chunk: Chunk, chunks: dict[bytes, bytes]) -> bytes:
    """The content of a chunk for pixels that were a palette, or had less than 8 bits."""
    depth, colours = chunks[b"IHDR"][8:10]
    if chunk.name != b"bKGD":
        return chunk.data
    if colours == 3 and len(chunk.data) == 1:
        return struct.pack(">3H", *chunks[b"PLTE"][3 * chunk.data[0] :][:3])
    if depth < 8 and len(chunk.data) == 2:
        return struct.pack(">H", chunk.data[1] * 255 // (2**depth - 1))
    return chunk.data


def _packed(chunk: Chunk) -> bytes:
    """The part of a text or profile that is compressed; empty if none is."""
    if chunk.name in (b"zTXt", b"iCCP"):
        return chunk.data.partition(b"\0")[2][1:]
    if chunk.name == b"iTXt" and chunk.data.partition(b"\0")[2][:1] == b"\1":
        return chunk.data.partition(b"\0")[2][2:].split(b"\0", 2)[-1]
    return b""


def _unpacked(data: bytes) -> bytes:
    inflate = zlib.decompressobj()
    text = inflate.decompress(data, LONGEST_TEXT)
    if not inflate.eof:
        raise ValueError(f"cut short, or larger than {LONGEST_TEXT} bytes")
    return text


def inflates_beyond(chunk: Chunk, limit: int) -> bool:
    """Whether a text or profile is longer than `limit` bytes, or damaged."""
    if chunk.name in (b"tEXt", b"iTXt", b"zTXt", b"iCCP") and len(chunk.data) > limit:
        return True
    if not (packed := _packed(chunk)):
        return False
    inflate = zlib.decompressobj()
    try:
        inflate.decompress(packed, limit)
    except zlib.error:
        return True
    return not inflate.eof


def png_text(chunk: Chunk) -> bytes:
    """The text of a tEXt, zTXt or iTXt."""
    if packed := _packed(chunk):
        return _unpacked(packed)
    text = chunk.data.partition(b"\0")[2]
    return text[2:].split(b"\0", 2)[-1] if chunk.name == b"iTXt" else text


def raw_profile(text: bytes) -> bytes:
    """The bytes that older programs hide in a text: its kind, its length, and digits."""
    return bytes.fromhex(b"".join(text.strip().split(b"\n")[2:]).decode())


def png_profile(content: bytes) -> bytes:
    """The ICC profile in an iCCP chunk."""
    return _unpacked(content.partition(b"\0")[2][1:]) if content else b""


def png_colours(chunks: dict[bytes, bytes], *, grey: bool) -> bytes:
    """An ICC profile of what other chunks than iCCP tell, as far as they overrule it; empty for
    sRGB, or where nothing is told. Raises `UnknownColours`, for HDR too."""
    if cicp := chunks.get(b"cICP"):
        return cicp_profile(*cicp[:2], grey=grey)
    if b"iCCP" in chunks or b"sRGB" in chunks:
        return b""
    primaries, curve = SRGB_PRIMARIES, SRGB_CURVE
    if len(data := chunks.get(b"cHRM", b"")) == 32 and all(struct.unpack(">8I", data)[1::2]):
        primaries = tuple(value / 100_000 for value in struct.unpack(">8I", data))
    if len(data := chunks.get(b"gAMA", b"")) == 4:
        (gamma,) = struct.unpack(">I", data)
        if gamma and abs(gamma - 45_455) > 455:  # about the curve of sRGB
            curve = (100_000 / gamma,)
    return matrix_profile(primaries, curve, grey=grey)


def is_lossless_webp(file: BinaryIO) -> bool:
    place = 12
    while len(head := _at(file, place, 8)) == 8:
        name, size = struct.unpack("<4sI", head)
        if name == b"VP8L":
            return True
        place += 8 + size + size % 2
    return False


# ----------------------------------------------------------------------------------------------
# Boxes of AVIF and JPEG 2000
# ----------------------------------------------------------------------------------------------

UUID_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
UUID_EXIF = b"JpgTiffExif->JP2"
JP2_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"


def boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, first and past-the-last byte of the content of each box between two places."""
    while start + 8 <= end:
        file.seek(start)
        size, name = struct.unpack(">I4s", file.read(8))
        content = start + 8
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8))
            content += 8
        size = size or end - start
        if content > start + size or start + size > end:
            return
        yield name, content, start + size
        start += size


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def box_contents(file: BinaryIO, path: tuple[bytes, ...], start: int, end: int) -> list[bytes]:
    """Contents of all boxes that lie where `path` leads, its outermost name first."""
    found = []
    for name, first, last in boxes(file, start, end):
        if name != path[0]:
            continue
        if len(path) > 1:
            first += 4 * (name == b"meta")  # which begins with its version
            found += box_contents(file, path[1:], first, last)
        else:
            file.seek(first)
            found.append(file.read(last - first))
    return found


def jp2_with_metadata(encoded: bytes, icc: bytes, exif: bytes, xmp: bytes) -> bytes:
    """A JPEG 2000 file with a colour profile in place of its colours' number, EXIF and XMP."""
    file, parts = io.BytesIO(encoded), []
    for name, first, last in boxes(file, 0, len(encoded)):
        content = encoded[first:last]
        if name == b"jp2h" and icc:
            inner = [
                (each, content[a:b]) for each, a, b in boxes(io.BytesIO(content), 0, last - first)
            ]
            kept = [box(each, data) for each, data in inner if each != b"colr"]
            content = b"".join(kept) + box(b"colr", b"\x02\0\0" + icc)
        if name == b"jp2c":
            parts += [box(b"uuid", UUID_EXIF + exif[len(EXIF_HEADER) :])] if exif else []
            parts += [box(b"uuid", UUID_XMP + xmp)] if xmp else []
        parts.append(box(name, content))
    return b"".join(parts)


def jp2_profile(colours: list[bytes]) -> bytes:
    """An ICC profile from the contents of a JPEG 2000's colour boxes; empty for sRGB and grey.

    Raises `UnknownColours` where there are only kinds that are not known here."""
    for content in colours:
        if content[0] in (2, 3):
            return content[3:]
        if content[0] == 5:
            return cicp_profile(*struct.unpack(">HH", content[3:7]))
    numbers = [struct.unpack(">I", content[3:7])[0] for content in colours if content[0] == 1]
    if numbers and not {0, 12, 15, 16, 17, 18} & set(numbers):
        raise UnknownColours(f"JPEG 2000 of colour space {numbers[0]}: convert it to sRGB first")
    return b""
