"""A fuzzer whose reader goes wrong in every way that the watchdog is there to see."""

from __future__ import annotations

import os
import signal

#: Number of the input -> what it is to be seen as.
TROUBLE = {1: "signal 11!", 3: "hang", 5: "memory!", 7: "wrong!"}


class Rehearsal:
    """In the place of a `Fuzzer`, in the child alone."""

    def one(self, number: int) -> str:
        match TROUBLE.get(number):
            case "signal 11!":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                while True:
                    pass
            case "memory!":
                try:
                    bytearray(1 << 40)
                except MemoryError:
                    return "memory!"
            case "wrong!":
                return "wrong!"
        return "refused"
