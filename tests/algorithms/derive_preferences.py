"""Values and slopes of every preference objective, derived by hand from the papers in fp64 and written to a file:

    python tests/algorithms/derive_preferences.py > tests/algorithms/preference_vectors.json

Nothing of Rethink is imported. Each example is (log p, log p_ref, tokens) of the chosen and of the rejected answer; for
KTO of one answer, with its label. A slope is d loss / d log p of an answer, by calculus and not by differences.
"""

import json
import math

PAIRS = [
    ((-12.5, -13.0, 7), (-15.25, -14.0, 9)),
    ((-3.0, -2.5, 2), (-2.0, -3.5, 3)),
    ((-140.0, -120.0, 64), (-90.0, -95.0, 40)),
    ((-0.75, -0.75, 1), (-6.5, -6.5, 5)),
    ((-22.0, -41.0, 30), (-80.5, -33.0, 21)),
]
LABELLED = [
    ((-12.5, -13.0, 7), True),
    ((-15.25, -14.0, 9), False),
    ((-3.0, -2.5, 2), False),
    ((-22.0, -41.0, 30), True),
]
KL = 0.7


def log_sigmoid(x):
    return -math.log1p(math.exp(-x)) if x >= 0 else x - math.log1p(math.exp(x))


def sigmoid(x):
    return math.exp(log_sigmoid(x))


def logistic(d):
    """(-log sigmoid(d), its slope in d)."""
    return -log_sigmoid(d), -sigmoid(-d)


def ratios(chosen, rejected):
    return chosen[0] - chosen[1], rejected[0] - rejected[1]


def dpo(chosen, rejected, beta=0.1):
    """2305.18290, equation 7: d = beta (ratio of the chosen - ratio of the rejected)."""
    c, r = ratios(chosen, rejected)
    value, slope = logistic(beta * (c - r))
    return value, [beta * slope, -beta * slope], [beta * c, beta * r]


def dpo_norm(chosen, rejected, beta=5.0):
    c, r = ratios(chosen, rejected)
    c, r = c / chosen[2], r / rejected[2]
    value, slope = logistic(beta * (c - r))
    return value, [beta * slope / chosen[2], -beta * slope / rejected[2]], [beta * c, beta * r]


def cdpo(chosen, rejected, beta=0.1, e=0.1):
    """Cross-entropy of sigmoid(d) with the label 1 - e: its slope in d is sigmoid(d) - (1 - e)."""
    c, r = ratios(chosen, rejected)
    d = beta * (c - r)
    value = -(1 - e) * log_sigmoid(d) - e * log_sigmoid(-d)
    slope = sigmoid(d) - (1 - e)
    return value, [beta * slope, -beta * slope], [beta * c, beta * r]


def robust_dpo(chosen, rejected, beta=0.1, e=0.1):
    """2403.00409: the slope in d is (-(1 - e) sigmoid(-d) - e sigmoid(d)) / (1 - 2 e)."""
    c, r = ratios(chosen, rejected)
    d = beta * (c - r)
    value = (-(1 - e) * log_sigmoid(d) + e * log_sigmoid(-d)) / (1 - 2 * e)
    slope = (-(1 - e) * sigmoid(-d) - e * sigmoid(d)) / (1 - 2 * e)
    return value, [beta * slope, -beta * slope], [beta * c, beta * r]


def ipo(chosen, rejected, tau=0.1):
    """2310.12036, equation 17: (h - 1 / (2 tau))^2, h the difference of the log-ratios."""
    c, r = ratios(chosen, rejected)
    gap = c - r - 0.5 / tau
    return gap * gap, [2 * gap, -2 * gap], [tau * c, tau * r]


def simpo(chosen, rejected, beta=2.0, gamma=1.0):
    """2405.14734, equation 6."""
    c, r = (beta * answer[0] / answer[2] for answer in (chosen, rejected))
    value, slope = logistic(c - r - gamma)
    return value, [beta * slope / chosen[2], -beta * slope / rejected[2]], [c, r]


def orpo(chosen, rejected, weight=0.1):
    """2403.07691, equations 6 and 7. With q = exp(m), m the mean: d log(q / (1 - q)) / d m = 1 / (1 - q)."""
    means = [answer[0] / answer[2] for answer in (chosen, rejected)]
    odds = [math.log(math.exp(m) / (1 - math.exp(m))) for m in means]
    value, slope = logistic(odds[0] - odds[1])
    steps = [1 / (1 - math.exp(m)) for m in means]
    slopes = [(-1 + weight * slope * steps[0]) / chosen[2], -weight * slope * steps[1] / rejected[2]]
    return -means[0] + weight * value, slopes, [weight * m for m in means]


def kto(answer, label, beta=0.1, kl=KL, desirable=1.25, undesirable=0.75):
    """2402.01306, equation 8: w - w q, q = sigmoid(s (reward - beta KL)); its slope in the reward is -s w q (1 - q)."""
    reward = beta * (answer[0] - answer[1])
    sign, weight = (1, desirable) if label else (-1, undesirable)
    share = sigmoid(sign * (reward - beta * kl))
    return weight - weight * share, [-sign * weight * beta * share * (1 - share)], [reward]


PAIRED = {
    "dpo": dpo, "dpo-norm": dpo_norm, "cdpo": cdpo, "robust-dpo": robust_dpo, "ipo": ipo, "simpo": simpo, "orpo": orpo,
}  # fmt: skip


def derived():
    """Everything, as the file holds it."""
    found = {name: [of(*pair) for pair in PAIRS] for name, of in PAIRED.items()}
    found["kto"] = [kto(answer, label) for answer, label in LABELLED]
    named = {
        name: [{"loss": loss, "slopes": slopes, "rewards": rewards} for loss, slopes, rewards in examples]
        for name, examples in found.items()
    }
    return {"pairs": PAIRS, "labelled": LABELLED, "kl": KL, "objectives": named}


if __name__ == "__main__":
    print(json.dumps(derived(), indent=1))
