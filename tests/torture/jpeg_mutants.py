"""JPEGs of many kinds, drawn here, and what may become of their bytes."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from functools import cache

import numpy as np
import simplejpeg
from PIL import Image

SIDE = 64
EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0%b\0\0\0\0\0\0"
XMP = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="%d"/>'
ADOBE = b"Adobe\0\x64\0\0\0\0"
ICC = b"ICC_PROFILE\0"

# Coded arithmetically, as nothing here can do it: by cjpeg of libjpeg-turbo 2.1.5.
_ARITHMETIC = (
    "|JeWF01!$>Nk#wx0RR9200961|JwjV01XKW3knDg3knMk4h;_zAQcl55)&sJ9v2`kDKRiEDJ?8BI!Zn"
    ">HbyrrEkIX6ModmpQ&KWMT47pHU`kO^PygEhLjevB4iga*CKVMXPc<zyPft%zPft%zPft%zPft%zPft"
    "%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPf!2J01*fPKmb4k0U`hb5di}c0sqVZ3IGrg1pyEd1^"
    "?Or3<CiG0ucid06zf#0J5&yU;D1S%ARoHN|722Ne@x5N4DOREE2Q8!if<#RYEp|DsQ3;5VM4@u|f!7D"
    "o1n#TAL~^6kAAHK3FDmY0EOv**m8dDTgJ7gMlwynwJf9L$i6ufv<SKxq!W=@ZxfQ(uw2yU8ggElUEYO"
    "+qFs=h<(Yas<((@SKpI7->zix*%MMkknz2=U%UeA>DXt0_P`#q(Z@0d^KfSTMZwV{@)FxDVYTROMp{>"
    "SKQZtN?6ZX^6r~eu(X?G9^_b&-26+`Yk4izHR<QVnov!3S|Je"
)

Mutation = Callable[[np.random.Generator, bytes], bytes]


def picture(seed: int = 0, side: int = SIDE) -> Image.Image:
    """Smooth, and with no symmetry, so that a turn shows."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


def exif(orientation: int) -> bytes:
    """An EXIF segment with nothing but an orientation."""
    return segment(0xE1, EXIF % orientation.to_bytes(2, "little"))


def insert(jpeg: bytes, piece: bytes, place: int = 2) -> bytes:
    return jpeg[:place] + piece + jpeg[place:]


def parts(jpeg: bytes) -> list[bytes]:
    """The segments of a header; the last holds all from the first scan on."""
    found, place = [], 2
    while place + 4 <= len(jpeg) and jpeg[place + 1] != 0xDA:
        end = place + 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
        found.append(jpeg[place:end])
        place = end
    return [*found, jpeg[place:]]


def joined(segments: list[bytes]) -> bytes:
    return b"\xff\xd8" + b"".join(segments)


def with_byte(jpeg: bytes, place: int, value: int) -> bytes:
    return jpeg[:place] + bytes([value]) + jpeg[place + 1 :]


def frame(jpeg: bytes) -> int:
    """Where the frame's segment begins, or the bytes do."""
    found = re.search(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]\0", jpeg)
    return found.start() if found else 0


def arithmetic() -> bytes:
    return base64.b85decode(_ARITHMETIC)


def of_other_names(jpeg: bytes, names: bytes) -> bytes:
    """A colour JPEG without JFIF segment whose components have other names."""
    bare = jpeg[:2] + jpeg[20:]
    for place, name in enumerate(names):
        bare = with_byte(bare, frame(bare) + 10 + 3 * place, name)
        bare = with_byte(bare, bare.index(b"\xff\xda") + 5 + 2 * place, name)
    return bare


def bomb(side: int, scans: int) -> bytes:
    """A progressive JPEG with a scan that comes again and again: 10 bytes and more."""
    black = Image.fromarray(np.zeros((side, side), np.uint8))
    jpeg = encoded(black, progressive=True)
    begins = [found.start() for found in re.finditer(rb"\xff\xda", jpeg)]
    # The end of scan 1, which tables may follow before scan 2 begins.
    end = re.compile(rb"\xff[\xc4\xda]").search(jpeg, begins[1] + 8)
    assert end is not None
    return (
        jpeg[: end.start()]
        + jpeg[begins[1] : end.start()] * scans
        + jpeg[end.start() :]
    )


@cache
def kinds() -> dict[str, bytes]:
    """Whole JPEGs, each of another kind."""
    image, pixels = picture(), np.asarray(picture(1))
    plain = encoded(image, quality=80)
    made = {
        "baseline": plain,
        "noisy": simplejpeg.encode_jpeg(
            np.random.default_rng(2).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        ),
        "progressive": encoded(image, progressive=True, quality=90),
        "gray": encoded(image.convert("L")),
        "gray-progressive": encoded(image.convert("L"), progressive=True),
        "restarts": encoded(image, restart_marker_blocks=3),
        "cmyk": encoded(image.convert("CMYK")),
        "rgb": encoded(image, keep_rgb=True),
        "icc": encoded(image, icc_profile=bytes(range(256)) * 2),
        "comment": insert(plain, segment(0xFE, b"a comment")),
        "adobe": insert(plain[:2] + plain[20:], segment(0xEE, ADOBE + b"\1")),
        "photoshop": insert(plain, segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x04\4")),
        "xmp-turned": insert(plain, segment(0xE1, XMP % 6)),
        "two-exifs": insert(plain, exif(1) + exif(8)),
        "exif-and-xmp": insert(plain, exif(3) + segment(0xE1, XMP % 6)),
        "names-012": of_other_names(plain, b"\0\1\2"),
        "names-rgb": of_other_names(plain, b"RGB"),
        "arithmetic": arithmetic(),
    }
    for orientation in (0, 1, 3, 6, 9):
        made[f"exif-{orientation}"] = insert(plain, exif(orientation))
    for chroma in ("444", "422", "440", "411"):
        made[chroma] = simplejpeg.encode_jpeg(pixels, 85, colorsubsampling=chroma)
    several = io.BytesIO()
    image.save(several, "MPO", save_all=True, append_images=[picture(3)])
    made["several"] = several.getvalue()
    return made


# ------------------------------------------------------------------------- mutations


def flip_bits(rng: np.random.Generator, jpeg: bytes) -> bytes:
    changed = bytearray(jpeg)
    for _ in range(rng.integers(1, 5)):
        changed[rng.integers(2, len(jpeg))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def change_header(rng: np.random.Generator, jpeg: bytes) -> bytes:
    """A byte of the header, which is short beside the rest."""
    end = max(jpeg.find(b"\xff\xda") + 14, 20)
    return with_byte(jpeg, int(rng.integers(2, end)), int(rng.integers(256)))


def cut(rng: np.random.Generator, jpeg: bytes) -> bytes:
    return jpeg[: rng.integers(2, len(jpeg))]


def cut_out(rng: np.random.Generator, jpeg: bytes) -> bytes:
    place = int(rng.integers(2, len(jpeg)))
    return jpeg[:place] + jpeg[place + int(rng.integers(1, 40)) :]


def zero(rng: np.random.Generator, jpeg: bytes) -> bytes:
    place, size = int(rng.integers(2, len(jpeg))), int(rng.integers(1, 30))
    return (jpeg[:place] + bytes(size) + jpeg[place + size :])[: len(jpeg)]


def splice(rng: np.random.Generator, jpeg: bytes) -> bytes:
    other = pick(rng)
    return jpeg[: rng.integers(2, len(jpeg))] + other[rng.integers(2, len(other)) :]


def mix_headers(rng: np.random.Generator, jpeg: bytes) -> bytes:
    """Segments of another kind before one's own."""
    return joined(parts(pick(rng))[:-1] + parts(jpeg))


def lie_about_a_length(rng: np.random.Generator, jpeg: bytes) -> bytes:
    found = parts(jpeg)
    place = int(rng.integers(len(found)))
    length = int(rng.choice([0, 1, 2, 3, 65_535, rng.integers(65_536)]))
    found[place] = found[place][:2] + length.to_bytes(2, "big") + found[place][4:]
    return joined(found)


def lie_about_the_size(rng: np.random.Generator, jpeg: bytes) -> bytes:
    place = frame(jpeg) + 5 + int(rng.integers(4))
    return with_byte(jpeg, place, int(rng.choice([0, 1, 63, 65, 72, 255])))


def change_the_frame(rng: np.random.Generator, jpeg: bytes) -> bytes:
    """Its coding, precision, number of components, their names or sampling."""
    place = frame(jpeg)
    kind = int(rng.integers(5))
    if kind == 0:
        return with_byte(jpeg, place + 1, int(rng.integers(0xC0, 0xD0)))
    if kind == 1:
        return with_byte(jpeg, place + 4, int(rng.choice([0, 2, 7, 12, 16])))
    if kind == 2:
        return with_byte(jpeg, place + 9, int(rng.integers(6)))
    offset = 10 if kind == 3 else 11
    place += offset + 3 * int(rng.integers(3))
    return with_byte(jpeg, place, int(rng.choice([0, 1, 0x12, 0x22, 0x41, 0x44, 82])))


def insert_a_marker(rng: np.random.Generator, jpeg: bytes) -> bytes:
    """A filler, TEM, RST, SOI, EOI or rubbish, between any two segments."""
    found = parts(jpeg)
    pieces = [b"\xff", b"\xff" * int(rng.integers(2, 90)), b"\xff\x01", b"\xff\xd8"]
    pieces += [b"\xff\xd9", b"\xff\xd0", b"\xff\xd7", rng.bytes(3), b"\0", b"\xff\0"]
    place = int(rng.choice([0, rng.integers(len(found))]))
    found.insert(place, pieces[rng.integers(len(pieces))])
    return joined(found)


def drop_a_segment(rng: np.random.Generator, jpeg: bytes) -> bytes:
    found = parts(jpeg)
    del found[rng.integers(len(found))]
    return joined(found)


def repeat_a_segment(rng: np.random.Generator, jpeg: bytes) -> bytes:
    found = parts(jpeg)
    place = int(rng.integers(max(len(found) - 1, 1)))
    found.insert(int(rng.integers(len(found))), found[place])
    return joined(found)


def reorder(rng: np.random.Generator, jpeg: bytes) -> bytes:
    *header, rest = parts(jpeg)
    rng.shuffle(header)  # type: ignore[arg-type]
    return joined([*header, rest])


def change_metadata(rng: np.random.Generator, jpeg: bytes) -> bytes:
    """EXIF, XMP, a profile, Adobe's or any other, odd or cut short."""
    turned = int(rng.choice([0, 1, 2, 6, 8, 9, 255]))
    bodies = [
        (0xE1, EXIF % turned.to_bytes(2, "little")),
        (0xE1, b"EXIF" + (EXIF % turned.to_bytes(2, "little"))[4:]),
        (0xE1, XMP % (turned % 10)),
        (0xE2, ICC + bytes([1, int(rng.integers(3))]) + rng.bytes(20)),
        (0xE2, b"MPF\0II*\0\x08\0\0\0" + rng.bytes(int(rng.integers(60)))),
        (0xEE, ADOBE + bytes([int(rng.integers(4))])),
        (0xED, b"Photoshop 3.0\x008BIM" + rng.bytes(int(rng.integers(30)))),
        (0xE0, b"JFIF\0\1\1" + rng.bytes(int(rng.integers(10)))),
        (int(rng.integers(0xE0, 0xFF)), rng.bytes(int(rng.integers(40)))),
    ]
    marker, body = bodies[rng.integers(len(bodies))]
    kind = int(rng.integers(3))
    if kind == 0:
        body = body[: rng.integers(len(body) + 1)]
    elif kind == 1 and body:
        body = with_byte(body, int(rng.integers(len(body))), int(rng.integers(256)))
    found = parts(jpeg)
    found.insert(int(rng.integers(len(found))), segment(marker, body))
    return joined(found)


def repeat_scans(rng: np.random.Generator, jpeg: bytes) -> bytes:
    places = [found.start() for found in re.finditer(rb"\xff\xda", jpeg)]
    if not places:
        return jpeg
    begin = int(rng.choice(places))
    end = next((place for place in places if place > begin), len(jpeg) - 2)
    times = int(rng.choice([1, 2, 40, 400]))
    return jpeg[:end] + jpeg[begin:end] * times + jpeg[end:]


def change_a_scan(rng: np.random.Generator, jpeg: bytes) -> bytes:
    """A byte of any scan's header."""
    places = [found.start() for found in re.finditer(rb"\xff\xda", jpeg)] or [0]
    place = int(rng.choice(places)) + int(rng.integers(4, 14))
    return with_byte(jpeg, min(place, len(jpeg) - 1), int(rng.integers(64)))


def change_restarts(rng: np.random.Generator, jpeg: bytes) -> bytes:
    found = parts(jpeg)
    interval = int(rng.choice([0, 1, 2, 7, 65_535]))
    found.insert(len(found) - 1, segment(0xDD, interval.to_bytes(2, "big")))
    return joined(found)


def append(rng: np.random.Generator, jpeg: bytes) -> bytes:
    return jpeg + rng.choice([b"\xff\xd9", b"\0" * 100, pick(rng), rng.bytes(50)])


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    change_header,
    cut,
    cut_out,
    zero,
    splice,
    mix_headers,
    lie_about_a_length,
    lie_about_the_size,
    change_the_frame,
    insert_a_marker,
    drop_a_segment,
    repeat_a_segment,
    reorder,
    change_metadata,
    repeat_scans,
    change_a_scan,
    change_restarts,
    append,
)


def pick(rng: np.random.Generator) -> bytes:
    """A JPEG of any kind."""
    whole = list(kinds().values())
    return whole[rng.integers(len(whole))]


def mutant(rng: np.random.Generator) -> bytes:
    """A JPEG of any kind after one mutation, or two."""
    jpeg = pick(rng)
    for _ in range(1 + (rng.random() < 0.2)):
        if len(jpeg) > 40:
            jpeg = MUTATIONS[rng.integers(len(MUTATIONS))](rng, jpeg)
    return jpeg
