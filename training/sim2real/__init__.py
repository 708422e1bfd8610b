"""From drawn embryos to real ones: a small classifier trained on virtual frames only, measured on real pictures.

It measures the drawing, nothing else: no weight of this room is shipped, and its figures say nothing about patients.
"""
