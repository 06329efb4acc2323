"""The tables of a home's small state, all in schema ``surety``."""

from __future__ import annotations

from ml_core.serve.home.postgres import SHARED, DatabaseFormat

__all__ = ["BEAT", "CHANGED", "DOCUMENTS", "JOURNAL", "PRESENCE"]

CHANGED = "surety_document"
"""Channel on which the name of a changed document is told."""
_DOCUMENT = """
CREATE TABLE document(
    name text PRIMARY KEY, content bytea NOT NULL, generation bigint NOT NULL, written_at timestamptz NOT NULL
)"""
DOCUMENTS = DatabaseFormat("documents", {1: ["CREATE SEQUENCE document_generation", _DOCUMENT]})
_JOURNAL = """
CREATE TABLE journal(
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL, event text NOT NULL, entry text NOT NULL
)"""
_REFUSAL = """
CREATE FUNCTION journal_is_kept() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the journal is only ever appended to'; END $$"""
_NO_CHANGE = """
CREATE TRIGGER journal_is_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON journal
FOR EACH STATEMENT EXECUTE FUNCTION journal_is_kept()"""
JOURNAL = DatabaseFormat("journal", {1: [_JOURNAL, _REFUSAL, _NO_CHANGE]})
"""An entry is the JSON text that a file would hold, since signatures are over its numbers as they stand there."""
_HEARTBEAT = """
CREATE TABLE heartbeat(
    model text, process text, machine text NOT NULL, report bytea NOT NULL, beat_at timestamptz NOT NULL,
    PRIMARY KEY(model, process)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000)"""
_SEAT = """
CREATE TABLE seat(name text PRIMARY KEY, epoch bigint NOT NULL, holder text NOT NULL, taken_at timestamptz NOT NULL)"""
PRESENCE = DatabaseFormat("presence", {1: [_HEARTBEAT, _SEAT]})
BEAT = f"""
INSERT INTO {SHARED}.heartbeat(model, process, machine, report, beat_at) VALUES(%s, %s, %s, %s, clock_timestamp())
ON CONFLICT(model, process) DO UPDATE
SET machine = EXCLUDED.machine, report = EXCLUDED.report, beat_at = EXCLUDED.beat_at"""
"""Replaces the report of a process."""
