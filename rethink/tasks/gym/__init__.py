"""Tasks of reasoning-gym: their problems (`problems`), and what judges the answers to them (`checking`).

The library's own scorers were not written for hostile text: some evaluate it as Python. `scorers` says for each task
the checker: our own function (`ours`), the library's scorer if it only compares strings or numbers, or the
library's scorer in the sandbox (`rethink.rewards.gym_reward`).
"""
