"""A custom reward, in a recipe:

    reward: {parts: [{name: accuracy}, {name: brevity, function: "examples/my_reward.py:brevity"}]}

Try it on recorded completions first:

    rethink score --reward examples/my_reward.py:brevity --data FILE.jsonl --out scored.jsonl
"""


def brevity(problem, text, limit=400):
    """1 for an empty turn, falling to 0 at `limit` characters; None (abstains) if there is no thought."""
    return max(0.0, 1.0 - len(text) / limit) if "</think>" in text else None
