"""Fits the hours of virtual embryos to the public tables: `python -m training.virtual_life.fit` prints what
`monitor/simulator/timing.py` holds.
"""
