"""How many calls of a host run at a time."""

import threading


class Slots:
    """A semaphore that can become smaller while it is in use."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._used < self._size)
            self._used += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._used -= 1
            self._changed.notify()

    def shrink(self) -> bool:
        """Allow one less than are in use beside the caller, who has just left; False if it cannot be less."""
        with self._changed:
            if self._size == 1:
                return False
            self._size = max(1, min(self._size - 1, self._used))
            return True
