"""The command line's sessions: which picture an edit is of, and the edit itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from sdxl.commands.rules import POLICY
from sdxl.commands.settings import Settings
from sdxl.errors import InputError
from sdxl.pictures.images import load_image
from sdxl.sessions.budget import BUDGET

if TYPE_CHECKING:
    from sdxl.edits.request import Request
    from sdxl.edits.result import Result

__all__ = ["edit_in_session", "session_picture"]


def session_picture(settings: Settings) -> Image.Image | None:
    """The picture that the edit is of: that of the session, after --undo; None where the session is new."""
    from sdxl.sessions.folder import SessionFolder

    assert settings.session is not None
    pictures = SessionFolder(settings.session).pictures()
    if not pictures:
        if settings.init_img is None:
            raise InputError("image is missing: a new session begins with a picture", "image")
        if settings.undo:
            raise InputError(f"undo: there is no session in {settings.session} yet: leave it out", "undo")
        return None
    if settings.height is not None or settings.width is not None:
        raise InputError("size: got one beside a session, expected none: its picture keeps its size", "size")
    if settings.init_img is not None:
        given = np.asarray(load_image(settings.init_img))
        if not any(np.array_equal(given, np.asarray(one.convert("RGB"))) for one in (pictures[0], pictures[-1])):
            raise InputError(
                f"image: the session in {settings.session} is of another picture: leave it out to go on with that "
                "one, or name another folder",
                "image",
            )
    if settings.undo:
        if len(pictures) < 2:
            raise InputError(
                "undo: this is the picture that the session began with, there is no edit to take back", "undo"
            )
        return pictures[-2]
    return pictures[-1]


def edit_in_session(pipe: Any, request: Request, settings: Settings) -> Result:
    """Makes the edit and accepts it."""
    from sdxl.sessions.session import Session
    from sige import Temporal

    given = any(getattr(settings, name) not in (None, ()) for name in POLICY)
    policy = request.policy if given and isinstance(request.policy, Temporal) else None
    with Session(
        pipe, request.image, folder=settings.session, budget=settings.budget or BUDGET, policy=policy
    ) as session:
        if settings.undo:
            session.undo()
        assert request.alpha is not None
        result = session.edit(request.alpha, request.sampling, match_edge=request.match_edge)
        session.accept(result)
    return result
