"""How Ctrl-C and SIGTERM reach the work: as an exception, where it does no harm, until it is on its way out."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_AGAIN_SECONDS = 1.0
_STOPS = (signal.SIGINT, signal.SIGTERM)

_held = 0  # blocks of `undisturbed` that are open
_is_waiting = False  # a stop, for their end


class Stop(KeyboardInterrupt):
    """Ctrl-C or SIGTERM.

    A KeyboardInterrupt, since of all that a handler can raise Ray lets only this one through; and not the plain one,
    since Python ends by the signal, whatever its exit status, when a plain one once left an `exec` of text, which is
    how dataclasses are made.
    """


@contextmanager
def stoppable() -> Iterator[None]:
    """In the block, Ctrl-C and SIGTERM raise Stop in the main thread; the handlers of before are put back after it.

    A handler runs between any two instructions, in a destructor or a callback of a library too, where Python drops what
    it raises. So a timer raises it again every second, until something is unwinding because of it. Blocks may be
    nested. Does nothing in other threads.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _is_waiting
    before = [(number, signal.getsignal(number)) for number in (*_STOPS, signal.SIGALRM)]
    is_inner = signal.getsignal(signal.SIGALRM) is _stop_again
    for number in _STOPS:
        signal.signal(number, _stop)
    signal.signal(signal.SIGALRM, _stop_again)
    try:
        yield
    finally:
        if not is_inner:  # else a stop that was dropped comes again in the block around this one
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            _is_waiting = False
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def undisturbed() -> Iterator[None]:
    """A stop waits for the end of the block, unless there is a second one.

    For what must not be left in the middle: Python's own queues and conditions, in whichever library, stay locked or
    miscount when an exception comes between two of their lines, and the thread on their other side waits for ever.
    """
    global _held
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _held += 1
    try:
        yield
    finally:
        _held -= 1
    if _is_waiting and not _held:
        raise Stop


@contextmanager
def deaf_to_sigterm() -> Iterator[None]:
    """SIGTERM waits for the end of the block, and then is for whom it was for before, whoever took it in the block.

    Threads and processes that are begun in the block stay deaf. Does nothing in other threads than the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop(_number: int, _frame: FrameType | None) -> None:
    global _is_waiting
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS, _AGAIN_SECONDS)
    if not _held or _is_waiting:
        raise Stop
    _is_waiting = True


def _stop_again(_number: int, _frame: FrameType | None) -> None:
    """What a `finally`, an `except` or an `__exit__` does while a Stop passes is not disturbed."""
    handled = sys.exception()
    while handled is not None:
        if isinstance(handled, KeyboardInterrupt):
            return
        handled = handled.__context__
    if not _held:
        raise Stop
