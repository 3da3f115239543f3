"""A part of a file as a file, which never reads much at once.

What a header says about lengths is not to be believed: a read that asks for more than
headers ever take is refused before anything is allocated.
"""

from __future__ import annotations

import io
import os
from typing import Any, Protocol

MAX_READ = 16 << 20  # the headers of a model with ten thousand tensors take 2 MB


class Damaged(Exception):
    """The bytes are not what they should be; the message says what they are instead."""


class Seekable(Protocol):
    """A binary file, as far as it is needed here."""

    def seek(self, offset: int, /) -> int:
        """Go to a place, in bytes from the start."""
        ...

    def read(self, size: int, /) -> bytes | None:
        """Up to so many bytes."""
        ...


class Extent(io.RawIOBase):
    """``size`` bytes of ``file`` from ``start`` on, to be read and sought in."""

    def __init__(self, file: Seekable, start: int, size: int) -> None:
        """Does not own ``file``: it stays open."""
        self._file = file
        self._start = start
        self._at = 0
        self.size = size

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always; within a gzip only forward is cheap."""
        return True

    def tell(self) -> int:
        """Bytes from the start of this part."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move as ``io.IOBase.seek`` does; reads nothing."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        if origin + offset < 0:
            raise OSError("cannot seek to before the start")
        self._at = origin + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Up to ``size`` bytes; all that are left, by default.

        Raises:
            Damaged: That would be more than ``MAX_READ``.
        """
        left = max(0, self.size - self._at)
        size = left if size is None or size < 0 else min(size, left)
        if size > MAX_READ:
            raise Damaged(f"a header claims to be {size} bytes long")
        self._file.seek(self._start + self._at)
        data = self._file.read(size) or b""
        self._at += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """As ``read``, into a buffer."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def exactly(self, size: int) -> bytes:
        """``size`` bytes.

        Raises:
            Damaged: The file ends before.
        """
        data = self.read(size)
        if len(data) < size:
            raise Damaged("it is cut off")
        return data

    def peek(self, size: int) -> bytes:
        """The next bytes, which stay unread."""
        at = self._at
        data = self.read(size)
        self._at = at
        return data
