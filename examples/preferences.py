"""From preferences to a reward model, to a policy, and back to what was really meant.

    python examples/preferences.py

A judge who likes cheerful texts compares 2,000 pairs of texts, with the noise of people. A reward
model learns from these comparisons alone, and PPO from the reward model. It knows best what it has
seen: so only half of the pairs are texts of the untouched model, and in the other half one text is
of the agent that the first half has led to (Ziegler et al. 2019, section 2.3). The plot shows the
reward model's score (the proxy) and the judge's own score over the KL: they part where the policy
finds what the reward model got wrong (Gao et al. 2023). Both curves are in units of the deviation
among the untouched model's texts.
"""

from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from matplotlib.figure import Figure

from agents import PPO, REINFORCE
from agents.plots import read_progress, save_figure
from agents.reward_model import train_reward_model
from agents.runs import RunRecorder
from agents.sampling import sample_pairs
from textenv.lm.loading import hide_progress_bars
from textenv.preferences import Pair, Preference, label

JUDGE = "sentiment"
RUN = Path("runs/preferences")


def learned_from(preferences: list[Preference], tokens: int) -> tuple[PPO, Path]:
    """An agent that PPO has trained on a reward model of these preferences, and this model."""
    model = train_reward_model(preferences, "bundled")
    folder = Path(mkdtemp()) / "reward-model"
    model.save(folder)
    print(f"reward model: {model.accuracy} of the held-out pairs right; a perfect judge "
          f"{model.ceiling:.3f}")  # fmt: skip
    agent = PPO(
        "CausalLMPolicy", "TextGen-v0", seed=0, device="cpu",
        env_kwargs={
            # The judge is only recorded: its weight is 0.
            "reward": {str(folder): 1.0, JUDGE: 0.0}, "reference": "bundled", "kl_coef": 0.05,
        },
    )  # fmt: skip
    agent.learn(tokens, RunRecorder(RUN, overwrite=True), progress_bar=True)
    return agent, folder


def main(pairs: int = 2000, tokens: int = 80_000, temperature: float = 0.2) -> None:
    hide_progress_bars()
    untouched = REINFORCE("CausalLMPolicy", "TextGen-v0", n_envs=8, env_kwargs={"reward": JUDGE})
    first = sample_pairs(untouched, untouched, pairs // 2, seed=0)  # scored by the judge
    preferences = label(first, temperature, seed=0)
    agent, _ = learned_from(preferences, tokens // 2)
    second = sample_pairs(untouched, agent, pairs // 2, seed=1)
    agent, folder = learned_from(preferences + label(second, temperature, seed=1), tokens)
    plot(folder, first)


def plot(folder: Path, of_untouched: list[Pair]) -> None:
    """Proxy and judge over the KL of the last run."""
    judged = np.array([pair.scores for pair in of_untouched])
    progress = read_progress(RUN / "progress.csv")
    kl, proxy = progress["rollout/kl"], progress[f"rollout/score/{folder}"]
    true = (progress[f"rollout/score/{JUDGE}"] - judged.mean()) / judged.std()
    print(f"after {kl[-1]:.1f} nats: proxy {proxy[-1]:+.2f}, judge {true[-1]:+.2f} deviations")
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(kl, proxy, label="reward model (what is maximised)")
    axes.plot(kl, true, label="judge (what is meant)")
    axes.set(xlabel="KL to the untouched model, nats per episode", ylabel="mean score, deviations")
    axes.legend(frameon=False, loc="upper left")
    print("plot ", save_figure(figure, "runs/preferences.png"))


if __name__ == "__main__":
    main()
