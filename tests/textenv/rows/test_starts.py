"""Where rows begin: seeds, groups, masks, and prompts that a caller picks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from textenv.rows.starts import Starts


def prompts_of(env, resets=6, **arguments):
    prompts = [env.reset(**arguments)[1]["prompt"].tolist()]
    return [*prompts, *(env.reset()[1]["prompt"].tolist() for _ in range(resets))]


def test_one_seed_gives_one_run(make_envs):
    assert (
        prompts_of(make_envs(), seed=3)
        == prompts_of(make_envs(), seed=3)
        != prompts_of(make_envs(), seed=4)
    )
    env = make_envs()
    assert prompts_of(env, seed=3) == prompts_of(env, seed=3)


def test_without_a_seed_runs_differ(make_envs):
    assert prompts_of(make_envs()) != prompts_of(make_envs())


def test_seeds_may_be_given_for_each_row(make_envs):
    listed, counted = make_envs(), make_envs()
    assert prompts_of(listed, seed=[7, 8, 9, 10]) == prompts_of(counted, seed=7)


def test_a_seed_of_none_leaves_a_row_as_it_was(make_envs):
    env, other = make_envs(), make_envs()
    env.reset(seed=7), other.reset(seed=7)
    ours, theirs = prompts_of(env, seed=[None, 5, None, 5]), prompts_of(other)
    assert [row[0] for row in ours] == [row[0] for row in theirs]
    assert [row[1] for row in ours] == [row[3] for row in ours]


def test_a_seed_for_some_rows_leaves_the_others_as_they_were(make_envs):
    env, other = make_envs(autoreset_mode="DISABLED"), make_envs(autoreset_mode="DISABLED")
    env.reset(seed=7), other.reset(seed=7)
    env.reset(seed=1, options={"reset_mask": np.array([True, False, False, False])})
    ours, theirs = prompts_of(env, 12), prompts_of(other, 12)
    assert [row[1:] for row in ours] == [row[1:] for row in theirs]
    assert [row[0] for row in ours] != [row[0] for row in theirs]


def test_a_reset_of_some_rows_leaves_the_others_alone(make_envs):
    env = make_envs(autoreset_mode=AutoresetMode.DISABLED)
    env.reset(options={"prompt_index": np.array([0, 1, 2, 3])})
    before, *_ = env.step(np.array([60, 61, 62, 63]))
    options = {
        "reset_mask": np.array([False, True, False, True]),
        "prompt_index": np.array([3, 3, 3, 2]),
    }
    after, infos = env.reset(options=options)
    assert set(options) == {"reset_mask", "prompt_index"}  # read, not popped
    assert infos["_prompt"].tolist() == [False, True, False, True]
    assert infos["prompt"].tolist() == [None, "ghijk", None, "ef"]
    assert after["attention_mask"].sum(1).tolist() == [2, 5, 3, 2]
    for row in (0, 2):
        assert after["input_ids"][row].tolist() == before["input_ids"][row].tolist()
    assert env.prompt_index.tolist() == [0, 3, 2, 2]


def test_a_mask_may_be_a_tensor(make_envs):
    env = make_envs(array="torch", autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    env.step(torch.tensor([60, 60, 60, 60]))
    _, infos = env.reset(options={"reset_mask": torch.tensor([True, False, True, False])})
    assert infos["_prompt"].tolist() == [True, False, True, False]


# --- groups -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_members_of_a_group_meet_the_same_prompts_in_every_episode(mode, make_envs, random_actions):
    env = make_envs(6, group_size=3, autoreset_mode=mode)
    _, infos = env.reset(seed=1)
    begun = [[prompt] for prompt in infos["prompt"]]
    for actions in random_actions(2, 40, rows=6):
        *_, infos = env.step(actions)
        for row in np.flatnonzero(infos.get("_prompt", np.zeros(6, bool))):
            begun[row].append(infos["prompt"][row])
    shortest = min(map(len, begun))
    assert shortest > 5
    first, second = ({tuple(prompts[:shortest]) for prompts in begun[g : g + 3]} for g in (0, 3))
    assert len(first) == len(second) == 1 and first != second


def test_members_of_a_group_that_are_reset_together_meet_the_same_prompt(make_envs, random_actions):
    env = make_envs(6, group_size=3, autoreset_mode="DISABLED")
    env.reset(seed=1)
    alone, together, differed = 0, 0, set()
    for actions in random_actions(2, 80, rows=6):
        _, _, ended, _, _ = env.step(actions)
        if not ended.any():
            continue
        _, infos = env.reset(options={"reset_mask": ended.copy()})
        for group in (slice(0, 3), slice(3, 6)):
            met = infos["prompt"][group][ended[group]]
            assert len(set(met)) <= 1
            alone, together = alone + (len(met) == 1), together + (len(met) > 1)
            differed.add(len(set(env.prompt_index[group])))
    assert alone > 10 and together > 10 and max(differed) > 1


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
def test_after_rows_have_ended_alone_a_reset_brings_their_groups_together_again(
    mode, masked, make_envs, random_actions
):
    prompts = [chr(33 + number) for number in range(60)]
    env = make_envs(4, group_size=2, autoreset_mode=mode, prompts=prompts)
    apart = 0
    for seed in range(40):
        env.reset(seed=seed)
        for actions in random_actions(seed, 3, stop=0.4):
            env.step(actions)
        before = env.prompt_index
        apart += int(before[0] != before[1])
        mask = np.array([True, True, False, False]) if masked else np.ones(4, bool)
        for _ in range(3):
            env.reset(options={"reset_mask": mask})
            first, second, third, fourth = env.prompt_index
            assert first == second
            if masked:
                assert [third, fourth] == before[2:].tolist()
            else:
                assert third == fourth
    assert apart > 10


# --- the draws by themselves --------------------------------------------------------------------

MANY = range(1000)
GROUPS, SIZE = 2, 3
MASKS = st.lists(st.booleans(), min_size=GROUPS * SIZE, max_size=GROUPS * SIZE).filter(any)


@settings(max_examples=100, deadline=None)
@given(calls=st.lists(st.tuples(MASKS, st.booleans()), max_size=30), seed=st.integers(0, 99))
def test_draws_are_those_of_one_sequence_for_each_group(calls, seed):
    """Compared with sequences that nothing is ever forgotten of."""
    starts = Starts(MANY, GROUPS * SIZE, SIZE)
    starts.seed(seed, np.ones(GROUPS * SIZE, bool))
    generators = [seeding.np_random(seed + group * SIZE)[0] for group in range(GROUPS)]
    sequences = [generator.integers(len(MANY), size=100).tolist() for generator in generators]
    places = [0] * (GROUPS * SIZE)
    for mask, together in calls:
        starts.draw(np.array(mask), together)
        for group, sequence in enumerate(sequences):
            members = [row for row in range(group * SIZE, (group + 1) * SIZE) if mask[row]]
            if together and members:
                place = max(places[row] for row in members)
                places = [place if row in members else old for row, old in enumerate(places)]
            for row in members:
                assert starts.prompt_index[row] == sequence[places[row]]
                places[row] += 1


def test_draws_that_all_rows_have_met_are_forgotten():
    starts = Starts(MANY, 4, 2)
    starts.seed(0, np.ones(4, bool))
    rows = np.eye(4, dtype=bool)
    for _ in range(500):  # row 1 is always up to three episodes behind row 0
        for row in (0, 0, 0, 1, 1, 1, 2, 3):
            starts.draw(rows[row], together=False)
            assert len(starts._drawn[0]) <= 3 and len(starts._drawn[1]) <= 1
    for _ in range(50):
        starts.draw(rows[0], together=False)
    starts.draw(np.ones(4, bool), together=True)
    assert starts._drawn == [[], []]


def test_to_seed_one_group_leaves_the_others_as_they_are():
    def drawn(starts, times=8):
        met = []
        for _ in range(times):
            starts.draw(np.ones(4, bool), together=False)
            met.append(starts.prompt_index.tolist())
        return np.array(met)

    every = np.ones(4, bool)
    plain, seeded, again = (Starts(MANY, 4, 2) for _ in range(3))
    for starts in (plain, seeded):
        starts.seed(5, every)
        drawn(starts, 3)
    last = np.array([False, False, False, True])
    seeded.draw(last, together=False)  # its group has yet to meet this draw, and now never will
    seeded.seed(11, last)  # by any of its rows
    ours, theirs = drawn(seeded), drawn(plain)
    assert (ours[:, :2] == theirs[:, :2]).all() and (ours[:, 2:] != theirs[:, 2:]).any()
    # A group is seeded as its first row, which is row 2.
    again.seed([0, 0, 13, 99], every)
    assert (drawn(again)[:, 2:] == ours[:, 2:]).all()


def test_to_choose_a_prompt_draws_none():
    chosen, plain = Starts(MANY, 2), Starts(MANY, 2)
    for starts in (chosen, plain):
        starts.seed(3, np.ones(2, bool))
    chosen.choose(np.array([True, False]), torch.tensor([7, 8]))
    assert chosen.prompt_index.tolist() == [7, 0] and chosen.current_prompts(np.array([0])) == [7]
    for starts in (chosen, plain):
        starts.draw(np.ones(2, bool), together=True)
    assert chosen.prompt_index.tolist() == plain.prompt_index.tolist()


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [np.ones(3, np.bool_), np.ones(2), [1, 0]])
def test_a_mask_of_a_wrong_shape_or_type_is_refused(mask, make_small):
    env = make_small()
    env.reset()
    with pytest.raises(
        ValueError, match=r"options\['reset_mask'\] must be a bool array of the shape \(2,\)"
    ):
        env.reset(options={"reset_mask": mask})


def test_a_mask_of_no_rows_is_refused(make_small):
    env = make_small()
    env.reset()
    with pytest.raises(ValueError, match=r"options\['reset_mask'\] must name at least one row"):
        env.reset(options={"reset_mask": np.zeros(2, np.bool_)})


def test_the_first_reset_must_be_of_all_rows(make_small):
    with pytest.raises(
        ValueError,
        match=r"options\['reset_mask'\] must name all rows, or be left out, at the first reset",
    ):
        make_small().reset(options={"reset_mask": np.array([True, False])})


def test_batch_scoring_begins_all_rows_together(make_small):
    env = make_small(autoreset_mode="DISABLED", scoring="batch")
    env.reset()
    with pytest.raises(
        ValueError,
        match=r"'reset_mask'\] must name all rows, or .* scoring='batch', where all rows begin",
    ):
        env.reset(options={"reset_mask": np.array([True, False])})


def test_seeds_of_a_wrong_number_are_refused(make_small):
    with pytest.raises(ValueError, match=r"seed has 3 entries for 2 rows: give one int, or one"):
        make_small().reset(seed=[1, 2, 3])


@pytest.mark.parametrize("index", [[0, 2], [0, -1], [0], [0.0, 1.0]])
def test_prompts_that_are_not_there_are_refused(index, make_small):
    with pytest.raises(
        ValueError,
        match=r"options\['prompt_index'\]=.* must be 2 whole numbers from 0 to 1, one for each row",
    ):
        make_small().reset(options={"prompt_index": np.array(index)})
