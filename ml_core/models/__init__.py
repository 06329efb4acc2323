"""The artefact and what answers with it: everything here is served."""
