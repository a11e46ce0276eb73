"""The root of every error the service names."""

from __future__ import annotations

from typing import Any, ClassVar


class InstantIDError(Exception):
    """The root. Called with a sentence for the caller and, optionally, a dict of JSON facts about the case."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    @property
    def detail(self) -> str:
        """The sentence for the caller."""
        return str(self.args[0]) if self.args else self.code

    @property
    def facts(self) -> dict[str, Any]:
        """JSON facts about the case, for example the boxes of the faces found."""
        return dict(self.args[1]) if len(self.args) > 1 else {}

    def to_json(self) -> dict[str, Any]:
        """What a job's row keeps of the error, and what a problem answer is made of."""
        return {name: getattr(self, name) for name in ("code", "status", "retryable", "detail", "facts")}

    def __str__(self) -> str:
        return self.detail
