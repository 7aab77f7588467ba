"""The picture of the canaries and of the request that `run` prints."""

from __future__ import annotations

import struct
import zlib

import pytest

from llm_supervisor.engines import canary


def pixels(png: bytes) -> list[list[tuple[int, ...]]]:
    """The rows of an RGB picture that uses the filters Sub and Up."""
    width, height = struct.unpack(">II", png[16:24])
    at = png.index(b"IDAT")
    data = zlib.decompress(png[at + 4 : at + 4 + struct.unpack(">I", png[at - 4 : at])[0]])
    rows: list[bytearray] = []
    for number in range(height):
        kind, *row = data[number * (3 * width + 1) : (number + 1) * (3 * width + 1)]
        for at, value in enumerate(row):
            before = {1: row[at - 3] if at >= 3 else 0, 2: rows[-1][at] if rows else 0}[kind]
            row[at] = (value + before) % 256
        rows.append(bytearray(row))
    return [[tuple(row[3 * x : 3 * x + 3]) for x in range(width)] for row in rows]


@pytest.mark.parametrize(("width", "height", "blue"), [(56, 56, 96), (56, 56, 255), (112, 56, 0)])
def test_red_goes_to_the_right_and_green_downwards(width: int, height: int, blue: int) -> None:
    found = pixels(canary.png(width, height, blue))
    assert [len(found), len(found[0])] == [height, width]
    assert found[0][0] == (0, 0, blue)
    assert found[0][-1] == (255 // width * (width - 1), 0, blue)
    assert found[-1][-1] == (255 // width * (width - 1), 255 // height * (height - 1), blue)


def test_it_is_small_enough_to_be_read_and_pasted() -> None:
    assert len(canary.png()) < 200
