"""All trials, in one place."""

from __future__ import annotations

from tests.system.options import commands, creating
from tests.system.options.effects import EFFECTS

SCENES = (*creating.SCENES, *commands.SCENES)

__all__ = ("EFFECTS", "SCENES")
