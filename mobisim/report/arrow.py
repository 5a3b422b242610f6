"""Arrow arrays from and to numpy and Python's values, by their buffers.

Arrow's own conversions look for pandas, whose import costs more than a whole timing-only run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mobisim.span import NONE


def array(values: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> Any:
    """An arrow array over the memory of `values`; null where not `valid`."""
    is_bool = values.dtype == np.bool_
    data = np.packbits(values, bitorder="little") if is_bool else np.ascontiguousarray(values)
    sort = pa.bool_() if is_bool else pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(sort, len(values), [_bitmap(valid), pa.py_buffer(data)])


def words(values: Sequence[str | None]) -> Any:
    """An arrow array of strings; null for none."""
    encoded = [(word or "").encode() for word in values]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    valid = np.array([word is not None for word in values], np.bool_)
    buffers = [_bitmap(valid), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def column(values: Sequence[Any], empty: type = float) -> Any:
    """An arrow array of plain values of one kind; null for none.

    Whole numbers among others are floats; where there is nothing at all, it is of the kind `empty`.
    """
    kinds = {type(value) for value in values if value is not None} or {empty}
    if kinds <= {str}:
        return words(values)
    plain = np.array([0 if value is None else value for value in values], np.result_type(*kinds))
    return array(plain, np.array([value is not None for value in values], np.bool_))


def _bitmap(valid: NDArray[np.bool_] | None) -> Any:
    if valid is None or valid.all():
        return None
    return pa.py_buffer(np.packbits(valid, bitorder="little"))


def numbers(column: Any, dtype: type[np.generic]) -> NDArray[Any]:
    """The values of an arrow array as numpy, NONE for nulls."""
    if pa.types.is_dictionary(column.type):
        column = column.indices
    bitmap, data = column.buffers()
    window = slice(column.offset, column.offset + len(column))
    if pa.types.is_boolean(column.type):
        return _bits(data, window)
    values = np.frombuffer(data, column.type.to_pandas_dtype())[window].astype(dtype)
    if bitmap is not None:
        values[~_bits(bitmap, window)] = NONE
    return values


def _bits(buffer: Any, window: slice) -> NDArray[np.bool_]:
    bits = np.unpackbits(np.frombuffer(buffer, np.uint8), bitorder="little")
    return bits[window].astype(np.bool_)
