"""The examples in docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest

import mailactors

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(mailactors.__path__, "mailactors.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_are_true(name: str) -> None:
    assert 0 == doctest.testmod(importlib.import_module(name)).failed


def test_there_are_examples_at_all() -> None:
    finder = doctest.DocTestFinder()
    found = [t for n in MODULES for t in finder.find(importlib.import_module(n)) if t.examples]

    assert len(found) > 10
