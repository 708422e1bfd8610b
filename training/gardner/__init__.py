"""Multi-label grading: one VGG16, three branches.

Reimplemented from the slides of Lockhart, Saeedi, Au and Havelock (MMSP 2019). See README.md.
"""
