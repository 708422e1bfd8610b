"""The page: what the monitor knows, for the eyes of an embryologist. A process of its own (the extra `web`).

It reads the journal, the incubators' pictures and the daemon's own metrics, and writes nothing. It refuses to know how
anything it shows came about, and it makes up nothing: what is not known is shown as unknown, with the reason.
"""
