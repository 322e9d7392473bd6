"""Many runs, side by side: one process a core, each with one run at a time.

Results come back in the order of the tasks, whatever process finished first. A process that dies
costs the run that it had, which is told by its name, and nothing else.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.resource_tracker
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Final, TypeAlias

from mailactors.sim.report.report import CrashedRun, Report, Result
from mailactors.sim.scenario.policies import Task

ENDS_WITHIN_S: Final = 5.0
"""How long a process that was told to end may take before it is killed."""


Progress: TypeAlias = Callable[[int, int], None]
"""Is told the place of a task, and how many messages it has accepted so far."""
MakeRun: TypeAlias = Callable[[Task, Callable[[int], None]], Report]
"""Makes a run, and tells meanwhile how many messages it has accepted."""
OnResult: TypeAlias = Callable[[int, Result], None]


def run_here(
    tasks: Sequence[Task], make_run: MakeRun, progress: Progress, on_result: OnResult
) -> bool:
    """Make the runs one after the other; return whether none was interrupted by Ctrl-C."""
    is_whole = True
    try:
        for place, task in enumerate(tasks):
            on_result(place, _make_run(make_run, task, _telling(progress, place)))
    except* KeyboardInterrupt:
        is_whole = False
    return is_whole


def run_side_by_side(
    tasks: Sequence[Task], jobs: int, make_run: MakeRun, progress: Progress, on_result: OnResult
) -> bool:
    """Make the runs in so many processes; return whether none was interrupted by Ctrl-C.

    `perform` must be a function of a module, for it is looked up there by each process. To be
    called from the main thread, where Ctrl-C arrives.
    """
    crew = _Pool(make_run)
    waiting = deque(enumerate(tasks))
    try:
        for _ in range(min(jobs, len(tasks))):
            crew.hire(*waiting.popleft())
        while crew.workers:
            for worker in crew.heard():
                said = worker.listen()
                if isinstance(said, int):
                    progress(worker.place, said)
                    continue
                on_result(worker.place, said)
                if worker.is_dead:
                    crew.dismiss(worker)
                if waiting and worker.is_dead:
                    crew.hire(*waiting.popleft())
                elif waiting:
                    worker.give(*waiting.popleft())
                elif not worker.is_dead:
                    crew.dismiss(worker)
    except KeyboardInterrupt:
        return False
    finally:
        crew.end()
    return True


class _Worker:
    """A process, and the end of its pipe."""

    def __init__(self, process: BaseProcess, pipe: Connection, place: int, task: Task) -> None:
        self.process = process
        self.pipe = pipe
        self.is_dead = False
        self.give(place, task)

    def give(self, place: int, task: Task) -> None:
        """Hand over a task. Whether the process still lives shows when it is listened to."""
        self.place, self.task = place, task
        with contextlib.suppress(OSError):
            self.pipe.send(task)

    def listen(self) -> int | Result:
        """Return what it says: how far it is, or how its task ended."""
        try:
            said: int | Result = self.pipe.recv()
        except (EOFError, OSError):
            self.is_dead = True
            self.process.join(ENDS_WITHIN_S)
            return CrashedRun(self.task, f"its process died: {_words(self.process.exitcode)}")
        return said

    def end(self) -> None:
        """Let it go, by force if need be."""
        self.pipe.close()
        self.process.terminate()
        self.process.join(ENDS_WITHIN_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class _Pool:
    """All processes."""

    def __init__(self, make_run: MakeRun) -> None:
        self.workers: dict[int, _Worker] = {}
        """By the file descriptor of their pipe."""
        self._make_run = make_run
        self._spawn = multiprocessing.get_context("spawn")

    def hire(self, place: int, task: Task) -> None:
        """Start a process on a task."""
        ours, theirs = self._spawn.Pipe()
        process = self._spawn.Process(target=_work, args=(self._make_run, theirs), daemon=True)
        # Its own start, which the first process's would do, lets the signal through again.
        multiprocessing.resource_tracker.ensure_running()
        with _interrupts_for_us_only():
            process.start()
            theirs.close()
            self.workers[ours.fileno()] = _Worker(process, ours, place, task)

    def heard(self) -> list[_Worker]:
        """Wait for someone to say something; return those who did."""
        ready = wait([worker.pipe for worker in self.workers.values()])
        return [worker for worker in self.workers.values() if worker.pipe in ready]

    def dismiss(self, worker: _Worker) -> None:
        """End one."""
        del self.workers[worker.pipe.fileno()]
        worker.end()

    def end(self) -> None:
        """End all: those that are still at work are told at the same time."""
        for worker in self.workers.values():
            worker.process.terminate()
        for worker in self.workers.values():
            worker.end()
        self.workers.clear()


@contextlib.contextmanager
def _interrupts_for_us_only() -> Iterator[None]:
    """Keep Ctrl-C from processes that are started here, and from the middle of starting them.

    They inherit the blocked signal. Blocking it is not enough for us: another thread, such as a
    progress bar's, may take it, and Python then interrupts this one.
    """
    caught: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _frame: caught.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGINT, handler)
    if caught:
        raise KeyboardInterrupt


def _work(make_run: MakeRun, pipe: Connection) -> None:
    """Be a process: take tasks until there are none, or nobody listens any more."""
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            task: Task = pipe.recv()
            pipe.send(_make_run(make_run, task, pipe.send))


def _make_run(make_run: MakeRun, task: Task, on_progress: Callable[[int], None]) -> Result:
    try:
        return make_run(task, on_progress)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:  # a run's fault is its result: the others go on
        return CrashedRun(task, "".join(traceback.format_exception(error)).rstrip())


def _telling(progress: Progress, place: int) -> Callable[[int], None]:
    return lambda accepted: progress(place, accepted)


def _words(exit_code: int | None) -> str:
    if exit_code is None:
        return "it does not answer"
    if exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"
