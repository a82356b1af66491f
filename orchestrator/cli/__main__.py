"""`python -m orchestrator.cli`, which is `orch`."""

from orchestrator.cli import main

main()
