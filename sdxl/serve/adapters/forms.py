"""Multipart forms: fields and files of one request, each at most once unless it is a list."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.requests import Request as HttpRequest

from sdxl.errors import InputError

__all__ = ["Form", "read_form"]

MOST_FILES, MOST_FIELDS = 16, 64
MOST_FIELD = 1_000_000  # bytes of a field that is no file


@dataclass(frozen=True)
class Form:
    """The texts and the files of a form."""

    texts: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, list[bytes]] = field(default_factory=dict)

    def file(self, name: str) -> bytes | None:
        """The file of that name; None where the form has none."""
        found = self.files.get(name, [])
        if len(found) > 1:
            raise InputError(f"{name}: got {len(found)} files, expected one", name)
        return found[0] if found else None


async def read_form(request: HttpRequest, texts: Collection[str], files: Collection[str]) -> Form:
    """The form of a request. A field that nobody reads is refused: the client believes that it has an effect."""
    kind = request.headers.get("content-type", "")
    if not kind.startswith(("multipart/form-data", "application/x-www-form-urlencoded")):
        raise InputError(f"content-type: got {kind[:60]!r}, expected multipart/form-data: send the pictures as files")
    try:
        return await _read(request, texts, files)
    except FormParserError as error:  # newer versions of Starlette say so themselves
        raise InputError(f"body: is no whole form ({str(error)[:100]}): send it again", "body") from error


async def _read(request: HttpRequest, texts: Collection[str], files: Collection[str]) -> Form:
    said: dict[str, str] = {}
    sent: dict[str, list[bytes]] = {}
    async with request.form(max_files=MOST_FILES, max_fields=MOST_FIELDS, max_part_size=MOST_FIELD) as form:
        for name, value in form.multi_items():
            plain = name.removesuffix("[]")
            if isinstance(value, UploadFile):
                if plain not in files:
                    raise _unknown(plain, files)
                sent.setdefault(plain, []).append(await value.read())
            else:
                if plain in files:
                    raise InputError(f"{plain}: got text, expected a file", plain)
                if name not in texts:
                    raise _unknown(name, [*texts, *files])
                if name in said:
                    raise InputError(f"{name}: is given twice, expected it once", name)
                said[name] = value
    return Form(said, sent)


def _unknown(name: str, known: Collection[str]) -> InputError:
    return InputError(f"{name[:40]}: no such field, expected one of {', '.join(sorted(known))}", name[:40])
