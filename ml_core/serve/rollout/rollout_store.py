"""Stores the rollout state of one model name: changed under a lock, journalled first, then replaced whole."""

from __future__ import annotations

from typing import Any

from ml_core.base.clock import utc_now, utc_text
from ml_core.base.documents import parsed_document
from ml_core.base.errors import HomeUnwritable, NotLoaded, RolloutConflict
from ml_core.base.journal import who
from ml_core.base.reserve import written_with_reserve
from ml_core.base.settings import Settings
from ml_core.serve.home.homes import open_home
from ml_core.serve.rollout.changes import Change
from ml_core.serve.rollout.rollout_state import RolloutState

__all__ = ["RolloutStore"]


class RolloutStore:
    """The one place that reads and writes the state.

    Parameters
    ----------
    settings : where it lies
    model_name : whose state; the configured model's unless told otherwise

    Attributes
    ----------
    document : name of the state in the home
    silence_s : seconds for which the home had not been reached at the last glimpse; 0 where it is a folder
    """

    def __init__(self, settings: Settings, model_name: str = "") -> None:
        self.model_name = model_name or settings.model_name
        self.document = f"rollout/{self.model_name}.json"
        self._lock = f"rollout/{self.model_name}.lock"
        self._home = open_home(settings)
        self._disk = settings.home
        self._content: bytes | None = None
        self._glimpsed: RolloutState | None = None
        self.silence_s = 0.0

    def read(self) -> RolloutState | None:
        """The state now, or None before a service or command has made one.

        Raises
        ------
        ArtefactError
            It is there and is no rollout state.
        HomeUnreachable
            The home cannot be asked now.
        """
        return self._home.documents.load(self.document, RolloutState)

    def glimpse(self) -> RolloutState | None:
        """The state that is known, without waiting for a home that is far away; None where none is.

        Raises
        ------
        ArtefactError
            It is there and is no rollout state.
        """
        seen = self._home.documents.glimpse(self.document)
        self.silence_s = seen.seen_s
        if seen.content is None:
            return None
        if seen.content != self._content or self._glimpsed is None:
            self._content, self._glimpsed = seen.content, None
            self._glimpsed = parsed_document(seen.content, f"{self.model_name}.json", RolloutState)
        return self._glimpsed

    def begin(
        self, champion: str, promotion_seen: str, model_hash: str = "", *, by: str = "", why: str
    ) -> RolloutState:
        """The state; where there is none yet, a first one with that champion is written."""
        with self._home.documents.locked(self._lock):
            found = self.read()
            if found is not None:
                return found
            first = RolloutState(
                model_name=self.model_name,
                generation=1,
                stage=1,
                champion=champion,
                hashes={champion: model_hash} if model_hash else {},
                promotion_seen=promotion_seen,
                changed_at=utc_text(utc_now()),
                changed_by=by or who(),
                why=why,
            )
            self._write(None, first)
            return first

    def change(
        self, change: Change, *, why: str, by: str = "", expected: int | None = None, dry_run: bool = False
    ) -> tuple[RolloutState, RolloutState]:
        """Apply a change; the states before and after.

        Parameters
        ----------
        why, by : for the journal; ``by`` is the login name unless told otherwise
        expected : the generation the change was decided on; None takes whichever is there

        Raises
        ------
        NotLoaded
            There is no state yet.
        RolloutConflict
            The state is not of the expected generation.
        RolloutRefused, ConfigError
            The change makes no sense from here.
        HomeUnwritable, HomeUnreachable
            The disk is full, even without its reserve, or cannot be written to; the database cannot be reached.
        """
        try:
            return self._change(change, why, by, expected, dry_run=dry_run)
        except OSError as error:
            raise HomeUnwritable(error.strerror or type(error).__name__) from error

    def _change(
        self, change: Change, why: str, by: str, expected: int | None, *, dry_run: bool
    ) -> tuple[RolloutState, RolloutState]:
        with self._home.documents.locked(self._lock):
            before = self.read()
            if before is None:
                raise NotLoaded(
                    f"nothing of {self.model_name} is live: start the service, or promote and import a model"
                )
            if expected is not None and before.generation != expected:
                raise RolloutConflict(expected, before.generation)
            stamp: dict[str, Any] = {
                "generation": before.generation + 1,
                "changed_at": utc_text(utc_now()),
                "changed_by": by or who(),
                "why": why,
            }
            changed = change(before)
            stamp["hashes"] = {tag: h for tag, h in changed.hashes.items() if tag in changed.tags}
            after = RolloutState.model_validate({**changed.model_dump(), **stamp})
            if not dry_run:
                self._write(before, after)
            return before, after

    def _write(self, before: RolloutState | None, after: RolloutState) -> None:
        """Write the journal first, so that a change in force is never missing from it."""
        facts = {
            "model": self.model_name,
            "generation": after.generation,
            "who": after.changed_by,
            "why": after.why,
            "before": None if before is None else before.model_dump(mode="json"),
            "after": after.model_dump(mode="json"),
        }
        written_with_reserve(self._disk, lambda: self._home.journal.append("rollout.changed", facts))
        written_with_reserve(self._disk, lambda: self._home.documents.save(self.document, after))
