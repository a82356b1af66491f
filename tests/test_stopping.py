"""Stops that come at the worst moments: each is an own process, since a stop ends what it meets."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from orchestrator.stopping import Stop, stoppable, undisturbed

PROLOGUE = """
import os, signal, sys, time
from orchestrator.stopping import stoppable, undisturbed

def stop():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0)  # the handler runs here

class Dropping:
    def __del__(self):
        stop()
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    """`body` in a Python of its own, as a module: only so does Python end by the signal of a KeyboardInterrupt."""
    code = f"import runpy; exec({PROLOGUE + textwrap.dedent(body)!r})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def said_until_stopped(body: str) -> list[str]:
    """What `body` prints, and "came" when a stop is raised in it, or after it in the end."""
    waiting = f"""
with stoppable():
    try:
{textwrap.indent(textwrap.dedent(body), " " * 8)}
        while True:
            time.sleep(0.01)
    except KeyboardInterrupt:
        print("came")
"""
    return run(waiting).stdout.split()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_stop(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stop), stoppable():
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_a_stop_that_a_destructor_drops_comes_again() -> None:
    said = said_until_stopped("""
        Dropping()
        print("dropped", flush=True)
    """)
    assert said == ["dropped", "came"]


def test_a_stop_that_is_dropped_at_the_end_of_a_nested_block_comes_in_the_outer_one() -> None:
    said = said_until_stopped("""
        with stoppable():
            Dropping()
        print("left", flush=True)
    """)
    assert said == ["left", "came"]


def test_what_is_done_on_the_way_out_is_not_disturbed() -> None:
    done = run("""
        from contextlib import contextmanager

        @contextmanager
        def closing():
            try:
                yield
            finally:
                time.sleep(1.5)
                print("closed", flush=True)

        class Closing:
            def __enter__(self):
                pass

            def __exit__(self, *_):
                time.sleep(1.5)
                print("exited", flush=True)

        with stoppable():
            try:
                with Closing(), closing():
                    stop()
            except KeyboardInterrupt:
                time.sleep(1.5)
                print("caught")
    """)
    assert done.stdout.split() == ["closed", "exited", "caught"]


def test_a_stop_waits_for_the_end_of_an_undisturbed_block() -> None:
    done = []

    def work() -> None:
        with undisturbed():
            with undisturbed():
                signal.raise_signal(signal.SIGTERM)
            done.append("inner")
        done.append("outer")

    with stoppable(), pytest.raises(Stop):
        work()
    assert done == ["inner"]


def test_a_second_stop_does_not_wait() -> None:
    def stop_twice() -> None:
        with undisturbed():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the second one waited")

    with stoppable(), pytest.raises(Stop):
        stop_twice()


def test_a_stop_that_waits_is_not_lost_when_the_block_fails() -> None:
    said = said_until_stopped("""
        try:
            with undisturbed():
                stop()
                time.sleep(1.5)
                raise ValueError
        except ValueError:
            print("failed", flush=True)
    """)
    assert said == ["failed", "came"]


def test_a_stop_while_a_dataclass_is_made_leaves_the_exit_status_alone() -> None:
    done = run("""
        with stoppable():
            try:
                exec("stop()")
            except KeyboardInterrupt:
                pass
    """)
    assert done.returncode == 0


def test_a_nested_block_takes_the_handlers_back() -> None:
    with stoppable():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with pytest.raises(Stop), stoppable():
            signal.raise_signal(signal.SIGTERM)


def test_other_threads_may_enter() -> None:
    entered = threading.Event()

    def enter() -> None:
        with stoppable():
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered.is_set()
