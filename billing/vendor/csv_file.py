"""A CSV file from outside, record by record, within limits and with line numbers."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from django.utils.translation import gettext as _

from portal.common.errors import InvalidInput


@dataclass(frozen=True)
class Limits:
    """How much of a file is read before it is refused."""

    bytes: int = 8 * 2**30
    rows: int = 10_000_000
    columns: int = 500
    line_bytes: int = 2**20
    field_chars: int = 32_768
    errors: int = 20  # reported; reading stops there


LIMITS = Limits()


@dataclass(frozen=True)
class LineError:
    """What is wrong, where; the header is line 1, and line 0 is the file as a whole."""

    line: int
    column: str
    message: str

    def __str__(self) -> str:
        where = _("Line %(line)d") % {"line": self.line} if self.line else _("File")
        return f"{where}, {self.column}: {self.message}" if self.column else f"{where}: {self.message}"


class BadBillFile(InvalidInput):
    """The file cannot be used; ``errors`` says line by line why, and nothing was stored."""

    code = "bad-bill-file"

    def __init__(self, errors: list[LineError]) -> None:
        super().__init__(
            "\n".join(str(error) for error in errors),
            field="file",
            errors=[
                {"line": error.line, "column": error.column, "message": error.message} for error in errors
            ],
        )
        self.errors = errors


def refuse(line: int, message: str, column: str = "") -> BadBillFile:
    """Return the error of a file that is wrong in one place."""
    return BadBillFile([LineError(line, column, message)])


class CsvFile:
    """The records of a CSV file in UTF-8; every pass over it starts at the top.

    Raises :class:`BadBillFile` as soon as the file is no such thing, or beyond a limit.
    """

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        self.limits = limits
        self._file = file
        self._line = 0

    def lines(self) -> Iterator[str]:
        """Yield the decoded lines with their line ends."""
        limits = self.limits
        size = 0
        self._line = 0
        self._file.seek(0)
        while line := self._file.readline(limits.line_bytes + 1):
            self._line += 1
            size += len(line)
            if len(line) > limits.line_bytes:
                text = _("The line is longer than %(limit)d bytes; is this a CSV file?")
                raise refuse(self._line, text % {"limit": limits.line_bytes})
            if size > limits.bytes:
                raise refuse(0, _("The file is larger than %(limit)d bytes.") % {"limit": limits.bytes})
            if self._line == 1:
                line = _without_mark(line)
            if b"\0" in line:
                raise refuse(self._line, _("The line holds a NUL byte."))
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError:
                raise refuse(self._line, _("The line is not UTF-8 text.")) from None

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield each record that is not blank, with the number of the line that it starts on."""
        rows = csv.reader(self.lines(), strict=True)
        while True:
            start = self._line + 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                raise refuse(start, _("The line is not CSV (%(why)s).") % {"why": error}) from None
            if row:
                yield start, row

    def records(self) -> Iterator[tuple[int, str]]:
        """Yield the same records letter for letter, without their line ends, but the header."""
        text: list[str] = []

        def remembered() -> Iterator[str]:
            for line in self.lines():
                text.append(line)
                yield line

        start = 1
        for row in csv.reader(remembered(), strict=True):
            if row and start > 1:
                yield start, (text[0] if len(text) == 1 else "".join(text)).rstrip("\r\n")
            text.clear()
            start = self._line + 1


def _without_mark(line: bytes) -> bytes:
    """Return the first line without its byte order mark, or say what the file is instead of text."""
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise refuse(1, _("The file is UTF-16; save it as UTF-8."))
    if line.startswith((b"\x1f\x8b", b"PK\x03\x04", b"PAR1")):
        raise refuse(1, _("The file is compressed or Parquet; give the CSV itself."))
    return line.removeprefix(b"\xef\xbb\xbf")
