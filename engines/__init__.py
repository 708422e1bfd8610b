"""Engines: pixels to numbers. They know arrays and manifests; no embryo, file watcher, clock or broker."""
