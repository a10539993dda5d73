"""How rows become bytes: a layout (JSON lines) and a compression (none, gzip, zstd) around it.

`Stream` is what a sink of files or objects writes through. The same rows give the same bytes, however they were
batched: a repeat can be told from another content by size and checksum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sinks.formats import compression, json_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_LAYOUTS: Mapping[str, tuple[Callable[[Sequence[bytes]], bytes], str]] = {
    "json": (json_lines.encode, json_lines.EXTENSION),
}


@dataclass(frozen=True, slots=True)
class Format:
    """A layout and a compression by the API's words. Raises ValueError when one of them is unknown."""

    kind: str = "json"
    compression: str = "none"

    def __post_init__(self) -> None:
        if self.kind not in _LAYOUTS:
            raise ValueError(f"format.kind {self.kind!r} is not available; choose one of {', '.join(sorted(_LAYOUTS))}")
        if self.compression not in compression.SUFFIXES:
            known = ", ".join(compression.SUFFIXES)
            raise ValueError(f"format.compression {self.compression!r} is not available; choose one of {known}")

    @property
    def extension(self) -> str:
        """With the dot in front: `.jsonl`, `.jsonl.gz`, `.jsonl.zst`."""
        return _LAYOUTS[self.kind][1] + compression.SUFFIXES[self.compression]

    def stream(self) -> Stream:
        """A new stream: one gzip member or one zstd frame, from its first byte to its last."""
        return Stream(self)


class Stream:
    """Turns rows into the bytes of one file. For one thread at a time; heavy work leaves Python's lock free."""

    def __init__(self, form: Format) -> None:
        self.form = form
        self._encode = _LAYOUTS[form.kind][0]
        self._compressor = compression.compressor(form.compression)

    def encode(self, values: Sequence[bytes]) -> bytes:
        """The bytes that are ready after these rows; may be empty. Raises ValueError for a row that is not one
        record of the layout."""
        return self._compressor.compress(self._encode(values))

    def end(self) -> bytes:
        """The last bytes. Nothing may be encoded after it."""
        return self._compressor.flush()


def available() -> dict[str, tuple[str, ...]]:
    """Each kind of format with the compressions it can have, as the API lists them."""
    return {kind: tuple(compression.SUFFIXES) for kind in _LAYOUTS}
