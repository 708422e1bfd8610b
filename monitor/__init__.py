"""Pellucid: a streaming monitor for IVF time-lapse incubators."""

__version__ = "0.1.0"
