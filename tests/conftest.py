"""What tests share: hypothesis draws the same examples everywhere, and a page to explore."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:  # most tests need no page
    from mobisim.pages.explorer import Explorer

settings.register_profile("mobisim", derandomize=True, deadline=None, database=None)
settings.load_profile("mobisim")


@pytest.fixture(scope="module")
def lte() -> Explorer:
    """The explorer of a shipped scenario."""
    from mobisim.pages.explorer import Explorer  # noqa: PLC0415 - see above

    return Explorer("lte")


@pytest.fixture(scope="module")
def lte_page(lte: Explorer) -> Iterator[str]:
    """The address at which it is explored."""
    from webpage import served  # noqa: PLC0415 - see above

    with served(lte) as address:
        yield address
