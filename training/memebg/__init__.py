"""MEmEBG: multitask embedding for blastocyst grading. Reimplemented from a digest of the paper. See README.md."""
