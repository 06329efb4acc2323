"""One turn of continuous training, as a scheduler runs it (`make ct`)."""

from ml_core.cli.cmd_ct import main

main()
