"""Programs: a packed pass as a flat list of op calls, traced once and run again without the layers' Python."""

from sige.programs.program import Program
from sige.programs.shelf import Programs

__all__ = ["Program", "Programs"]
