"""The fields of a row beside its request."""

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class TaskData(BaseModel):
    """What `longthread rows nemo_gym` writes."""

    model_config = ConfigDict(extra="allow")

    target: dict[str, JsonValue] = Field(
        description="Answer, prompt length, recipe and digest of the row; a changed one is refused.",
        json_schema_extra={"consumed_by": ["verify"]},
    )
