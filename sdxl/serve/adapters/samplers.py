"""Samplers by the names of other web UIs. A server has one; a client that names another is told so, and served."""

from __future__ import annotations

from sdxl.pictures.parameters import SAMPLERS

__all__ = ["sampler_name", "sampler_note", "sampler_names"]


def sampler_name(scheduler: str) -> str:
    """Their name of one of our schedulers.

    >>> sampler_name("euler-ancestral"), sampler_name("own")
    ('Euler a', 'own')
    """
    return SAMPLERS.get(scheduler, scheduler)


def sampler_names(scheduler: str) -> list[str]:
    """The names that a client may choose from, the server's own first."""
    own = sampler_name(scheduler)
    return [own, *(name for name in SAMPLERS.values() if name != own)]


def sampler_note(asked: str | None, scheduler: str) -> str | None:
    """What a client is told that has asked for another sampler than the server's; None where there is nothing to say.

    >>> sampler_note("PNDM", "ddim"), sampler_note("ddim", "ddim")
    ("sampler: got 'PNDM', this server paints with DDIM", None)
    """
    own = sampler_name(scheduler)
    if not asked or asked.lower() in (own.lower(), scheduler):
        return None
    return f"sampler: got {asked[:40]!r}, this server paints with {own}"
