"""Session: edit after edit of one picture, each on the recordings of the ones before.

first edit, another place   temporal, as ever; its recordings stay in a store
the same place again        packed on the store ─▶ staged ─▶ accept: patched into the store
                                                         └─▶ nothing: the store stays as it is; retry, or another mask

Outside the mask every edit of a session sees the same latents at each step: the same noise, and where an accepted edit
has painted, the path that its latents took. So there the store's recordings are those of this edit, too.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image

import sige
from sdxl.edits.request import Request
from sdxl.edits.result import Result
from sdxl.edits.sampling import Sampling
from sdxl.edits.steps import OnStep
from sdxl.errors import Cancelled, InputError, is_out_of_memory
from sdxl.sessions.book import Book, Recorded, State
from sdxl.sessions.budget import BUDGET
from sdxl.sessions.folder import SessionFolder
from sdxl.sessions.run import UNET, Run, Staged, mask_cells
from sige.errors import RecordingError
from sige.terminal import as_line

__all__ = ["Session"]

logger = logging.getLogger(__name__)

MOST_HISTORY = 32  # pictures that can be gone back to
UNREADABLE = (RecordingError, FileNotFoundError, KeyError)  # what a damaged file raises, or one of another model
FEW = 8  # steps: up to here the first edit records every one, because none can be forecast


class Session:
    """Edits of one picture.

    The first edit of a place costs what it costs without a session. Others of the same place, or of a part of it, read
    its recordings, as long as size, steps, strength, scheduler and weights stay; where one of them changes, the next
    edit is a first one again. The picture is encoded once, and decoded where an edit has changed it.

    With a `folder` the session is kept on disk, and goes on there: `image` may be left out then. Else the recordings
    are in memory, up to `budget`.
    """

    def __init__(
        self,
        pipe: Any,
        image: Image.Image | None = None,
        *,
        folder: Path | str | None = None,
        budget: int | str | None = BUDGET,
        code: str = "auto",  # of the recordings: exact, 16 bit, 8 bit, or what the budget allows
        policy: sige.Temporal | None = None,  # of the first edit
        history: int = MOST_HISTORY,  # accepted edits that can be undone
    ) -> None:
        if getattr(pipe, "controlnet", None) is not None:
            raise InputError("session: the pipeline has a ControlNet, whose picture no session keeps: leave it out")
        self.pipe = pipe
        self.policy = policy
        self.history = history
        self._folder = None if folder is None else SessionFolder(folder)
        book, self.store = (None, sige.Store(budget, code)) if self._folder is None else self._opened(budget, code)
        self._book = book or Book(State(_first(image)))
        if book is not None and image is not None:
            self._check_picture(image)
        self._was_enabled = sige.handle_of(pipe) is not None
        self._handle = sige.enable(pipe)
        self._weights = _fingerprint(pipe)
        self._staged: Staged | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the recordings in memory, and leaves the pipeline as it was before; a folder stays."""
        self._staged = None
        if self._folder is None:
            self.store.clear()
        self.store.hold(())
        if not self._was_enabled:
            self._handle.disable()

    @property
    def picture(self) -> Image.Image:
        """The picture with every accepted edit in it."""
        return self._book.state.picture

    @property
    def pictures(self) -> list[Image.Image]:
        """The picture, after those that undoing leads back to, the oldest first."""
        return [*(state.picture for state, _ in self._book.before), self.picture]

    @property
    def staged(self) -> Result | None:
        """The last edit's result, until it is accepted."""
        return None if self._staged is None else self._staged.result

    # ---- verbs ------------------------------------------------------------------------------------------------------

    def edit(
        self,
        mask: Image.Image | np.ndarray[Any, Any],  # [H, W]; white repaints, grey blends
        sampling: Sampling,
        *,
        dense: bool = False,
        match_edge: int = 0,
        on_step: OnStep | None = None,
    ) -> Result:
        """The picture with the mask's pixels painted anew; `accept` makes it the session's picture.

        With `dense` every pass is dense and nothing is recorded: the result that a sparse edit is close to. What is
        painted meets the picture at the mask's edge over `match_edge` pixels.
        """
        began = perf_counter()
        request = Request(sampling, image=self.picture, mask=mask, match_edge=match_edge)
        if request.is_empty:
            raise InputError("mask: got an empty one, expected some white: there is nothing to paint", "mask")
        self._staged = None
        self._renew(request)
        staged = self._attempt(request, dense, on_step)
        self._staged = replace(staged, result=replace(staged.result, seconds=perf_counter() - began))
        self._save()
        return self._staged.result

    def retry(self, *, on_step: OnStep | None = None, **changes: Any) -> Result:
        """The staged edit once more with other fields of its sampling, as another seed or another prompt."""
        if self._staged is None:
            raise InputError("retry: nothing is staged: make an edit first")
        request = self._staged.request
        assert request.alpha is not None
        sampling, match_edge = replace(request.sampling, **changes), request.match_edge
        return self.edit(request.alpha, sampling, match_edge=match_edge, on_step=on_step)

    def accept(self, result: Result | None = None) -> None:
        """Makes the staged edit the session's picture; later edits are edits of it."""
        staged, book = self._staged, self._book
        if staged is None or (result is not None and staged.result is not result):
            raise InputError("accept: got no result of this session's last edit, expected the one that edit() returned")
        book.before.append((book.state, book.recorded))
        del book.before[: max(len(book.before) - self.history, 0)]
        book.state, book.recorded = staged.state, staged.recorded
        self.store.patch(staged.patches)
        self._staged = None
        self._save()

    def undo(self) -> Image.Image:
        """Goes back to the picture before the last accepted edit, and returns it."""
        book = self._book
        if not book.before:
            raise InputError("undo: this is the picture that the session began with, no edit is left to undo")
        self._staged = None
        book.state, recorded = book.before.pop()
        if self.store.undo():
            book.recorded = recorded  # else the store stays as it is: what it is of is compared at each edit
        self._save()
        return self.picture

    # ---- what an edit stands on -------------------------------------------------------------------------------------

    def _run(self, request: Request, dense: bool, on_step: OnStep | None) -> Staged:
        request = replace(request, policy=None if dense else self._policy(request))
        try:
            return Run(self.pipe, self._handle, self.store, self._book, request).stage(on_step)
        except Cancelled as cancelled:
            raise cancelled.with_traceback(None)  # noqa: B904  # its frames would keep latents alive
        finally:
            self.pipe.maybe_free_model_hooks()

    def _attempt(self, request: Request, dense: bool, on_step: OnStep | None) -> Staged:
        """The edit. Recordings that do not fit, or cannot be read, are dropped; then it is made without them."""
        try:
            return self._run(request, dense, on_step)
        except UNREADABLE as error:
            logger.warning("the session's recordings cannot be read (%s): new ones are made", as_line(error, 200))
        except (MemoryError, RuntimeError) as error:
            if dense or not is_out_of_memory(error):
                raise
            logger.warning("not enough memory for the session's recordings: they are dropped, and the edit runs dense")
            dense = True
        self._forget()
        return self._run(request, dense, on_step)

    def _policy(self, request: Request) -> sige.Policy:
        """On the store's recordings where they are of this place; else the policy that makes them."""
        steps = self.store.steps(UNET)
        recorded = self._book.recorded
        if steps and recorded.unet is not None and recorded.mask is not None:
            if not (mask_cells(request) & ~recorded.mask.cpu()).any():
                return sige.Stored(steps)
        self.store.clear(UNET)  # now, so that an edit that fails leaves nothing half new
        self._book.recorded = replace(recorded, unet=None, mask=None)
        if self.policy is not None:
            return self.policy
        count = max(int(request.sampling.steps * request.sampling.strength_of("inpainting")), 1)
        return sige.Temporal(dense_steps=tuple(range(count))) if count <= FEW else sige.Temporal()

    def _renew(self, request: Request) -> None:
        """Where size, sampling or weights are others than before, forgets the path and the recordings."""
        if self._handle.look():
            self._weights = _fingerprint(self.pipe)
        sampling, scheduler = request.sampling, self.pipe.scheduler
        facts = {
            "size": request.padded_size,
            "steps": sampling.steps,
            "strength": sampling.strength_of("inpainting"),
            "guided": sampling.is_guided,
            "scheduler": [type(scheduler).__name__, _plain(scheduler.config)],
            "weights": self._weights,
        }
        signature = json.dumps(facts, sort_keys=True)
        if signature != self._book.signature:
            self._book.signature = signature
            self._book.state = replace(self._book.state, path=None, known=None)
            self._forget()

    def _forget(self) -> None:
        """Drops the recordings: the next edit makes new ones."""
        self.store.clear()
        self._book.recorded = Recorded()

    # ---- the folder -------------------------------------------------------------------------------------------------

    def _opened(self, budget: int | str | None, code: str) -> tuple[Book | None, sige.Store]:
        assert self._folder is not None
        return self._folder.open(self.pipe.unet.device, budget, code)

    def _save(self) -> None:
        if self._folder is not None:
            self._folder.save(self._book, self.store)

    def _check_picture(self, image: Image.Image) -> None:
        """A session on disk goes on with its own picture."""
        assert self._folder is not None
        pictures = [self.picture, *(state.picture for state, _ in self._book.before)]
        if not any(np.array_equal(np.asarray(image.convert("RGB")), np.asarray(one)) for one in pictures):
            raise InputError(
                f"image: the session in {self._folder.path} is of another picture: leave the image out to go on with "
                "it, or name another folder",
                "image",
            )


def _first(image: Image.Image | None) -> Image.Image:
    if image is None:
        raise InputError("image is missing: a new session begins with a picture", "image")
    return image.convert("RGB")


def _plain(config: Mapping[str, Any]) -> dict[str, str]:
    """A configuration as text, without diffusers' own notes about it."""
    return {key: str(value) for key, value in config.items() if not key.startswith("_")}


@torch.no_grad()
def _fingerprint(pipe: Any) -> str:
    """A digest of the weights, by a few values of each: others give others."""
    content = hashlib.sha256()
    for model in (pipe.unet, pipe.vae):
        for name, parameter in model.named_parameters():
            values = parameter.flatten()[:: max(parameter.numel() // 16, 1)].float().cpu()
            content.update(f"{name} {parameter.dtype}".encode() + values.numpy().tobytes())
    return content.hexdigest()[:16]
