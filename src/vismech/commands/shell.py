"""What surrounds every command: a sentence for what a user can mend, a word at a signal, silence at a closed pipe."""

from __future__ import annotations

import functools
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from vismech.errors import UserError
from vismech.passes.memory import out_of_memory
from vismech.store.disk import refusal

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Interrupted(BaseException):
    """A signal asks this process to end; neither ``except Exception`` nor a library's KeyboardInterrupt takes it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def command(name: str, advice: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command.

    Errors that a user can mend end with status 1 and one sentence, SIGINT and SIGTERM with 130 and 143, one sentence
    and no child left, and a reader that has read enough (``| head``) with 0 and silence.

    Args:
        name: begins each sentence.
        advice: follows the word at a signal.
    """

    def decorate(main: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(main)
        def run(*arguments: object, **options: object) -> None:
            # A name that is not UTF-8, or a terminal that knows ASCII only, is no reason to end.
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, io.TextIOWrapper):
                    stream.reconfigure(errors="backslashreplace")
            with _signals(name, advice) as received:
                try:
                    try:
                        main(*arguments, **options)
                    finally:
                        sys.stdout.flush()
                except UserError as error:
                    _say(name, str(error))
                    status = 1
                except BrokenPipeError:
                    _forget(sys.stdout)
                    status = 0
                except Interrupted:
                    status = 1
                except BaseException as error:
                    sentence = None if received or not isinstance(error, Exception) else _sentence(error)
                    if not received and sentence is None:
                        raise
                    status = 1
                    if sentence is not None:
                        _say(name, sentence)
                else:
                    if not received:
                        return
                    status = 1
            if received:  # also where a library made another exception of it
                _end_children()
                _say(name, WORDS[received[0]] + advice)
                status = 128 + received[0]
            sys.exit(status)

        return run

    return decorate


def _sentence(error: Exception) -> str | None:
    """What to say of an error of the machine; None for any other."""
    if out_of_memory(error):
        return "out of memory: free some, or ask for less at a time (fewer images, fewer concepts)"
    return refusal(error)


@contextmanager
def _signals(name: str, advice: str) -> Iterator[list[signal.Signals]]:
    """Raise :class:`Interrupted` at a signal; the numbers received are in the list. A second one ends at once."""
    received: list[signal.Signals] = []
    owner = os.getpid()

    def handle(number: int, _frame: object) -> None:
        if os.getpid() != owner:  # a forked child is ended by what it does without us
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        again = bool(received)
        received.append(signal.Signals(number))
        # Nothing that threads say while this process and its workers come down is news.
        sys.excepthook = threading.excepthook = _silent
        if again:
            _end_children()
            _say(name, WORDS[received[0]] + advice)
            os._exit(128 + received[0])
        raise Interrupted(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in WORDS}
    try:
        for number, old in before.items():
            if old is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, handle)
        yield received
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _silent(*_error: object) -> None:
    pass


def _end_children() -> None:
    """Kill the processes that this one started: what they wrote is noted image by image."""
    module = sys.modules.get("multiprocessing")
    if module is None:
        return
    children = module.active_children()
    for child in children:
        child.kill()
    for child in children:
        child.join(5)


def _say(name: str, sentence: str) -> None:
    with suppress(OSError):
        sys.stderr.write(f"{name}: {sentence}\n")
        sys.stderr.flush()


def _forget(stream) -> None:
    """Let what the interpreter still flushes at its end go nowhere."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def fail(name: str, sentence: str, status: int = 1) -> NoReturn:
    """Say one sentence and end."""
    _say(name, sentence)
    sys.exit(status)
