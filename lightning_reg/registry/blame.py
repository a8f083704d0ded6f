"""The distribution of a component, for error messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lightning_reg.registry.contract import NOUNS
from lightning_reg.registry.entries import providers
from lightning_reg.registry.errors import DataError, ForeignError, UserError

OWN = __name__.partition(".")[0]
OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "failed to allocate memory",
    "bad_alloc",
)
MACHINE = (*OUT_OF_MEMORY, "cuda error", "dataloader worker")
"""Words of errors that are not caused by a component."""


def origin(component: object) -> str:
    """``The head 'good' (Good) of nice-heads 1.0``, as far as known from entry points."""
    cls = component if isinstance(component, type) else type(component)
    target = f"{cls.__module__}:{cls.__qualname__}"
    for group in NOUNS:
        for name, offered in providers(group).items():
            for provider in offered:
                if provider.target.replace(" ", "") == target:
                    return f"The {NOUNS[group]} '{name}' ({cls.__name__}) of {provider.origin}"
    return f"The component {cls.__name__} of the module {cls.__module__}"


def foreign(component: object) -> bool:
    """Whether a component is from another distribution."""
    cls = component if isinstance(component, type) else type(component)
    return cls.__module__.partition(".")[0] != OWN


@contextmanager
def within_memory(rest: str) -> Iterator[None]:
    """Turn a failed allocation, of NumPy, PyTorch or ITK, into a sentence.

    Args:
        rest: of the sentence, what for and what to do, as
            ``"for the new grid of a scan; give a larger spacing"``.

    Raises:
        DataError: the memory does not suffice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as cause:
        if not isinstance(cause, MemoryError) and not any(
            words in str(cause).lower() for words in OUT_OF_MEMORY
        ):
            raise
        raise DataError(f"The memory does not suffice {rest}.") from cause


@contextmanager
def blaming(component: object, doing: str) -> Iterator[None]:
    """Turn exceptions of another distribution's component into a sentence that names it; those of
    built-in components pass through.

    Args:
        doing: its task, such as ``"registering images of 8 x 8 x 8 voxels"``.

    Raises:
        ForeignError: with the component's own exception as its cause.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as cause:
        text = str(cause)
        if not foreign(component) or any(words in text.lower() for words in MACHINE):
            raise
        what = " ".join(text.split())[:200]
        raise ForeignError(
            f"{origin(component)} failed at {doing} ({type(cause).__name__}: {what}); correct it"
            " where it is yours, or use another component."
        ) from cause
