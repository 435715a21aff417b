"""What a reward gets to read of an episode."""

from __future__ import annotations

import numpy as np

END = 0  # the id of "<end>"


def test_a_prompt_may_contain_the_end_token(make_env, ids, reward, write, ends):
    env = make_env(prompts=["a<end>b"])
    observation, info = env.reset()
    prompt = [*ids("a"), END, *ids("b")]
    assert observation["input_ids"][:3].tolist() == prompt
    assert observation["attention_mask"].sum() == 3
    assert info["prompt"] == "a<end>b"
    assert ends(write(env, [*ids("hi"), END])) == [False, False, True]
    assert (reward.last.prompt, reward.last.response) == ("a<end>b", "hi")
    assert reward.last.prompt_ids.tolist() == prompt


def test_the_reward_reads_the_whole_episode(make_env, ids, reward, write):
    rows = [{"prompt": "2+2=", "answer": 4, "tags": ["sum"]}, "hi"]
    write(make_env(prompts=rows), [*ids("4"), END])
    episode = reward.last
    assert (episode.prompt, episode.response, episode.finish_reason) == ("2+2=", "4", "stop")
    assert episode.prompt_ids.tolist() == ids("2+2=")
    assert episode.response_ids.tolist() == [*ids("4"), END]
    assert episode.data == {"answer": 4, "tags": ["sum"]}
    assert len(reward.calls) == 1


def test_episodes_come_in_the_order_of_the_rows(make_envs, reward, driving):
    env = make_envs(3, reward=reward, max_new_tokens=2, **driving)
    env.reset(options={"prompt_index": np.array([3, 0, 1])})
    env.step(np.array([50, 50, 50]))
    env.step(np.array([51, END, 52]))
    (episodes,) = reward.calls
    told = [(e.prompt, e.response, e.finish_reason) for e in episodes]
    assert told == [("ghijk", "QR", "length"), ("a", "Q", "stop"), ("bcd", "QS", "length")]
    assert [e.response_ids.tolist() for e in episodes] == [[50, 51], [50, END], [50, 52]]
    assert [e.prompt_ids.tolist() for e in episodes] == [
        env.prompts[index].ids.tolist() for index in (3, 0, 1)
    ]


def test_an_episode_keeps_its_tokens_when_the_row_begins_anew(make_envs, reward, array):
    env = make_envs(2, reward=reward, array=array, autoreset_mode="SAME_STEP")
    env.reset(options={"prompt_index": np.array([0, 1])})
    env.step(np.array([50, 51]))
    env.step(np.array([END, 52]))
    env.step(np.array([53, 53]))
    (episode,) = reward.calls[0]
    assert episode.response_ids.tolist() == [50, END]
    assert episode.prompt_ids.tolist() == env.prompts[0].ids.tolist()


def test_a_stop_string_is_no_part_of_the_response_only_where_it_ended_it(make_env, ids, write):
    env = make_env(stop="x", min_new_tokens=3)
    *_, info = write(env, ids("axbx"))[-1]
    assert (info["response"], info["finish_reason"]) == ("axb", "stop")
    *_, info = write(env, ids("axbc"))[-1]
    assert (info["response"], info["finish_reason"]) == ("axbc", "length")
    *_, info = write(env, [*ids("axb"), END])[-1]  # ended by the token, not by the string
    assert (info["response"], info["finish_reason"]) == ("axb", "stop")
