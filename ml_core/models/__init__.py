"""Models: the artefact, how it is made, and its way through the stores."""
