"""Published tables as pandas frames, for who goes on in Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    import pandas as pd


def frame(table: pa.Table) -> pd.DataFrame:
    """A table as a frame: names as categories, whole numbers with gaps as nullable integers."""
    import pandas as pd  # noqa: PLC0415 - half a second to import

    sorts: dict[Any, Any] = {
        pa.int16(): pd.Int16Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
    }
    whole = {f.name for f in table.schema if f.type in sorts and table[f.name].null_count}
    plain: pd.DataFrame = table.select(
        [n for n in table.column_names if n not in whole]
    ).to_pandas()
    gaps: pd.DataFrame = table.select(sorted(whole)).to_pandas(types_mapper=sorts.get)
    found: pd.DataFrame = pd.concat([plain, gaps], axis=1)[table.column_names]
    return found


def read_frame(path: Path) -> pd.DataFrame:
    """A parquet file of a result or sweep as a frame."""
    return frame(pq.read_table(path))
