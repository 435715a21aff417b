"""SmolLM2-135M, a real model: all its short tests, in one file so that one process loads it."""

from __future__ import annotations

import tempfile

import gymnasium as gym
import torch
from torch import nn

from textenv.lm import load_model, load_tokenizer
from textenv.prompts.load import encode_prompts, load_prompts

SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def test_smollm2_is_float32_and_trainable_and_can_be_saved_and_loaded_again(smollm2):
    model, tokenizer = smollm2
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert len(tokenizer) == model.config.vocab_size == 49152
    prompt = torch.tensor([tokenizer("The sky is").input_ids])
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        logits = model(prompt).logits
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        again = load_model(folder)
        assert torch.equal(again(prompt).logits, logits)
        assert load_tokenizer(folder)("The sky is").input_ids == prompt[0].tolist()


def test_the_template_of_a_real_chat_model(smollm2):
    _, real = smollm2
    prompts = encode_prompts(
        load_prompts([SYSTEM, [*SYSTEM, {"role": "assistant", "content": "Yo, "}]]), real
    )
    begin = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert [prompt.text for prompt in prompts] == [begin, begin + "Yo, "]
    ids = real.apply_chat_template(SYSTEM, add_generation_prompt=True, return_dict=False)
    assert prompts[0].ids.tolist() == ids


def test_act_evaluate_and_transformers_agree_on_smollm2(
    policy_for, smollm2, assert_three_ways_agree
):
    model, tokenizer = smollm2
    envs = gym.make_vec(
        "TextGen-v0", num_envs=3, tokenizer=tokenizer, max_new_tokens=4, reward="length",
        prompts=["The sea", "Robots, said the old engineer, are", "Once"],
        scoring="batch", autoreset_mode="disabled", array="torch",
    )  # fmt: skip
    envs.reset(seed=0)
    policy = policy_for(envs, model, temperature=1.3)
    nn.init.normal_(policy.value_head.weight, std=0.01)
    assert_three_ways_agree(envs, policy, temperature=1.3)


def test_greedy_acting_is_greedy_generation(policy_for, smollm2):
    model, tokenizer = smollm2
    envs = gym.make_vec(
        "TextGen-v0", num_envs=2, tokenizer=tokenizer, max_new_tokens=6, reward="length",
        prompts=["The capital of France is", "One, two,"],
        scoring="batch", autoreset_mode="disabled", array="torch",
    )  # fmt: skip
    observation, info = envs.reset(seed=0)
    policy, state = policy_for(envs, model), None
    for _ in range(6):
        actions, *_, state = policy.act(observation, state, deterministic=True)
        observation, *_ = envs.step(actions)
    for row, prompt in enumerate(info["prompt"]):
        given = tokenizer(prompt, return_tensors="pt")
        wanted = model.generate(**given, max_new_tokens=6, do_sample=False)[0]
        found = observation["input_ids"][row, : int(observation["attention_mask"][row].sum())]
        assert found.tolist() == wanted.tolist()
