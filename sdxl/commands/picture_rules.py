"""The rules for what becomes of pictures: how the mask is shaped, which part is painted, how many are made."""

from __future__ import annotations

from sdxl.commands.fields import Fields
from sdxl.commands.rules import flag
from sdxl.edits.limits import MOST_PIXELS
from sdxl.errors import InputError

__all__ = ["check_pictures"]

MOST_PICTURES = 1000
LAST_SEED = 2**63 - 1


def check_pictures(settings: Fields) -> None:
    """Raises `InputError` for the first rule that is broken."""
    _check_shaping(settings)
    _check_number(settings)


def _check_shaping(settings: Fields) -> None:
    for name, most in MOST_PIXELS.items():
        value = getattr(settings, name)
        if value is None:
            continue
        if not 0 <= value <= most:
            raise InputError(f"{flag(name)}: got {value}, expected a number of pixels from 0 to {most}")
        if settings.task != "inpainting":
            raise InputError(f"{flag(name)} has no effect with --task {settings.task}, which has no mask: leave it out")
    if settings.only_masked is None:
        return
    if settings.session is not None:
        raise InputError("--only_masked does not go with --session, which works on its whole picture: leave it out")
    if any(side is not None and side % 8 for side in (settings.height, settings.width)):
        raise InputError("--H and --W: expected multiples of 8 for the part that --only_masked paints: round them")


def _check_number(settings: Fields) -> None:
    if not 1 <= settings.n <= MOST_PICTURES:
        raise InputError(f"--n: got {settings.n}, expected a number of pictures from 1 to {MOST_PICTURES}")
    if settings.n > 1 and settings.session is not None:
        raise InputError("--n does not go with --session, where each edit is one of the edit before: leave it out")
    if settings.seed + settings.n - 1 > LAST_SEED:
        raise InputError(f"--seed: got {settings.seed}, but --n {settings.n} pictures count on from it: take less")
