"""The built-in rewards whose functions are elsewhere in `rethink/rewards/`."""

from rethink.recipe.reward import Reward

REWARDS = (
    Reward(
        "math",
        "rethink.rewards.math_reward:math_part",
        "worker",
        "the answer equals the gold, as mathematics",
        gold=True,
    ),
    Reward("number", "rethink.rewards.math_reward:number_part", "here", "the answer is the gold number", gold=True),
    Reward("gym", "rethink.rewards.gym_reward:gym_part", "worker", "what a task of reasoning-gym says", gold=True),
    Reward(
        "language",
        "rethink.rewards.language_reward:language_part",
        "here",
        "share of the thought's words in a language",
    ),
    Reward(
        "judge",
        "rethink.rewards.endpoint_judge:judge_part",
        "thread",
        "what a model behind an endpoint says of the answer",
    ),
    Reward("format", "rethink.rewards.format_reward:format_part", "here", "one thought, then one answer, nothing else"),
    Reward("code", "rethink.rewards.code.part:make_code", "thread", "the program passes every test, in a sandbox"),
    Reward("format-soft", "rethink.rewards.format_reward:soft_format_part", "here", "a quarter for each tag"),
    Reward("steps", "rethink.rewards.format_reward:steps_part", "here", "marks of steps"),
    Reward("repetition", "rethink.rewards.shaping:repetition_part", "here", "penalty for repeated n-grams"),
    Reward("overlong", "rethink.rewards.shaping:overlong_part", "here", "penalty near and beyond a length"),
    Reward(
        "cosine", "rethink.rewards.shaping:cosine_part", "worker", "short right answers, long wrong ones", gold=True
    ),
    Reward("reward-model", "rethink.rewards.model_reward:reward_model_part", "model", "what a reward model says"),
)
