"""A built-in reward in one file outside the package: the share of a letter among the answer's letters."""

from rethink.recipe.reward import Reward


def make(context, *, letter: str = "e"):
    def score(problem, prompt, completion):
        return completion.text.count(letter) / max(len(completion.text), 1)

    return score


REWARD = Reward("toy", "toy_reward:make", "here", "share of a letter")
