"""Programs that only some tests need: skipped with the reason where one is missing, a failure where all must run."""

from __future__ import annotations

import os
import shutil

import pytest

MUST_RUN = "TESTS_MUST_RUN"  # set in CI: there a test that is left out is a test that fails


def program(name: str, package: str) -> str:
    """The path of a program; else the test is skipped, or fails where all must run."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        leave_out(f"no {name} on this machine (apt install {package})")
    return str(found)


def leave_out(reason: str) -> None:
    """Skip the test with a reason. Where all must run it fails."""
    if os.environ.get(MUST_RUN):
        pytest.fail(f"{reason}, and {MUST_RUN} is set")
    pytest.skip(reason)
