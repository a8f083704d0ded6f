"""Checks as tests of pytest."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from lightning_reg.testing.checks import Check, Factory, checks, require_known


def parametrize_with_checks(
    kind: str,
    factories: Mapping[str, Factory],
    *,
    expected_failures: Mapping[str, Mapping[str, str]] | None = None,
) -> pytest.MarkDecorator:
    """Decorator of a test function with the argument ``check``: a test per component and check,
    each of which calls ``check()``.

    Args:
        kind: see :func:`~lightning_reg.testing.checks`.
        factories: factories by the name of the component, which is part of the test's name.
        expected_failures: per component, reasons by check; such a test has to fail (``xfail``,
            strict).
    """
    expected = expected_failures or {}
    cases = []
    for name, factory in factories.items():
        require_known(kind, expected.get(name, {}))
        for one in checks(kind):
            marks = _marks(one, expected.get(name, {}))
            cases.append(
                pytest.param(functools.partial(one, factory), id=f"{name}-{one.name}", marks=marks)
            )
    return pytest.mark.parametrize("check", cases)


class ComponentTests:
    """Base of a test class: set :attr:`kind`, override the fixture :meth:`factory`, and every check
    is a test.

    Attributes:
        kind: ``backbone, head, composer, loss, callback`` or ``dataset``.
        expected_failures: reasons by name of the check.
    """

    kind: ClassVar[str]
    expected_failures: ClassVar[Mapping[str, str]] = {}

    @pytest.fixture
    def factory(self) -> Factory:
        """Factory of the component: its class, or a function; for a head with ``channels`` and
        ``strides``, else without arguments.

        It is a fixture, so that it can use other fixtures (for a data set, files in ``tmp_path``).
        """
        raise NotImplementedError(
            "override the fixture 'factory' of ComponentTests; return the component's class"
        )

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Make a test per check."""
        if "check" in metafunc.fixturenames:
            require_known(self.kind, self.expected_failures)
            found = [
                pytest.param(one, id=one.name, marks=_marks(one, self.expected_failures))
                for one in checks(self.kind)
            ]
            metafunc.parametrize("check", found)

    def test_conformance(self, check: Check, factory: Factory) -> None:
        """Run one check."""
        check(factory)


def _marks(one: Check, expected: Mapping[str, str]) -> list[pytest.MarkDecorator]:
    return (
        [pytest.mark.xfail(strict=True, reason=expected[one.name])] if one.name in expected else []
    )
