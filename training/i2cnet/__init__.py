"""I2CNet: the parts of a blastocyst, pixel by pixel.

Reimplemented from "I2CNet: an intra- and inter-class context information fusion network for blastocyst segmentation"
(IJCAI 2022). See README.md.
"""
