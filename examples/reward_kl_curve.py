"""How β and the sampling temperature change score and KL, on the bundled language model.

    python examples/reward_kl_curve.py

Each point is a short run of RLOO on the reward score − β·KL(π‖π_ref). A small β lets the policy
move far from the reference, where its texts are positive but always similar; a large β keeps it
close. A higher temperature explores more, and generates more text that makes no sense.
"""

import gymnasium as gym
from matplotlib.figure import Figure

from agents import RLOO
from agents.evaluation import evaluate_text
from agents.evaluation.plots import save_figure
from textenv.lm.loading import hide_progress_bars, load_model

MARKERS = ["v", "s", "D", "^"]


def main(
    betas: tuple[float, ...] = (0.3, 0.1, 0.05, 0.02),
    temperatures: tuple[float, ...] = (0.7, 1.0, 1.3),
    tokens: int = 8_000,
    episodes: int = 256,
) -> None:
    hide_progress_bars()
    reference = load_model("bundled")  # one copy for all runs
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    print("temperature     β    score   KL, nats   distinct-2   a response")
    for temperature in temperatures:
        points = []
        for beta in (None, *betas):  # None: before learning
            envs = gym.make_vec(
                "TextGen-v0", num_envs=64, group_size=4, reference=reference, kl_coef=beta or 0.0
            )
            agent = RLOO(
                "CausalLMPolicy", envs, learning_rate=1e-3, seed=0, device="cpu",
                policy_kwargs={"temperature": temperature},
            )  # fmt: skip
            if beta is not None:
                agent.learn(tokens)
            result = evaluate_text(agent, agent.env, episodes)
            points.append((result.kls.mean(), result.scores.mean()))
            print(
                f"{temperature:11.1f} {'-' if beta is None else beta:>5}   {points[-1][1]:+.3f}"
                f"   {points[-1][0]:z8.2f}   {result.distinct_2:10.2f}   "
                f"{result.prompts[0]}{result.responses[0][:60]}",
                flush=True,
            )
        (line,) = axes.plot(*zip(*points, strict=True), label=f"temperature {temperature}")
        for point, marker in zip(points[1:], MARKERS, strict=False):
            axes.plot(*point, marker, color=line.get_color(), markersize=7)
    axes.plot(*points[0], "o", color="black", label="before learning")
    for beta, marker in zip(betas, MARKERS, strict=False):
        axes.plot([], [], marker, color="grey", label=f"β = {beta}")
    axes.set(xlabel="KL to the reference, nats per episode", ylabel="mean score")
    axes.set_title("What a nat of KL buys")
    axes.legend(loc="lower right", frameon=False, ncols=2)
    print("plot ", save_figure(figure, "runs/reward_kl_curve.png"))


if __name__ == "__main__":
    main()
