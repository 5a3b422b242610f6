"""The typed quantities of scenario and profile files: words in, SI floats inside, words out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from mobisim.errors import nearest
from mobisim.units import (
    BANDWIDTH,
    COMPUTE,
    ENERGY,
    POWER,
    POWER_PER_RATE,
    RATE,
    SIZE,
    TIME,
    Dimension,
)

T = TypeVar("T")


class Strict(BaseModel):
    """A frozen description in which an unknown key is an error that names the nearest one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    raise unknown_key(str(key), list(cls.model_fields))
        return data


def unknown_key(key: str, known: list[str]) -> PydanticCustomError:
    """The error for a key that a mapping does not have; `key` completes the error's location."""
    guess = nearest(key, known)
    hint = f"did you mean {guess!r}?" if guess else f"known: {', '.join(known)}"
    return PydanticCustomError(
        "unknown_key", "no key '{key}' here; {hint}", {"key": key, "hint": hint}
    )


def problem_of(key: str, message: str) -> PydanticCustomError:
    """The error of one key of a mapping, found by looking at several of them."""
    return PydanticCustomError("of_key", "{message}", {"key": key, "message": message})


def is_number(value: Any) -> bool:
    """Whether `value` is an int or a float (a bool is neither)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Quantity:
    """Annotation of a float that is written with a unit; a bare zero needs none where allowed."""

    dimension: Dimension
    zero: bool = False

    def read(self, value: Any) -> float:
        """The SI value.

        Raises:
            ValueError: no unit, a wrong one, a negative value, or zero where it is not allowed.
        """
        number = self._number(value)
        if number < 0 or (number == 0 and not self.zero):
            least = "of at least zero" if self.zero else "above zero"
            raise ValueError(f"expected: a {self.dimension.name} {least}")
        return number

    def _number(self, value: Any) -> float:
        if isinstance(value, str):
            return self.dimension.parse(value)
        if self.zero and is_number(value) and value == 0:
            return 0.0
        raise ValueError(_unit_missing(value, self.dimension))

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.read,
            serialization=core_schema.plain_serializer_function_ser_schema(self.dimension.format),
        )

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, __: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        types = ["string", "number"] if self.zero else "string"
        named = {"description": self.dimension.name, "examples": [self.dimension.example]}
        return {"type": types, **named}


def _unit_missing(value: Any, dimension: Dimension) -> str:
    """What to say of a value that is no text with a unit."""
    expected = f"{dimension.name} such as '{dimension.example}'"
    if not is_number(value):
        return f"expected: a {expected}"
    if not math.isfinite(value):
        return f"expected: a finite {expected}"
    return f"the unit is missing; expected: a {expected}"


class _ByteCount:
    """Annotation of a whole number of bytes, bare where the field's name says `_bytes`."""

    def read(self, value: Any) -> int:
        number = SIZE.parse(value) if isinstance(value, str) else value
        if not is_number(number) or not math.isfinite(number) or number != int(number):
            raise ValueError("expected: a whole number of bytes such as 1500 or '1500 B'")
        if not 0 <= number <= 2**62:
            raise ValueError("expected: a number of bytes from 0 to 2^62")
        return int(number)

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, __: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        examples = [1500, "1500 B"]
        return {"type": ["integer", "string"], "description": "bytes", "examples": examples}


Time = Annotated[float, Quantity(TIME)]
TimeOrZero = Annotated[float, Quantity(TIME, zero=True)]
Rate = Annotated[float, Quantity(RATE)]
Size = Annotated[float, Quantity(SIZE)]
SizeOrZero = Annotated[float, Quantity(SIZE, zero=True)]
Bandwidth = Annotated[float, Quantity(BANDWIDTH)]
Compute = Annotated[float, Quantity(COMPUTE)]
Energy = Annotated[float, Quantity(ENERGY)]
PowerOrZero = Annotated[float, Quantity(POWER, zero=True)]
PowerPerRate = Annotated[float, Quantity(POWER_PER_RATE, zero=True)]
ByteCount = Annotated[int, _ByteCount()]


def _positive(count: int) -> int:
    if count == 0:
        raise ValueError("expected: at least one byte")
    return count


PositiveByteCount = Annotated[ByteCount, AfterValidator(_positive)]


class Duration(Strict):
    """A stated time: a constant, or the mean of a distribution. A bare number is in seconds."""

    mean: TimeOrZero
    distribution: Literal["constant", "exponential"] = "constant"

    @model_validator(mode="before")
    @classmethod
    def _from_bare(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"mean": data}
        if is_number(data):
            return {"mean": f"{data!r} s" if math.isfinite(data) else data}
        return data

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [{"type": ["number", "string"], "examples": [0.4]}, handler(schema)]}


def _takes_time(duration: Duration) -> Duration:
    if duration.mean == 0:
        raise ValueError("expected: a duration above zero")
    return duration


PositiveDuration = Annotated[Duration, AfterValidator(_takes_time)]


def _has_size(value: Any) -> bool:
    return is_number(value) or isinstance(value, Duration)


def _size(value: Any) -> float:
    return value.mean if isinstance(value, Duration) else float(value)


class Sourced(Strict, Generic[T]):
    """A value and where it comes from.

    `source` is `measured`, a key in references.bib, `assumed` (then with the range in which the
    value is thought to lie), or `stated` for a value that a scenario states without a source.
    """

    value: T
    source: str = "stated"
    range: tuple[T, T] | None = None
    note: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_bare(cls, data: Any) -> Any:
        return data if isinstance(data, dict) and "value" in data else {"value": data}

    @model_validator(mode="after")
    def _assumed_has_range(self) -> Self:
        if self.source != "assumed" or not _has_size(self.value):
            return self
        if self.range is None:
            raise ValueError("an assumed value needs a range: [low, high]")
        low, high = map(_size, self.range)
        if not low <= _size(self.value) <= high:
            raise ValueError("expected: a range that contains the value")
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        full = handler.resolve_ref_schema(handler(schema))
        return {"anyOf": [full["properties"]["value"], full]}
