"""Makes one edit of the table: inpainting, or an SDEdit where the picture is painted over."""

from __future__ import annotations

from typing import Any

import sige
from benchmarks.quality.edits import Edit
from sdxl.edits.edit import edit as inpaint
from sdxl.edits.edit import sdedit
from sdxl.edits.result import Result
from sdxl.edits.sampling import Sampling

__all__ = ["paint"]


def paint(pipe: Any, edit: Edit, sampling: Sampling, policy: sige.Policy | None = None) -> Result:
    """The result; dense without a policy."""
    if edit.edited is None:
        return inpaint(pipe, edit.image, mask=edit.mask, sampling=sampling, policy=policy)
    return sdedit(pipe, edit.image, edit.edited, sampling=sampling, policy=policy, keep="nothing")
