"""Why an image can't be decoded: plain words, the same whichever decoder fails."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from loaders import LoaderConfig, make_loader
from loaders._pil import decode_with_pillow
from loaders.decode import Decoder, describe_failure
from loaders.errors import SampleError

SHAPE = (48, 40)


def encoded(kind: str = "JPEG", mode: str = "RGB") -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(stream, kind)
    return stream.getvalue()


WHOLE = encoded()
HEADER = WHOLE.index(b"\xff\xda")  # its end


def with_pillow(content: bytes) -> None:
    decode_with_pillow(content, (False, False), SHAPE)


def with_turbo(content: bytes) -> None:
    Decoder()(content, np.empty((*SHAPE, 3), np.uint8))


def reason(decode: Callable[[bytes], None], content: bytes) -> str | None:
    """What is said of a failure; None where the decoder takes it."""
    try:
        decode(content)
    except (ValueError, OSError, SyntaxError) as error:
        return describe_failure(error, content)
    return None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (bytes(range(200)), "it is no JPEG"),
        (encoded("GIF")[:40], "it is no JPEG"),
        (WHOLE[:2], "its JPEG header can't be read"),
        (WHOLE[:300], "its JPEG header can't be read"),
        (WHOLE[: len(WHOLE) // 2], "Premature end of JPEG file"),
        (encoded(mode="CMYK")[:-2000], "Premature end of JPEG file"),
    ],
)
@pytest.mark.parametrize("decode", [with_pillow, with_turbo])
def test_reason_is_plain_and_the_same(
    decode: Callable[[bytes], None], content: bytes, words: str
) -> None:
    assert reason(decode, content) == words


def test_marker_is_named_without_its_prefix() -> None:
    """Pillow takes it; libjpeg-turbo's text would be taken for an address."""
    spoilt = WHOLE[:800] + bytes(200) + WHOLE[1000:]
    text = reason(with_turbo, spoilt)
    assert text is not None
    assert text.startswith("Corrupt JPEG data: ")
    assert text.endswith(" extraneous bytes before marker d9")


@settings(max_examples=80, deadline=None)
@given(rubbish=st.binary(max_size=300), place=st.integers(HEADER, len(WHOLE)))
@example(rubbish=b"\xff\xc0\x00\x11\x0c", place=WHOLE.index(b"\xff\xc0"))
def test_no_reason_holds_an_address(rubbish: bytes, place: int) -> None:
    """What only Pillow fails on, too, such as a precision that it lacks."""
    spoilt = WHOLE[:place] + rubbish + WHOLE[place + len(rubbish) :]
    for content in (rubbish, WHOLE[:2] + rubbish, WHOLE[:place], spoilt):
        said = [reason(decode, content) for decode in (with_pillow, with_turbo)]
        assert not any("0x" in text for text in said if text)
        assert "" not in said
        if None not in said:
            assert said[0] == said[1]


def test_what_pillow_alone_does_not_know_is_said_without_an_address() -> None:
    with pytest.raises(OSError, match="BytesIO") as caught:
        Image.open(io.BytesIO(b"rubbish"))
    for content in (WHOLE, encoded(mode="CMYK")):
        assert describe_failure(caught.value, content) == "Pillow can't read it"


def test_size_that_cannot_be_meant_is_a_reason_and_no_bug(
    monkeypatch: pytest.MonkeyPatch, shards: Path
) -> None:
    """Pillow's error for it is none of the usual kinds."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    config = LoaderConfig(workers=0)
    with (
        make_loader("pil", shards, "train", config) as loader,
        pytest.raises(SampleError, match="exceeds limit"),
    ):
        next(loader.epoch(0))
