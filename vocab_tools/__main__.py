"""`python -m vocab_tools`: the commands of `orch vocab` where nothing of orch is installed."""

from __future__ import annotations

from vocab_tools.cli import main

if __name__ == "__main__":
    main()
