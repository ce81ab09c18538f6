"""Writes ICC profiles (specification ICC.1:2010), for colours that a file gives in numbers."""

from __future__ import annotations

import struct

_Vector = tuple[float, float, float]
_Matrix = tuple[_Vector, _Vector, _Vector]

#: X, Y, Z of the white to which profiles refer (ICC.1:2010, 7.2.16).
_D50: _Vector = (0.9642, 1.0, 0.8249)
# Bradford's matrix from X, Y, Z to the responses of the eye's three cones (ICC.1:2010, annex E).
_BRADFORD: _Matrix = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))


def matrix_profile(chromaticities: tuple[float, ...], parameters: tuple[float, ...], *, version: int = 4) -> bytes:
    """A display's profile of primaries and one curve (ICC.1:2010: header 7.2, tags 7.3, matrix-based 8.4.3).

    Args:
        chromaticities: x and y of white, red, green and blue (CIE 1931).
        parameters: g, a, b, c, d of the three channels' curve.
        version: Major version of the ICC's specification, 2 or 4.

    Raises:
        ValueError: the primaries span no colours.
        ArithmeticError, struct.error: a profile cannot hold the numbers.
    """
    red, green, blue = _colorants(chromaticities)
    tags = {
        b"desc": _text("as the image says"),
        b"cprt": _text("none"),
        b"wtpt": _xyz(_D50),
        b"rXYZ": _xyz(red),
        b"gXYZ": _xyz(green),
        b"bXYZ": _xyz(blue),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(*parameters)),
    }
    return make_profile(b"RGB ", tags, version=version)


def make_profile(space: bytes, tags: dict[bytes, bytes], *, pcs: bytes = b"XYZ ", version: int = 4) -> bytes:
    """A profile of `tags` for samples of `space`, with its header (ICC.1:2010, 7.2 and 7.3)."""
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    header = struct.pack(">I4xI4s4s4s12x4s28x", start + len(data), version << 24, b"mntr", space, pcs, b"acsp")
    header += _fixed(_D50)
    return header.ljust(128, b"\0") + table + data


def curve(*parameters: float) -> bytes:
    """A tag with a parametric curve of type 3: `parameters` are g, a, b, c and d (ICC.1:2010, 10.16)."""
    return b"para\0\0\0\0\0\3\0\0" + _fixed(parameters)


def _text(text: str) -> bytes:
    data = text.encode("utf-16-be")
    return b"mluc" + struct.pack(">4xII4sII", 1, 12, b"enUS", len(data), 28) + data


def _xyz(vector: _Vector) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(vector)


def _fixed(numbers: tuple[float, ...]) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def _colorants(chromaticities: tuple[float, ...]) -> list[_Vector]:
    """X, Y, Z of full red, green and blue, adapted to D50 (ICC.1:2010, annex E)."""
    (white_x, white_y), *primaries = zip(chromaticities[::2], chromaticities[1::2], strict=True)
    white = (white_x / white_y, 1.0, (1 - white_x - white_y) / white_y)
    red, green, blue = ((x, y, 1 - x - y) for x, y in primaries)
    to_light = _inverse(tuple(zip(red, green, blue, strict=True)))  # type: ignore[arg-type]  # three of three
    from_cones = _inverse(_BRADFORD)
    here, there = _times(_BRADFORD, white), _times(_BRADFORD, _D50)
    colorants = []
    for column, light in zip((red, green, blue), _times(to_light, white), strict=True):
        cones = _times(_BRADFORD, (column[0] * light, column[1] * light, column[2] * light))
        x, y, z = (cone * b / a for cone, a, b in zip(cones, here, there, strict=True))
        colorants.append(_times(from_cones, (x, y, z)))
    return colorants


def _times(matrix: _Matrix, vector: _Vector) -> _Vector:
    x, y, z = (sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)
    return x, y, z


def _inverse(matrix: _Matrix) -> _Matrix:
    (a, b, c), (d, e, f), (g, h, i) = matrix
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    if abs(determinant) < 1e-9:
        raise ValueError("primaries that span no colours")
    rows = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    x, y, z = ((row[0] / determinant, row[1] / determinant, row[2] / determinant) for row in rows)
    return x, y, z
