"""AMSNet: probability that an embryo reaches the blastocyst stage, one step per 6-hour segment.

Reimplemented from "AMSNet: early blastocyst development prediction from time-lapse videos". See README.md.
"""
