"""orch: distil big frozen transformer encoders into small ones, across languages."""

import os

__version__ = "0.1.0"

# The logits of a step are hundreds of megabytes that come and go. With huge pages the kernel spends less time on giving
# them out than the head on computing them (without: half the time of a step on two cores). torch reads this once.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
