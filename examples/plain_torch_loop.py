"""REINFORCE by hand in plain torch and transformers: any code can drive the environment.

    python examples/plain_torch_loop.py

`train` does not use `agents`. The trained model is then passed to one of our agents, which
stable-baselines3 evaluates like one of its own.
"""

import gymnasium as gym
import torch
from matplotlib.figure import Figure
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from transformers import AutoModelForCausalLM

from agents import REINFORCE
from agents.evaluation.plots import save_figure
from textenv.lm.loading import hide_progress_bars
from textenv.lm.sources import BUNDLED


def train(model, updates: int, num_envs: int, num_steps: int = 24) -> list[float]:
    """Train the model. Returns the mean score of the episodes of each update."""
    envs = gym.make_vec("TextGen-v0", num_envs=num_envs, autoreset_mode="SAME_STEP")
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    baseline, history = 0.0, []
    observation, _ = envs.reset(seed=0)
    for _ in range(updates):
        steps, scores = [], []
        for _ in range(num_steps):
            lengths = torch.as_tensor(observation["attention_mask"]).sum(dim=1)
            input_ids = torch.as_tensor(observation["input_ids"])[:, : lengths.max()]
            # Rows are contiguous from column 0: causal attention needs no mask, and the logits for
            # the next token are at the last token so far.
            logits = model(input_ids).logits[torch.arange(num_envs), lengths - 1]
            policy = torch.distributions.Categorical(logits=logits)
            actions = policy.sample()
            observation, rewards, terminated, _, infos = envs.step(actions.numpy())
            steps.append((policy.log_prob(actions), rewards, terminated))
            if terminated.any():
                scores += infos["final_info"]["score"][terminated].tolist()

        # From the last step to the first, each token gets the score of its episode. Episodes that
        # have not ended have no score yet, and are not counted.
        loss, score, known = 0.0, torch.zeros(num_envs), torch.zeros(num_envs, dtype=torch.bool)
        for log_probs, rewards, terminated in reversed(steps):
            ended = torch.as_tensor(terminated)
            score = torch.where(ended, torch.as_tensor(rewards).float(), score)
            known = known | ended
            loss = loss - (log_probs * (score - baseline) * known).sum() / len(scores)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        history.append(sum(scores) / len(scores))
        baseline = 0.9 * baseline + 0.1 * history[-1]
        print(f"update {len(history):2}   mean score {history[-1]:+.3f}", flush=True)
    return history


def main(updates: int = 20, num_envs: int = 32, episodes: int = 50) -> None:
    hide_progress_bars()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(BUNDLED, dtype=torch.float32).eval()
    history = train(model, updates, num_envs)

    env = Monitor(gym.make("TextGen-v0"))
    for name, source in (("as bundled", "bundled"), ("trained by hand", model)):
        agent = REINFORCE(
            "CausalLMPolicy", gym.make("TextGen-v0"), policy_kwargs={"model": source}, device="cpu"
        )
        mean, deviation = evaluate_policy(agent, env, episodes, deterministic=False)
        print(f"{name:15} mean return {mean:+.3f} ± {deviation / episodes**0.5:.3f}")

    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, updates + 1), history, color="tab:blue")
    axes.set(xlabel="update", ylabel="mean score", title="REINFORCE, written by hand")
    print("plot ", save_figure(figure, "runs/plain_torch_loop.png"))


if __name__ == "__main__":
    main()
