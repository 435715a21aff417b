"""How a baseline changes the variance of the gradient, on the bundled language model.

    python examples/baseline_variance.py

The responses and rewards are the same; only the baseline that is subtracted differs. No baseline
depends on the action that it is compared with, so all gradients have the same mean, but their
variances differ.

Leave-one-out, which compares a response with the three others of its prompt, varies more than a
moving average over all prompts. Take the mean score of the prompt as the correct baseline. One that
differs from it by e, independently of the response, adds E‖∇log π‖²·E[e²] to a response's variance
(about: where the length of ∇log π does not depend on the prompt), and both differ from it:

leave one out   is a mean of G − 1 scores: E[e²] is their variance within a prompt / (G − 1). That
                alone makes the variance of the gradient about 1 + 1 / (G − 1) times as large.
                (Exactly, it adds (E‖∇log π‖²·Var(R) + ‖∇J‖²) / (G − 1) for each response.)
moving average  does not know the prompt: E[e²] is the variance of the mean scores of prompts.

These prompts are all neutral, so that the second is near 0, and the example measures both. Where
the prompts differ by more, leave-one-out is better; in larger groups it costs less.
"""

import gymnasium as gym
import torch
from matplotlib.figure import Figure

from agents import RLOO, CausalLMPolicy
from agents.evaluation.plots import save_figure
from agents.functional import critic_losses, surrogates
from agents.functional.advantages import leave_one_out, moving_average_baseline
from agents.functional.reductions import sequence_sum, token_mean
from textenv.lm.loading import hide_progress_bars
from textenv.rewards import resolve_reward

GROUP = 4
sentiment = resolve_reward("sentiment")


def praise(episodes):
    """Scores from 0 to 1, as from many reward models: without a baseline, all texts seem good."""
    return [(1 + score) / 2 for score in sentiment(episodes)]


def main(critic_rollouts: int = 30, rollouts: int = 8, rows: int = 128) -> None:
    hide_progress_bars()
    envs = gym.make_vec("TextGen-v0", num_envs=rows, reward=praise, group_size=GROUP)
    agent = RLOO("CausalLMPolicy", envs, group_size=GROUP, seed=0, device="cpu")

    # The critic is a second copy of the model, so that the policy stays as it is.
    critic = CausalLMPolicy(envs.single_observation_space, envs.single_action_space)
    optimizer = torch.optim.Adam(critic.parameters())
    for i in range(critic_rollouts):
        rollout = agent.collect()
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - i / critic_rollouts)
        scores = rollout.rewards.sum(dim=1, keepdim=True).expand_as(rollout.rewards)
        for batch in rollout.batches(32, agent.generator, returns=scores):
            values = critic.evaluate(batch).values
            loss = token_mean(critic_losses.squared_error(values, batch.returns), batch.mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    gradients, average, grouped = {}, 0.5, []
    layer = [agent.policy.body.norm.weight]  # the gradient of one layer is enough
    for _ in range(rollouts):
        rollout = agent.collect()
        batch, scores = rollout.batch(), rollout.rewards.sum(dim=1)
        with torch.no_grad():
            values = critic.evaluate(batch).values
        advantages = {
            "none": scores[:, None],
            "moving average": scores[:, None] - average,
            "leave one out": leave_one_out(scores, GROUP)[:, None],
            "critic V(s)": scores[:, None] - values,
        }
        grouped.append(scores.view(-1, GROUP))
        average = moving_average_baseline(average, scores.mean().item(), momentum=0.9)
        for group in torch.arange(rows).split(GROUP):
            part = batch.take(group)
            now = agent.policy.evaluate(part)
            for name, every in advantages.items():
                each = every[group].expand_as(part.mask)
                loss = sequence_sum(surrogates.score_function(now.log_probs, each), part.mask)
                (gradient,) = torch.autograd.grad(loss, layer, retain_graph=True)
                gradients.setdefault(name, []).append(-gradient)

    variances = {name: torch.stack(g).var(dim=0).sum().item() for name, g in gradients.items()}
    print(f"{'baseline':16}variance of the gradient of {GROUP} responses")
    for name, variance in variances.items():
        print(f"{name:16}{variance:.4f}   {variance / variances['none']:4.0%}")

    # The mean of a group varies by its prompt, and by the scores within it: subtract the latter.
    groups = torch.cat(grouped)
    within = groups.var(dim=1).mean().item()
    between = groups.mean(dim=1).var().item() - within / GROUP
    print(f"\nvariance of the score within a prompt {within:.4f}, between prompts {between:.4f} "
          "(an estimate, which can be below 0)")  # fmt: skip
    ratio = variances["leave one out"] / variances["moving average"]
    print(f"leave one out / moving average: {ratio:.2f}; if prompts do not differ, "
          f"about 1 + 1 / (G - 1) = {1 + 1 / (GROUP - 1):.2f}")  # fmt: skip

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(variances), list(variances.values()), color="tab:blue")
    axes.bar_label(bars, fmt="%.3f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel=f"variance of the gradient of {GROUP} responses")
    axes.set_title("The same responses, four baselines")
    print("plot ", save_figure(figure, "runs/baseline_variance.png"))


if __name__ == "__main__":
    main()
