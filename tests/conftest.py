"""What all tests share: hypothesis draws the same examples everywhere."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("mobisim", derandomize=True, deadline=None, database=None)
settings.load_profile("mobisim")
