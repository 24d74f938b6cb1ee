"""Every metric of a run: its meaning, its unit, its healthy values, and what to do otherwise.

This table is the only source: the report and `docs/metrics.md` are generated from it
(`python -m rethink.observe.glossary > docs/metrics.md`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rethink.terminal import say


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """One metric."""

    name: str
    """Key in `metrics.jsonl`."""
    unit: str
    """Unit of a value; empty for plain numbers."""
    meaning: str
    """Its exact definition."""
    healthy: str
    """Its values in a run that learns."""
    unhealthy_action: str
    """What to check or change otherwise."""
    source: str
    """Module that computes it."""


_TRAIN = "rethink.kinds"
_EVAL = "rethink.eval"
_LOSS = "rethink.algorithms"
_CLUSTER = "rethink.distributed"
_NOTHING = "Nothing; for information only."

SECTIONS: tuple[tuple[str, str, tuple[MetricInfo, ...]], ...] = (
    (
        "Progress",
        "The progress of the run. A step is one optimizer update; a rollout batch is used for one or more steps.",
        (
            MetricInfo("step", "steps", "Optimizer updates done. Step 0 holds the evaluation before training.",
                       "Rises by one per row.", "A gap or repeat is a bug in Rethink: please report it.", _TRAIN),
            MetricInfo("batch", "batches", "Number of the rollout batch that the step trained on; its rollouts are in "
                       "`rollouts/batch-….parquet`.", "Rises by one every `mini_batches × epochs` steps.", _NOTHING,
                       _TRAIN),
            MetricInfo("tokens/trained", "tokens", "Input tokens of the model in training since the start of the run; "
                       "a shared prefix counts once. Fine-tuning logs `train/input_tokens` per step.",
                       "Rises steadily.", "Does not rise: no group had a signal; see `rollout/no_signal`.", _TRAIN),
            MetricInfo("tokens/total", "tokens", "Completion tokens generated since the start of the run.",
                       "Rises steadily.", _NOTHING, _TRAIN),
        ),
    ),
    (
        "Reward",
        "The rewards of the rollouts, over the rollout batch.",
        (
            MetricInfo("reward/mean", "reward", "Mean of the weighted sum of the reward functions, over the rollouts "
                       "that have a reward.", "Rises, quickly at first, then levels off.",
                       "Flat from the start: the model always fails, or always succeeds; choose easier or harder "
                       "problems, add an example to the prompt, or raise the learning rate. Falls: lower the learning "
                       "rate.",
                       _TRAIN),
            MetricInfo("reward/std", "reward", "Standard deviation of the reward over the batch.",
                       "Well above 0 while there is something to learn; falls as the task is mastered.",
                       "Near 0 early: all rollouts have the same reward, so there is no signal; change the difficulty.",
                       _TRAIN),
            MetricInfo("reward/<part>", "score", "Mean score of one reward function, before its weight, over the "
                       "rollouts that it scored.", "Each rises; format usually first.",
                       "One rises while another falls: the policy trades one for the other; change their weights "
                       "and read some completions.", "rethink.rewards"),
            MetricInfo("reward/failed", "share", "Share of the results of all reward functions that are failures.",
                       "0.", "Read the causes in the column `reward_parts` of the rollouts and fix the reward; above "
                       "`reward.max_failure_share` the run stops.", "rethink.rewards"),
            MetricInfo("failure/<cause>", "outcomes", "Failures of reward functions in the batch by cause: `timeout`, "
                       "`crash`, `out_of_memory`, `invalid` (no number was returned) or `exception`; only causes that "
                       "occurred.", "Absent.", "`timeout`: raise `reward.seconds` or fix the checker; "
                       "`out_of_memory`: raise `reward.memory_gb`; others: read an example in the rollouts.",
                       "rethink.rewards"),
            MetricInfo("reward/abstained", "share", "Share of rollouts for which a reward function abstained, for "
                       "example because the "
                       "gold answer cannot be read.", "Near 0.", "Check the gold answers and `answer_format` of the "
                       "task.", "rethink.rewards"),
        ),
    ),
    (
        "Rollouts",
        "The completions of the policy, over the rollout batch.",
        (
            MetricInfo("rollout/accuracy", "share", "Mean of the reward `accuracy`: the share of right answers.",
                       "Rises, noisily: a batch is small. The held-out evaluation is less noisy.",
                       "Rises while `eval/accuracy` does not: the model overfits the training problems; use more of "
                       "them.", _TRAIN),
            MetricInfo("rollout/format", "share", "Share of completions that keep the required format.",
                       "Near 1 after the first tens of steps.", "Stays near 0: show the format in an example of the "
                       "prompt. Falls later: raise the weight of the format reward or lower the learning rate.",
                       _TRAIN),
            MetricInfo("rollout/length_mean", "tokens", "Mean length of a completion, its stop token included.",
                       "Changes slowly. On hard tasks it grows as the model learns to think; on easy tasks it may "
                       "fall.",
                       "Reaches the limit: see `rollout/truncated`. Falls to a few tokens: the model skips thinking; "
                       "check that the reward requires it.", _TRAIN),
            MetricInfo("rollout/length_max", "tokens", "Length of the longest completion.",
                       "Below `max_new_tokens` most of the time.", "See `rollout/truncated`.", _TRAIN),
            MetricInfo("rollout/truncated", "share", "Share of completions cut off by the token limit.",
                       "Below 0.1. With `algorithm.mask_truncated`, the loss leaves them out.",
                       "Raise `rollout.max_new_tokens`. If the texts are repetitive, lower the learning "
                       "rate or the temperature.", _TRAIN),
            MetricInfo("rollout/no_signal", "share", "Share of the groups sampled whose rewards are all equal, or the "
                       "scores of `rollout.dynamic_sampling.reward`: their advantages are 0. "
                       "With a critic: of groups without any reward.",
                       "Below 0.5.", "With a high reward, the task is too easy; with a low one, too hard. Change the "
                       "mixture or curriculum, or raise `group_size`.", _TRAIN),
            MetricInfo("rollout/groups", "groups", "Groups sampled for the batch, trained on or not. Only with "
                       "`rollout.dynamic_sampling`.", "Below twice `prompts_per_batch`.",
                       "Much of the sampling is for nothing: see `rollout/no_signal`.", _TRAIN),
            MetricInfo("rollout/rounds", "rounds", "Rounds of sampling for the batch. Only with "
                       "`rollout.dynamic_sampling`.", "Well below `max_rounds`.",
                       "At `max_rounds`, the batch may have too few groups with a signal: see `rollout/no_signal`.",
                       _TRAIN),
            MetricInfo("problems/below", "problems", "Problems whose pass rate, when last measured, was below the "
                       "bounds of `tasks.N.difficulty`. Only with these bounds, as the next two.",
                       "Falls as the policy learns.", "Most of the problems: they are too hard; see "
                       "`rollout/no_signal`.", _TRAIN),
            MetricInfo("problems/within", "problems", "Problems whose pass rate was within these bounds.",
                       "Most of the problems.", "Few are left to learn from: widen the bounds, or add problems.",
                       _TRAIN),
            MetricInfo("problems/above", "problems", "Problems whose pass rate was above these bounds.",
                       "Rises as the policy learns.", "Nearly all: the task is mastered; add harder problems.", _TRAIN),
            MetricInfo("rollout/reflection", "words per 1,000 words", "Words of reflection (such as \"wait\", "
                       "\"let me check\") per 1,000 words of completion text.",
                       "Low for small models. A rise together with accuracy is the paper's aha moment.",
                       "Rises sharply without accuracy: the words have no effect; read the completions.",
                       "rethink.analysis.reflection"),
            MetricInfo("rollout/reexamining", "share", "Share of completions with at least one word of reflection.",
                       "See `rollout/reflection`.", "See `rollout/reflection`.", "rethink.analysis.reflection"),
            MetricInfo("rollout/corrected", "times", "Self-corrections in the batch: the same thing is stated wrong "
                       "before a word of reflection and right after it (docs/reflection.md).",
                       "0 for most small models. If it rises with accuracy, the reflection is real.",
                       "0 while `rollout/reflection` rises: the words have no effect; read the completions.",
                       "rethink.analysis.self_correction"),
            MetricInfo("rollout/repeated", "share", "Mean share of a completion's 8-grams of tokens that repeat "
                       "another 8-gram of the same completion.", "Near 0.",
                       "The policy degenerates: lower the learning rate, or add the KL term (`algorithm.beta`).",
                       _TRAIN),
            MetricInfo("rollout/tokens", "tokens", "Completion tokens of the rollout batch.",
                       "Batch size times mean length.", _NOTHING, _TRAIN),
            MetricInfo("rollout/tokens_per_s", "tokens/s", "Completion tokens generated per second of rollout.",
                       "Steady; higher with more sequences at once.", "Falls: other programs use the processor, or the "
                       "KV budget is too small (`rollout.kv_budget_gb`).", _TRAIN),
        ),
    ),
    (
        "Policy",
        "The effect of the update on the policy, over the completion tokens of the step.",
        (
            MetricInfo("policy/loss", "loss", "The loss that was minimised (policy term and KL term).",
                       "Near 0 and noisy. With one update per batch its value has little meaning; its gradient counts.",
                       "Not finite: the run stops.", _LOSS),
            MetricInfo("policy/kl", "nats/token", "Mean estimate of the KL divergence from the reference model, by "
                       "`algorithm.kl` (k3 unless set). With `algorithm.kl_in: reward` log p - log p_ref before the "
                       "first update on the batch.",
                       "Grows slowly from 0.", "Grows fast (above 0.1 within tens of steps): lower the learning rate "
                       "or "
                       "raise `algorithm.beta`. Absent if beta is 0: there is no reference model.", _LOSS),
            MetricInfo("policy/beta", "", "KL coefficient of the rollout batch. Only with `algorithm.kl_target`.",
                       "Settles once the KL is near its target.", "Rises without end: the KL does not follow; lower "
                       "the learning rate. Falls to nearly 0: the target is never reached, and no KL term is left.",
                       _LOSS),
            MetricInfo("policy/entropy", "nats/token", "Mean entropy of the policy's next-token distribution at the "
                       "sampling temperature.", "Falls slowly.",
                       "Falls to nearly 0: the policy no longer explores; lower the learning rate, raise the "
                       "temperature or `clip_high`. Keeps rising: lower the learning rate.", _LOSS),
            MetricInfo("policy/clip_low", "share", "Share of tokens whose ratio is clipped at the lower bound. With "
                       "`gspo` it is the ratio of their completion; `cispo` keeps the gradient of such tokens.",
                       "0 with one update per batch; below 0.1 otherwise.", "Lower the learning rate, or make fewer "
                       "updates per batch (`mini_batches`, `epochs`).", _LOSS),
            MetricInfo("policy/clip_high", "share", "Share of tokens whose ratio is clipped at the upper bound, or at "
                       "`algorithm.dual_clip`.",
                       "0 with one update per batch; below 0.1 otherwise.", "As for `policy/clip_low`. A larger "
                       "`clip_high` lets the probability of rare tokens grow.", _LOSS),
            MetricInfo("policy/ratio_mean", "", "Mean ratio of a token's probability under the policy to that at "
                       "sampling.",
                       "Within 0.01 of 1.", "Drifts: too many updates per batch, or a mismatch; see "
                       "`policy/mismatch`.", _LOSS),
            MetricInfo("policy/ratio_max", "", "Largest ratio of any token.", "Below 2 with one update per batch.",
                       "Large: one token dominates the update; see `policy/mismatch_max`.", _LOSS),
            MetricInfo("policy/correction", "", "Mean weight of `algorithm.correction` over the tokens, after its cap "
                       "or mask. Only with a correction.", "Within 0.05 of 1; exactly 1 where the engine's numbers are "
                       "the trainer's and `rollout.lag` is 0.",
                       "Far from 1: engine and trainer disagree, see `policy/mismatch`. Far below 1 "
                       "with a mask: much of the batch is dropped.", _LOSS),
            MetricInfo("policy/correction_cut", "share", "Share of tokens whose weight was held at "
                       "`algorithm.correction_cap`, or that the mask dropped. Only with a correction.", "Below 0.01.",
                       "Grows: engine and trainer drift apart, see `policy/mismatch`; or the bounds are too narrow for "
                       "long completions (`sequence-tis`, `sequence-mask`).", _LOSS),
            MetricInfo("policy/masked", "share", "Share of tokens that `algorithm.off_policy_mask` dropped. Only "
                       "with it.", "Below 0.1.", "Grows: the policy moves far in one batch; make fewer updates "
                       "per batch, or lower the learning rate.", _LOSS),
            MetricInfo("policy/chosen", "share", "Share of tokens whose policy loss counts, of those computed. Only "
                       "with `algorithm.top_entropy` or `algorithm.covariance`.",
                       "`top_entropy`, or near 1 with `covariance`.", _NOTHING, _LOSS),
            MetricInfo("policy/lag", "batches", "Batches that were trained on between the policy that sampled and the "
                       "one that the batch is trained on. Only with `rollout.lag`.", "0 in the first batch, then up to "
                       "`rollout.lag`.", _NOTHING, _TRAIN),
            MetricInfo("policy/mismatch", "nats/token", "Mean absolute difference between the engine's and the "
                       "trainer's "
                       "log-probability of the sampled tokens, before the first update of a batch. With `rollout.lag` "
                       "also what the policy has learnt since it sampled.",
                       "Below 0.001 in fp32, below 0.03 in bf16.", "Engine and trainer disagree: train with "
                       "`model.dtype=float32` to see whether it is rounding; if not, it is a bug in Rethink.", _TRAIN),
            MetricInfo("policy/mismatch_max", "nats", "Largest such difference of any token.",
                       "Below 0.01 in fp32, below 1 in bf16.", "As for `policy/mismatch`.", _TRAIN),
        ),
    ),
    (
        "Critic",
        "Only runs with a critic have these metrics, in the first step of each rollout batch. They cover the tokens "
        "that the policy sampled, of rollouts with a reward.",
        (
            MetricInfo("critic/explained_variance", "", "1 - var(returns - values) / var(returns) over the tokens of "
                       "the batch, before the critic learns from it. Absent where all returns are equal.",
                       "Rises from 0 towards 1.", "Below 0 for long: the critic misleads; lower "
                       "`critic.learning_rate`, or train it alone first (`critic.warmup_steps`). Stays at 0: raise the "
                       "rate, `critic.epochs` or `critic.mini_batches`.", _TRAIN),
            MetricInfo("critic/value", "reward", "Mean value of the tokens of the batch, before the critic learns from "
                       "it.", "Follows `critic/return`.", "Far from it: see `critic/explained_variance`.", _TRAIN),
            MetricInfo("critic/return", "reward", "Mean return that the critic learns: value plus advantage by GAE "
                       "with `critic.value_lambda`.", "Rises with `reward/mean`.", "See `reward/mean`.", _TRAIN),
            MetricInfo("critic/loss", "reward²", "Mean over the critic's updates on the batch of half the squared "
                       "error of a value, with `critic.value_clip`, before the update.", "Falls, then levels off.",
                       "Grows: lower `critic.learning_rate`. Not finite: the run stops.", _LOSS),
            MetricInfo("critic/clipped", "share", "Share of tokens in the critic's updates whose value "
                       "`critic.value_clip` holds. Only updates after the first on a batch can have any.",
                       "Below 0.2.", "Near 1: the critic cannot follow; raise `critic.value_clip` to the scale of the "
                       "reward, or set it to null.", _LOSS),
            MetricInfo("critic/grad_norm", "", "Largest global gradient norm of the critic's updates on the batch, "
                       "before clipping.", "Steady.", "Grows over many steps: lower `critic.learning_rate`.", _TRAIN),
        ),
    ),
    (
        "Trust region",
        "Only runs with `algorithm.type: trpo` have these metrics; they have no learning rate.",
        (
            MetricInfo("trust_region/kl", "nats/token", "Mean KL over the tokens of the batch between the "
                       "policy before the step and after it, measured from their whole distributions; 0 where no step "
                       "was taken.", "At most `algorithm.options.max_kl`, always; usually close to it.",
                       "Far below it: see `trust_region/share`.", _LOSS),
            MetricInfo("trust_region/gain", "loss", "By how much the step lowered the loss on its own batch.",
                       "Above 0; 0 where no step was taken.", "0 for long: no group has a signal, or see "
                       "`trust_region/share`.", _TRAIN),
            MetricInfo("trust_region/share", "", "Length of the step that was taken, as a share of the longest that "
                       "the Fisher matrix predicts for the bound: 1, 0.5, 0.25 …; 0 where none was taken.", "1 or 0.5.",
                       "Often below 0.25: lower `algorithm.options.max_kl`, or raise `damping`. Often 0: raise "
                       "`backtracks` too.", _TRAIN),
            MetricInfo("trust_region/residual", "", "Norm of g - (F + damping) x, as a share of that of g, for "
                       "the x of conjugate gradients.", "Below 0.5.",
                       "Near 1: raise `algorithm.options.iterations` or `damping`.", _LOSS),
        ),
    ),
    (
        "Optimizer",
        "The update itself.",
        (
            MetricInfo("optimizer/learning_rate", "", "Learning rate of the step. `trpo` has none.",
                       "Follows the schedule.", _NOTHING, _TRAIN),
            MetricInfo("optimizer/grad_norm", "", "Global gradient norm before clipping.",
                       "Steady; single spikes are harmless because they are clipped.", "Grows over many steps: lower "
                       "the learning rate. 0: no group had a signal.", _TRAIN),
        ),
    ),
    (
        "Supervised fine-tuning",
        "Only runs of the kind `sft` have these metrics. They have none of the sections Reward, Rollouts and Policy.",
        (
            MetricInfo("train/loss", "nats/token", "Mean negative log-likelihood of the step's trained tokens (the "
                       "assistant's), averaged as `aggregation` says, before the update.",
                       "Falls quickly, then slowly. A drop at each new epoch shows that the model memorises the rows.",
                       "Rises over many steps: lower the learning rate. Near 0: the model overfits; train for fewer "
                       "epochs. Not finite: the run stops.", _TRAIN),
            MetricInfo("train/entropy", "nats/token", "Mean entropy of the model's next-token distribution at the "
                       "trained tokens.", "Falls towards the loss: the model is calibrated.",
                       "Far below the loss: the model is overconfident; lower the learning rate.", _TRAIN),
            MetricInfo("train/tokens", "tokens", "Trained tokens of the step.", "Varies with the rows drawn.",
                       _NOTHING, _TRAIN),
            MetricInfo("train/input_tokens", "tokens", "Input tokens of the model in the step; a prefix that documents "
                       "share counts once.", "Varies with the rows drawn.", _NOTHING, _TRAIN),
            MetricInfo("train/epoch", "epochs", "Documents seen so far, in epochs.", "Rises steadily.", _NOTHING,
                       _TRAIN),
            MetricInfo("eval/loss", "nats/token", "Mean negative log-likelihood of the trained tokens of the held-out "
                       "documents, over all of them.", "Falls, then levels off.",
                       "Rises while `train/loss` falls: the model overfits; train for fewer epochs or with more rows.",
                       _TRAIN),
            MetricInfo("eval/tokens", "tokens", "Tokens that `eval/loss` is the mean of.", "Constant.", _NOTHING,
                       _TRAIN),
        ),
    ),
    (
        "Reward models",
        "Only runs of the kind `reward-model` have these metrics. They have none of the sections Reward, Rollouts and "
        "Policy. The correct side is the chosen response of a pair, or a response's own label.",
        (
            MetricInfo("reward_model/loss", "nats", "Mean loss of the step's examples, before the update: "
                       "-log sigmoid(chosen - rejected), or binary cross-entropy.", "Falls from about 0.69 (chance).",
                       "Stays at 0.69: raise the learning rate, or the responses do not differ in what is scored "
                       "(`on`). Near 0 while the held-out loss rises: train for fewer epochs.", _TRAIN),
            MetricInfo("reward_model/accuracy", "share", "Share of the step's examples with the correct side ahead.",
                       "Rises from about 0.5.", "See `reward_model/loss`.", _TRAIN),
            MetricInfo("reward_model/margin", "score", "Mean lead of the correct side over the step's examples.",
                       "Rises, then levels off.", "Keeps growing: the model overfits the examples.", _TRAIN),
            MetricInfo("eval/reward_model_loss", "nats", "The loss on the held-out examples.",
                       "Falls, then levels off.", "Rises while `reward_model/loss` falls: train for fewer epochs or on "
                       "more examples.", _TRAIN),
            MetricInfo("eval/margin", "score", "Mean lead of the correct side over the held-out examples.",
                       "Near `reward_model/margin` or `preference/margin`.",
                       "Far below it: see `eval/reward_model_loss` or `eval/preference_loss`.", _TRAIN),
            MetricInfo("eval/margin_median", "score", "Median of that lead.", "Near `eval/margin`.",
                       "Far from it: a few examples carry the mean.", _TRAIN),
            MetricInfo("eval/ece", "share", "Expected calibration error on the held-out examples: the mean difference "
                       "between predicted probability and observed share, over ten bins.",
                       "Below 0.1.", "The model is overconfident: train for fewer epochs, or on more examples. With "
                       "few held-out examples it can be large by chance.", _TRAIN),
        ),
    ),
    (
        "Preferences",
        "Only runs of the kind `preference` have these metrics. They have none of the sections Reward, Rollouts and "
        "Policy. The implicit reward of an answer is what the objective compares: for DPO beta times the log-ratio of "
        "policy and reference model. The correct side is the chosen answer of a pair, or an answer's own label. "
        "Training metrics are of the step's examples, before the update.",
        (
            MetricInfo("preference/loss", "", "Mean loss of the examples, by the objective's equation.",
                       "Falls; DPO starts at 0.69.", "Does not fall: raise the learning rate. Near 0 while the "
                       "held-out loss rises: train for fewer epochs, or raise `algorithm.beta`.", _TRAIN),
            MetricInfo("preference/accuracy", "share", "Share of the examples with the correct side ahead: the chosen "
                       "answer has the higher implicit reward; with labels, the reward of an answer is above (good) or "
                       "below (bad) what the objective compares it with. Equal rewards do not count.",
                       "Rises from 0 or 0.5.", "See `preference/loss`.", _TRAIN),
            MetricInfo("preference/margin", "reward", "Mean lead of the correct side.", "Rises, then levels off.",
                       "Keeps growing while `eval/accuracy` does not: the model overfits the examples.", _TRAIN),
            MetricInfo("preference/reward_chosen", "reward", "Mean implicit reward of the chosen (good) answers.",
                       "Rises, or falls less than `preference/reward_rejected`.",
                       "Falls far below 0: see `preference/logprob_chosen`.", _TRAIN),
            MetricInfo("preference/reward_rejected", "reward", "Mean implicit reward of the rejected (bad) answers.",
                       "Falls.", "Rises with `preference/reward_chosen`: both answers are learnt as texts. Raise "
                       "`algorithm.beta`, or give pairs that differ more.", _TRAIN),
            MetricInfo("preference/logprob_chosen", "nats/token", "Mean log-probability of a token of the chosen "
                       "(good) answers under the policy.", "Changes little.",
                       "Falls steadily: the model moves away from both answers (likelihood displacement). Fine-tune on "
                       "the chosen answers first, lower the learning rate, raise `algorithm.beta`, or use `orpo`.",
                       _TRAIN),
            MetricInfo("preference/logprob_rejected", "nats/token", "The same of the rejected (bad) answers.",
                       "Falls.", "See `preference/logprob_chosen`.", _TRAIN),
            MetricInfo("preference/kl", "nats", "KTO's estimate of the KL from the reference model: mean log-ratio of "
                       "answers to other prompts, at least 0.", "Small, often 0.",
                       "Grows steadily: lower the learning rate, or raise `algorithm.beta`.", _TRAIN),
            MetricInfo("eval/preference_loss", "", "The loss on the held-out examples.", "Falls, then levels off.",
                       "Rises while `preference/loss` falls: train for fewer epochs or on more examples.", _TRAIN),
        ),
    ),
    (
        "Held-out evaluation",
        "On problems that are never trained on. Only rows of steps with an evaluation have these metrics.",
        (
            MetricInfo("eval/accuracy", "share", "Share of held-out problems with a right answer.",
                       "Rises with `rollout/accuracy`.", "Far below it: the model overfits the training problems, or "
                       "the evaluation's token limit is too small (`eval/truncated`).", _EVAL),
            MetricInfo("eval/accuracy_low", "share", "Lower end of the 95 % Wilson score interval of the accuracy.",
                       "Above the upper end of the interval before training: the gain is not chance.",
                       "Intervals overlap: evaluate more problems (`evaluation.problems`).", _EVAL),
            MetricInfo("eval/accuracy_high", "share", "Upper end of that interval.", "See `eval/accuracy_low`.",
                       "See `eval/accuracy_low`.", _EVAL),
            MetricInfo("eval/format", "share", "Share of held-out completions that keep the format.", "Near 1.",
                       "See `rollout/format`.", _EVAL),
            MetricInfo("eval/length_mean", "tokens", "Mean length of the held-out completions.",
                       "Near `rollout/length_mean`.", "See `rollout/length_mean`.", _EVAL),
            MetricInfo("eval/truncated", "share", "Share of held-out completions cut off by the token limit.",
                       "Below 0.05.", "Raise `evaluation.max_new_tokens`.", _EVAL),
            MetricInfo("eval/n", "problems",
                       "Held-out problems (in fine-tuning: documents; of reward models: examples).",
                       "200 or more for a narrow interval.", "Raise `evaluation.problems`.", _EVAL),
            MetricInfo("eval/judged", "problems", "Held-out problems that could be scored; accuracy and its interval "
                       "cover these.", "All.", "The checker cannot read some gold answers: see `tasks.answer_format`.",
                       _EVAL),
        ),
    ),
    (
        "Cluster",
        "Of runs with `--cluster`. Counts are of the time since the row before.",
        (
            MetricInfo("cluster/workers", "workers", "Rollout workers that are there.", "As the cluster file says.",
                       "The run's notes say why a worker was lost.", _CLUSTER),
            MetricInfo("cluster/lost", "workers", "Workers that ended or did not answer.", "0.",
                       "Memory of a worker's machine, or a network that fails; see the run's notes.", _CLUSTER),
            MetricInfo("cluster/asked_again", "completions", "Completions that a lost worker held, asked of others.",
                       "0.", "As for `cluster/lost`. The result is the same.", _CLUSTER),
            MetricInfo("cluster/moved", "completions", "Completions that an idle worker took over.",
                       "Few of the batch.", "Workers of very different speed.", _CLUSTER),
            MetricInfo("cluster/restarts", "workers", "Workers that were started after others were lost.", "0.",
                       "As for `cluster/lost`.", _CLUSTER),
            MetricInfo("cluster/queue", "completions", "Most completions that waited for a worker at any time.",
                       "Below the batch: workers draw most of it at once.",
                       "More workers, or a larger `kv_budget_gb`, draw more at once.", _CLUSTER),
            MetricInfo("cluster/idle", "share", "Share of the workers' time without a completion to draw.",
                       "The share of a step that is not sampling.",
                       "Much more: one long completion keeps all others waiting; see `rollout/length_max`.", _CLUSTER),
            MetricInfo("cluster/tokens_per_s_min", "tokens/s", "Tokens a second of the slowest worker, over the time "
                       "in which it had completions to draw.", "Near the median.",
                       "That worker's machine is slower, or shared with others.", _CLUSTER),
            MetricInfo("cluster/tokens_per_s_median", "tokens/s", "The same of the median worker.",
                       "Constant after the first steps.", "Falls: other work on the machines.", _CLUSTER),
            MetricInfo("cluster/sync", "s", "Handing new weights to the workers' store.", "Below `time/rollout`.",
                       "A large model or slow memory.", _CLUSTER),
        ),
    ),
    (
        "Time and memory",
        "Wall-clock time of the step's phases. A rollout batch of several steps counts for the first of them.",
        (
            MetricInfo("time/rollout", "s", "Generating the rollouts.", "The largest phase.",
                       "See `rollout/tokens_per_s`. The longest completion decides; see `rollout/length_max`.",
                       _TRAIN),
            MetricInfo("time/reward", "s", "Waiting for rewards after the last rollout; most are computed while "
                       "rollouts are sampled.", "Near 0.",
                       "A slow checker: look for timeouts in `reward_parts`.", _TRAIN),
            MetricInfo("time/wait", "s", "Waiting for the step's rollout batch. Only with `rollout.lag`; then "
                       "`time/rollout` and `time/reward` of a batch are not part of the step.", "Near 0 on a cluster. "
                       "In one process: the time that sampling takes.",
                       "Workers sample more slowly than the run trains: add workers.", _TRAIN),
            MetricInfo("time/critic", "s", "The critic's values of a rollout batch and its own training on it. Only "
                       "with a critic.", "Less than `time/train`.",
                       "Lower `critic.epochs`, or choose a smaller `critic.model`.", _TRAIN),
            MetricInfo("time/train", "s", "Forward and backward passes.", "Grows with the tokens of the batch.",
                       "A larger `optimizer.micro_batch_tokens` may help if memory allows.", _TRAIN),
            MetricInfo("time/optimizer", "s", "Clipping, AdamW, and passing the weights to the engine.", "Constant.",
                       _NOTHING, _TRAIN),
            MetricInfo("time/exchange", "s", "Exchange of gradients and weights between trainer ranks, and their sums, "
                       "within `time/train` and `time/optimizer`.",
                       "A small share of `time/train`.",
                       "Lanes of unequal size (more prompts a step), or ranks that compete for cores.", _TRAIN),
            MetricInfo("time/sync", "s", "Handing the weights of the step before to an engine of this process that has "
                       "a copy (`rollout.engine: vllm`).", "Constant: a copy of the weights in memory.", _NOTHING,
                       _TRAIN),
            MetricInfo("time/evaluation", "s", "Held-out evaluation, in steps that have one.",
                       "A small share of the run.",
                       "Evaluate less often or fewer problems (`evaluation.every`, `every_problems`).", _TRAIN),
            MetricInfo("time/checkpoint", "s", "Saving the recovery checkpoint of the previous step, if it has one.",
                       "Seconds.",
                       "Save less often (`checkpoint.every`) or to a faster disk.", _TRAIN),
            MetricInfo("time/step", "s", "The whole step.", "About the sum of the phases.",
                       "Much more than the sum: please report it.", _TRAIN),
            MetricInfo("memory/peak_rss_mb", "MB", "Highest memory use of the process so far.",
                       "Constant after the first steps.", "Grows: lower `rollout.kv_budget_gb` or "
                       "`optimizer.micro_batch_tokens`.", _TRAIN),
        ),
    ),
)  # fmt: skip

GLOSSARY: dict[str, MetricInfo] = {info.name: info for _, _, infos in SECTIONS for info in infos}
"""All metrics by name, in the order of the sections."""


def describe(name: str) -> MetricInfo:
    """The entry of a metric; all `reward/…` share one entry, and so do all `failure/…`.

    Raises `KeyError` for an unknown name.
    """
    if name in GLOSSARY:
        return GLOSSARY[name]
    for prefix, entry in (("reward/", "reward/<part>"), ("failure/", "failure/<cause>")):
        if name.startswith(prefix) and len(name) > len(prefix):
            return replace(GLOSSARY[entry], name=name)
    raise KeyError(name)


def markdown() -> str:
    """The whole table as `docs/metrics.md`."""
    lines = [
        "# Metrics",
        "",
        "Each row of a run's `metrics.jsonl` is one step with these keys; the live view, the report and the trackers",
        "show the same numbers. This page is generated from `rethink/observe/glossary.py` by",
        "`python -m rethink.observe.glossary > docs/metrics.md`.",
        "",
    ]
    for title, text, infos in SECTIONS:
        lines += [f"## {title}", "", text, ""]
        lines += ["| metric | unit | meaning | healthy | otherwise | from |", "|---|---|---|---|---|---|"]
        for info in infos:
            cells = (f"`{info.name}`", info.unit or "–", info.meaning, info.healthy, info.unhealthy_action)
            lines.append("| " + " | ".join(cells) + f" | `{info.source}` |")
        lines.append("")
    return "\n".join(lines).rstrip("\n")


if __name__ == "__main__":
    say(markdown())
