"""What all sections of a configuration have in common."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A section without keys of its own; what is written as text, or as true, is no number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
