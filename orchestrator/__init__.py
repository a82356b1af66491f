"""orch: distil big frozen transformer encoders into small ones, across languages."""

import os

__version__ = "0.1.0"

# The logits of a step are hundreds of megabytes that come and go. With huge pages the kernel does not spend more time on
# handing them out than the head on computing them (half the time of a step on two cores); torch reads this when it starts.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
