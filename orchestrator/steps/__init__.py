"""The steps of a run, one file each: what it needs, what is already done, and the doing of the rest."""
