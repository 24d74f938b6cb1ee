"""Numbers of the papers' equations, one at a time in plain Python: nothing of the package is imported."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations

Numbers = Sequence[float]


def mean(values: Numbers) -> float:
    return math.fsum(values) / len(values)


def std(values: Numbers, less: int = 1) -> float:
    return math.sqrt(math.fsum((v - mean(values)) ** 2 for v in values) / (len(values) - less))


def scaled(values: Numbers) -> list[float]:
    """0 where all are equal, as every method has it that leaves such groups out."""
    return [(v - mean(values)) / std(values) if max(values) > min(values) else 0.0 for v in values]


def max_rl(rewards: Numbers) -> list[float]:
    """MaxRL, arXiv 2602.02710: (r - mean) / mean."""
    return [(r - mean(rewards)) / mean(rewards) if mean(rewards) else 0.0 for r in rewards]


def pass_at_k(rewards: Numbers, k: int) -> list[float]:
    """Pass@k Training, arXiv 2508.10751: its counts of right and wrong ones, in closed form; rewards of 0 and 1."""
    size, wrong = len(rewards), sum(r == 0 for r in rewards)
    share = 1 - math.comb(wrong, k) / math.comb(size, k)
    if share in (0, 1):
        return [0.0] * size
    deviation = math.sqrt(share * (1 - share))
    lost = 1 - share - math.comb(wrong - 1, k - 1) / math.comb(size - 1, k - 1)
    return [(1 - share if r else lost) / deviation for r in rewards]


def pass_at_k_by_sets(rewards: Numbers, k: int) -> list[float]:
    """The same by counting every set, for any rewards."""
    sets = list(combinations(range(len(rewards)), k))
    best = [max(rewards[i] for i in one) for one in sets]
    deviation = std(best, less=0)
    if deviation < 1e-12:
        return [0.0] * len(rewards)
    held = [[b for b, one in zip(best, sets, strict=True) if i in one] for i in range(len(rewards))]
    return [(mean(own) - mean(best)) / deviation for own in held]


def max_at_k(rewards: Numbers, k: int) -> list[float]:
    """PKPO, arXiv 2505.15201: the best of a set less the best of its others, over the sets that hold each sample."""
    found = []
    for i in range(len(rewards)):
        others = list(combinations([r for j, r in enumerate(rewards) if j != i], k - 1))
        found.append(k * mean([max(*one, rewards[i]) - max(one) for one in others]))
    return found


def gpg(groups: Sequence[Numbers]) -> list[list[float]]:
    """GPG, arXiv 2504.02546: alpha = B / (B - M), M groups without signal."""
    useful = sum(max(group) > min(group) for group in groups)
    alpha = len(groups) / useful if useful else 0.0
    return [[alpha * (r - mean(group)) for r in group] for group in groups]


def gdpo(groups: Sequence[Sequence[Numbers]], weights: Numbers) -> list[list[float]]:
    """GDPO, arXiv 2601.05242, of [group][reward function][sample]."""
    summed = []
    for group in groups:
        parts = [[w * a for a in scaled(scores)] for w, scores in zip(weights, group, strict=True)]
        summed.append([math.fsum(column) for column in zip(*parts, strict=True)])
    all_of_them = [value for row in summed for value in row]
    return [[(v - mean(all_of_them)) / std(all_of_them) for v in row] for row in summed]


def reinforce_pp(rewards: Numbers, kls: Sequence[Numbers], beta: float) -> list[list[float]]:
    """REINFORCE++, arXiv 2501.03262, equations 8 to 10: a value for each token of each sample."""
    plain = [[r - beta * math.fsum(kl[t:]) for t in range(len(kl))] for r, kl in zip(rewards, kls, strict=True)]
    tokens = [value for row in plain for value in row]
    return [[(value - mean(tokens)) / std(tokens) for value in row] for row in plain]


def sapo(ratio: float, advantage: float) -> tuple[float, float]:
    """SAPO, arXiv 2511.20347: (loss, d loss / d log p), its gradient weight 4 p (1 - p)."""
    tau = 1.0 if advantage > 0 else 1.05
    gate = 1 / (1 + math.exp(-tau * (ratio - 1)))
    return -4 / tau * gate * advantage, -4 * gate * (1 - gate) * ratio * advantage


def gmpo(log_ratios: Numbers, advantage: float) -> tuple[float, list[float]]:
    """GMPO, arXiv 2507.20673: (loss of the completion, d loss / d log p of each token), bounds e^-0.4 and e^0.4."""
    sign = math.copysign(1, advantage)
    least = [min(sign * x, sign * min(max(x, -0.4), 0.4)) * sign for x in log_ratios]
    ratio = math.exp(mean(least))
    slopes = [-advantage * ratio / len(least) * (x == y) for x, y in zip(log_ratios, least, strict=True)]
    return -advantage * ratio, slopes


def controller(beta: float, kl: float, target: float) -> float:
    """Ziegler et al., arXiv 1909.08593, section 2.2, with K_beta = 0.1."""
    error = min(max((kl - target) / target, -0.2), 0.2)
    return beta * (1 + 0.1 * error)


def success_weights(advantages: Callable[[Numbers], Numbers], size: int, p: float) -> float:
    """By what the gradient of the success rate p is multiplied in expectation, of rewards 0 and 1 in groups of `size`.

    A right sample's mean score is grad p / p, a wrong one's -grad p / (1 - p): sum over the number of right ones.
    """
    total = 0.0
    for right in range(size + 1):
        chance = math.comb(size, right) * p**right * (1 - p) ** (size - right)
        found = advantages([1.0] * right + [0.0] * (size - right))
        total += chance * (math.fsum(found[:right]) / p - math.fsum(found[right:]) / (1 - p)) / size
    return total


def covariances(logprobs: Numbers, advantages: Numbers) -> list[float]:
    """Cui et al., arXiv 2505.22617: the centred product of each token."""
    return [(x - mean(logprobs)) * (a - mean(advantages)) for x, a in zip(logprobs, advantages, strict=True)]
