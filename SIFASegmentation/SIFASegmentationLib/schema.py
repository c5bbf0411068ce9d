"""What all that is stored as JSON has in common: manifests, specifications, settings, tasks."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Values that do not change, no names but those of its attributes, and no numbers but finite ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
