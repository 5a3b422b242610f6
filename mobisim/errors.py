"""The one small tree of errors that users see."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MobisimError(Exception):
    """An error that ends a command with a message and an exit code, never a traceback."""

    exit_code = 2


class InputError(MobisimError):
    """Something that the user gave is wrong: where, what was expected, what was got, what to do."""

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.message, self.where = message, where
        self.expected, self.got, self.hint = expected, got, hint
        super().__init__(self._text())

    def placed(self, where: str | None) -> InputError:
        """The same error with another word on where it is."""
        return InputError(
            self.message, where=where, expected=self.expected, got=self.got, hint=self.hint
        )

    def _text(self) -> str:
        details = [
            self.message,
            *(
                f"{label}: {value}"
                for label, value in (("expected", self.expected), ("got", self.got))
                if value is not None
            ),
            *([self.hint] if self.hint else []),
        ]
        if self.where is None:
            return "\n".join(details)
        return "\n".join([self.where, *(f"  {line}" for line in details)])


class InvariantError(MobisimError):
    """A numbered invariant that a finished run broke: a defect of mobisim, never of the user."""

    exit_code = 1

    def __init__(self, number: int, rule: str, evidence: str) -> None:
        self.number = number
        super().__init__(
            f"invariant I{number} is broken: {rule}\n  {evidence}\n"
            "  no result was published; this is a defect of mobisim, please report it"
        )


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `word`, or None where none is near."""
    matches = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown_name(
    kind: str, name: str, known: Iterable[str], *, where: str | None = None
) -> InputError:
    """The error for a name that nobody knows, with the nearest name or the list of them."""
    names = sorted(known)
    guess = nearest(name, names)
    hint = f"did you mean {guess!r}?" if guess else f"known: {', '.join(names)}"
    return InputError(f"no {kind} {name!r}; {hint}", where=where)
