"""One set-up at a time per environment, and how the next one knows that the last was killed."""
from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


class Journal:
    """The locked file beside an environment: while pip changes the environment, it has the number of the process.

    A number that is there when the lock is free is that of a set-up that was killed.
    """

    def __init__(self, file):
        self.file = file
        self.cut_off = bool(self.read())

    def read(self) -> str:
        """The number, or nothing."""
        self.file.seek(0)
        return self.file.read().strip()

    def write(self, text: str) -> None:
        """Replaces it."""
        self.file.truncate(0)  # the file is open for appending
        self.file.write(text)
        self.file.flush()


@contextlib.contextmanager
def lock(path: Path):
    """Holds an environment, waiting for another set-up that has it; the system frees it when all holders have ended.

    Yields:
        The environment's :class:`Journal`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f'{path.name}.lock'), 'a+') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            say(f'waiting for another set-up of {path} (process {file.read().strip() or "unknown"})')
            fcntl.flock(file, fcntl.LOCK_EX)
        os.set_inheritable(file.fileno(), True)  # pip holds it, too: it may outlive a set-up that is killed
        yield Journal(file)


def say(text: str) -> None:
    """Prints a line at once."""
    print(f'setup: {text}', flush=True)
