"""What holds for the whole suite: a skip is for what a user's machine may lack, never for CI."""

import os

import pytest


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run under CI=true in which any test was skipped."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and reporter is not None and reporter.stats.get("skipped"):
        reporter.write_line("skipped tests are failures under CI=true", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
