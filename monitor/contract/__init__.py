"""The contract as files that other programs read: JSON Schemas, an AsyncAPI document, samples.

All of it is made from the models that the node itself speaks with; `python -m monitor.contract deploy` writes it anew.
"""
