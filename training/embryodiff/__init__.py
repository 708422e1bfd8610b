"""EmbryoDiff, made causal: a frame encoder over focal planes, and a conditional diffusion head that steps.

Reimplemented from the abstract of "EmbryoDiff" (arXiv 2511.11027) and public descriptions; see README.md.
"""
