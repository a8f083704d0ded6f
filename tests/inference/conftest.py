"""The oblique scene, for the tests of this room."""

from oblique import browser, files, model  # noqa: F401
