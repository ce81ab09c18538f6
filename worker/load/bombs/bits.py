"""Files put together bit by bit."""

from __future__ import annotations


class Bits:
    """Bits in the order of GIF and WEBP: the lowest first."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def put(self, value: int, count: int) -> Bits:
        self._parts.append(format(value, f"0{count}b")[::-1])
        return self

    def repeat(self, other: Bits, times: int) -> Bits:
        self._parts.append("".join(other._parts) * times)
        return self

    def __bytes__(self) -> bytes:
        bits = "".join(self._parts)
        return int(bits[::-1], 2).to_bytes(-(-len(bits) // 8), "little")
