"""Objectives, advantages, losses and KL: pure functions of tensors, each with its paper and equation.

Axes: P prompts of a batch, G group size, N rollouts (P * G), T completion tokens of a batch, packed without padding.
"""
