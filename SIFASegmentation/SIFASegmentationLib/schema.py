"""What all that is stored as JSON has in common: manifests, specifications, settings, tasks."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Values that do not change, and no names but those of its attributes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
