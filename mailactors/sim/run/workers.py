"""Many runs side by side: one process for each job, with one run at a time.

A process that dies loses its current run, which is reported by its name, and no other.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.resource_tracker
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Final, TypeAlias

from mailactors.sim.report.report import CrashedRun, Report, Result
from mailactors.sim.scenario.policies import Task

ENDS_WITHIN_S: Final = 5.0
"""How long a terminated process may take before it is killed."""
Progress: TypeAlias = Callable[[int, int], None]
"""Receives the place of a task and the number of messages that it has accepted so far."""
RunTask: TypeAlias = Callable[[Task, Callable[[int], None]], Report]
"""Makes a run, and calls back with the number of messages that it has accepted so far."""
OnResult: TypeAlias = Callable[[int, Result], None]
"""Receives the place of a task and its result, in the order in which runs end."""


def run_here(
    tasks: Sequence[Task], run_task: RunTask, progress: Progress, on_result: OnResult
) -> bool:
    """Make the runs one after the other; return whether none was interrupted by Ctrl-C."""
    is_whole = True
    try:
        for place, task in enumerate(tasks):
            on_result(place, _run(run_task, task, partial(progress, place)))
    except* KeyboardInterrupt:
        is_whole = False
    return is_whole


def run_side_by_side(
    tasks: Sequence[Task], jobs: int, run_task: RunTask, progress: Progress, on_result: OnResult
) -> bool:
    """Make the runs in `jobs` processes; return whether none was interrupted by Ctrl-C.

    `run_task` must be a module's function, since each process imports it. To be called from the
    main thread, which receives Ctrl-C.
    """
    pool = _Pool(run_task)
    waiting = deque(enumerate(tasks))
    try:
        for _ in range(min(jobs, len(tasks))):
            pool.start(*waiting.popleft())
        while pool.workers:
            for worker in pool.ready():
                received = worker.receive()
                if isinstance(received, int):
                    progress(worker.place, received)
                    continue
                on_result(worker.place, received)
                if worker.is_dead:
                    pool.stop(worker)
                if waiting and worker.is_dead:
                    pool.start(*waiting.popleft())
                elif waiting:
                    worker.assign(*waiting.popleft())
                elif not worker.is_dead:
                    pool.stop(worker)
    except KeyboardInterrupt:
        return False
    finally:
        pool.end()
    return True


class _Worker:
    """A process and our end of its pipe."""

    def __init__(self, process: BaseProcess, pipe: Connection, place: int, task: Task) -> None:
        self.process = process
        self.pipe = pipe
        self.is_dead = False
        self.assign(place, task)

    def assign(self, place: int, task: Task) -> None:
        """Send a task. If the process is dead, the next `receive` finds out."""
        self.place, self.task = place, task
        with contextlib.suppress(OSError):
            self.pipe.send(task)

    def receive(self) -> int | Result:
        try:
            received: int | Result = self.pipe.recv()
        except (EOFError, OSError):
            self.is_dead = True
            self.process.join(ENDS_WITHIN_S)
            return CrashedRun(self.task, f"its process died: {_words(self.process.exitcode)}")
        return received

    def end(self) -> None:
        """Terminate the process; kill it if it does not end."""
        self.pipe.close()
        self.process.terminate()
        self.process.join(ENDS_WITHIN_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class _Pool:
    """The worker processes."""

    def __init__(self, run_task: RunTask) -> None:
        self.workers: dict[int, _Worker] = {}
        """By the file descriptor of their pipe."""
        self._run_task = run_task
        self._spawn = multiprocessing.get_context("spawn")

    def start(self, place: int, task: Task) -> None:
        ours, theirs = self._spawn.Pipe()
        process = self._spawn.Process(target=_work, args=(self._run_task, theirs), daemon=True)
        # Started here, since its start unblocks the signal that is blocked below.
        multiprocessing.resource_tracker.ensure_running()
        with _interrupts_for_us_only():
            process.start()
            theirs.close()
            self.workers[ours.fileno()] = _Worker(process, ours, place, task)

    def ready(self) -> list[_Worker]:
        """Wait until a pipe is readable; return its worker, or several."""
        ready = wait([worker.pipe for worker in self.workers.values()])
        return [worker for worker in self.workers.values() if worker.pipe in ready]

    def stop(self, worker: _Worker) -> None:
        del self.workers[worker.pipe.fileno()]
        worker.end()

    def end(self) -> None:
        """End all workers, at the same time."""
        for worker in self.workers.values():
            worker.process.terminate()
        for worker in self.workers.values():
            worker.end()
        self.workers.clear()


@contextlib.contextmanager
def _interrupts_for_us_only() -> Iterator[None]:
    """Keep Ctrl-C from the processes that are started here, and delay ours until they are started.

    They inherit the blocked signal. Blocking is not enough for this process: another thread, such
    as the progress bar's, may take the signal, and Python then interrupts the main thread.
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


def _work(run_task: RunTask, pipe: Connection) -> None:
    """Run tasks in a worker process until either end of the pipe is closed."""
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            task: Task = pipe.recv()
            pipe.send(_run(run_task, task, pipe.send))


def _run(run_task: RunTask, task: Task, on_progress: Callable[[int], None]) -> Result:
    try:
        return run_task(task, on_progress)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:  # the run's result; the other runs go on
        return CrashedRun(task, "".join(traceback.format_exception(error)).rstrip())


def _words(exit_code: int | None) -> str:
    if exit_code is None:
        return "it does not answer"
    if exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"
