"""Files of saved KV under a simulated engine: what they report comes between steps."""

from pathlib import Path
from queue import SimpleQueue

from edged.engine.disk_tier import DiskReport, DiskTier
from edged.engine.loop import EngineLoop


class Disk:
    """A directory, and a tier in it whose reports come between steps."""

    def __init__(self, root: Path) -> None:
        self._reports: SimpleQueue[DiskReport] = SimpleQueue()
        self.tier = DiskTier(root, lambda: "key", self._reports.put)
        self.tier.open(10.0)
        self._is_told = False

    def tell(self, loop: EngineLoop) -> None:
        """Every report there will be of what was ordered."""
        if not self._is_told:
            self._is_told = True
            loop.take(self._reports.get(timeout=10.0))
        while loop.scheduler.holdings.files.is_waited_for:
            loop.take(self._reports.get(timeout=10.0))
            loop.check()

    def put_away(self, loop: EngineLoop) -> None:
        while loop.put_away():
            self.tell(loop)
            loop.check()
        self.tier.close(10.0)
        self.tier.release()


class SlowDisk(Disk):
    """What it reads comes some steps later."""

    def __init__(self, root: Path, num_steps: int) -> None:
        super().__init__(root)
        self._num_steps = num_steps
        self._late: list[tuple[int, DiskReport]] = []
        self.num_read = 0

    def tell(self, loop: EngineLoop) -> None:
        files = loop.scheduler.holdings.files
        if self._is_told and files.is_waited_for and not files.is_writing and not self._late:
            self._late.append((self._num_steps, self._reports.get(timeout=10.0)))
            self.num_read += 1
        if not self._late:
            super().tell(loop)
            return
        [(num_left, report)] = self._late
        self._late = [(num_left - 1, report)] if num_left else []
        if not num_left:
            loop.take(report)
            loop.check()


class NoDisk:
    """The same, without one."""

    tier = None

    def tell(self, loop: EngineLoop) -> None: ...

    def put_away(self, loop: EngineLoop) -> None: ...


NO_DISK = NoDisk()
