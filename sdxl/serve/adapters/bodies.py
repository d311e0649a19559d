"""JSON bodies: a request's text becomes a checked model, or one sentence that says what is wrong with it."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request as HttpRequest

from sdxl.errors import InputError

__all__ = ["Number", "Whole", "read_json"]

Number = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Body = TypeVar("Body", bound=BaseModel)


async def read_json(http: HttpRequest, model: type[Body]) -> Body:
    """The body as the model. The framework would call every fault of a body, a large one too, an error of parsing."""
    content = await http.body()
    try:
        return model.model_validate_json(content or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:60] or "body"
        raise InputError(f"{where}: {first['msg'][:200]}", where) from None
