"""What all tests share: properties are searched for without a clock, since speed is measured in tests/benchmarks."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("orch", deadline=None)
settings.load_profile("orch")
