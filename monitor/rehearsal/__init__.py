"""A scripted table of virtual embryos, taken the whole way once, and the alerts scored on what was recorded.

Recording draws, and takes long; scoring reads the record, and takes seconds, so that a limit can be tried again.
Virtual embryos are an exercise, never evidence about real ones.
"""
