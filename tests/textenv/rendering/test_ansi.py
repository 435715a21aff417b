"""Text for the terminal: tokens coloured by their KL, or else by their reward."""

from __future__ import annotations

import numpy as np
import torch

from textenv.rendering.ansi import coloured


def test_ansi_renders_every_row(driving, make_envs):
    env = make_envs(2, render_mode="ansi", max_new_tokens=2, prompts=["Say: "], **driving)
    env.reset()
    assert env.render() == ("Say: ", "Say: ")
    env.step(np.array([50, 0]))
    if not driving:
        assert env.render() == ("Say: Q", "Say: \x1b[30;48;5;46m<end>\x1b[0m")
    env.step(np.array([51, 50]))
    assert env.render()[0] == "Say: Q\x1b[30;48;5;46mR\x1b[0m"


def test_ansi_colours_by_the_kl_where_there_is_one(driving, make_envs, make_model, bound):
    env = make_envs(
        1,
        render_mode="ansi",
        max_new_tokens=2,
        prompts=["x"],
        reference=make_model(seed=1),
        kl_coef=0.1,
        **driving,
    )
    policy = bound(env, make_model(seed=0))
    observation, _ = env.reset()
    kl = []
    for token in (50, 51):
        policy.act(observation, torch.tensor([token]))
        observation, *_, infos = env.step(np.array([token]))
        kl.append(infos.get("kl", [0])[0])
    kl = infos["token_kl"][0] if driving else kl
    assert len(kl) == 2 and all(kl)
    assert env.render() == ("x" + coloured(["Q", "R"], kl),)


def test_the_colour_is_stronger_where_the_number_is_larger():
    assert coloured(["a", "b", "c"], [0, 0, 0]) == "abc"
    text = coloured(["a", "b", "c", "d"], [0.1, 0, -0.5, 1.0])
    assert text == ("\x1b[30;48;5;194ma\x1b[0mb\x1b[30;48;5;210mc\x1b[0m\x1b[30;48;5;46md\x1b[0m")


def test_ansi_colours_the_tokens_by_their_reward(make_env, ids, write):
    env = make_env(render_mode="ansi", max_new_tokens=2)
    write(env, ids("h"))
    assert env.render() == "Say: h"
    env.step(ids("i")[0])
    assert env.render() == "Say: h\x1b[30;48;5;46mi\x1b[0m"
    env.reset(options={"prompt_index": 1})
    assert env.render() == "Now: go"


def test_ansi_colours_bad_ends_red(make_env, ids, write):
    env = make_env(render_mode="ansi", max_new_tokens=1, no_stop_penalty=9)
    write(env, ids("h"))
    assert env.render() == "Say: \x1b[30;48;5;196mh\x1b[0m"


def test_ansi_colours_by_the_reward_where_a_reference_is_not_compared_with(
    make_env, make_model, ids, write
):
    env = make_env(render_mode="ansi", max_new_tokens=2, reference=make_model())
    write(env, ids("hi"))
    assert env.render() == "Say: h\x1b[30;48;5;46mi\x1b[0m"


def test_without_a_mode_nothing_is_rendered(make_env):
    env = make_env(render_mode=None)
    env.reset()
    assert env.render_mode is None and env.render() is None
