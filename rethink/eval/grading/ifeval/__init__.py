"""IFEval: whether an answer follows instructions that can be checked by rule (Zhou et al., 2023, arXiv 2311.07911)."""
