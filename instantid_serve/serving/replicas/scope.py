"""What a stage's lines are about, in the replica that carries it out."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from instantid_serve.errors import InstantIDError
from instantid_serve.log_context import Fields, logged

log = logging.getLogger(__name__)


@contextlib.contextmanager
def stage_for(about: Fields | None) -> Iterator[None]:
    """Let lines written inside name the caller's job, and write down an error nobody foresaw while it is known.

    Serve logs such an error too, but knows no job; the caller gets the class alone.
    """
    with logged(**(about or {})):
        try:
            yield
        except InstantIDError:
            raise
        except Exception:
            log.exception("a stage failed")
            raise
