"""What is appended between two turns is what the chat template writes there."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from textenv import TextGenEnv
from textenv.dialogues.between import Replies

SPECIAL = {
    "llama 3": ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
    "chatml": ["<s>", "<|im_end|>", "<|im_start|>"],
    "mistral": ["<s>", "</s>", "[INST]", "[/INST]"],
    "gemma": ["<bos>", "<end_of_turn>", "<start_of_turn>"],
}
GENERATION = "{% if add_generation_prompt %}"
TEMPLATES = {
    "llama 3": (
        "{{ '<|begin_of_text|>' }}{% for m in messages %}"
        "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim }}"
        "{{ '<|eot_id|>' }}{% endfor %}" + GENERATION
        + "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
        "{% endfor %}" + GENERATION + "{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "mistral": (
        "{{ '<s>' }}{% for m in messages %}{% if m.role == 'user' %}"
        "{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + '</s>' }}"
        "{% endif %}{% endfor %}"
    ),
    "gemma": (
        "{{ '<bos>' }}{% for m in messages %}"
        "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
        "{{ m.content | trim + '<end_of_turn>\n' }}{% endfor %}" + GENERATION
        + "{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
}  # fmt: skip
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{{ m.content }}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)


def byte_level(special):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {token: i for i, token in enumerate([*special, *alphabet, "ab", "Ġa"])}
    backend = Tokenizer(models.BPE(vocab=words, merges=[("a", "b"), ("Ġ", "a")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def metaspace(special):
    words = [("<unk>", 0.0), *((token, 0.0) for token in special), ("▁", -3.0)]
    words += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    words += [(letter, -4.0) for letter in "abcdefghijklmnopqrstuvwxyz:<>"] + [("▁ab", -2.0)]
    backend = Tokenizer(models.Unigram(words, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return backend


def prepended(special):
    backend = metaspace(special)
    backend.pre_tokenizer = None
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return backend


def make(build, kind, template=None):
    special = SPECIAL[kind]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=build(special), bos_token=special[0], eos_token=special[1],
        pad_token=special[1], additional_special_tokens=special[2:],
    )  # fmt: skip
    tokenizer.chat_template = template or TEMPLATES[kind]
    return tokenizer


KINDS = pytest.mark.parametrize("kind", SPECIAL)
BUILDS = pytest.mark.parametrize("build", [byte_level, metaspace, prepended])
REPLIES = ["higher", "", " two  words", "a\nb:", "<tag>", "héé"]


def talk(tokenizer, prompt, turns, replies, stopped=True, **changes):
    """Drive an environment through these turns of the policy; the ids of the whole row."""
    answers = iter(replies)
    env = TextGenEnv(
        tokenizer=tokenizer, prompts=[prompt], respond=lambda episode: next(answers),
        reward=lambda episodes: [0.0] * len(episodes), max_turns=len(turns),
        max_new_tokens=200, **changes,
    )  # fmt: skip
    observation, _ = env.reset(seed=0)
    for turn in turns:
        ids = tokenizer(turn, add_special_tokens=False)["input_ids"]
        end = [tokenizer.eos_token_id] if stopped else []
        for token in ids + end:
            observation, _, _, _, info = env.step(token)
    return observation["input_ids"][: observation["attention_mask"].sum()], info


@BUILDS
@KINDS
@pytest.mark.parametrize("reply", REPLIES)
def test_a_conversation_reads_as_the_template_writes_it(reply, build, kind):
    tokenizer = make(build, kind)
    messages = [{"role": "user", "content": "ab cd"}]
    said = ["one", "two", "three"]
    ids, info = talk(tokenizer, messages, said, [reply, "no", "end"])
    whole = [*messages]
    for turn, answer in zip(said, [reply, "no", None], strict=True):
        content = tokenizer.decode(tokenizer(turn, add_special_tokens=False)["input_ids"])
        whole.append({"role": "assistant", "content": content})
        if answer is not None:
            whole.append({"role": "user", "content": answer})
    text = tokenizer.apply_chat_template(whole, tokenize=False, add_generation_prompt=False)
    written = tokenizer.decode(ids)
    squeezed = "".join(written.split())
    assert "".join(text.split()).startswith(squeezed)
    if build is byte_level and kind != "mistral":  # which writes a space before an answer
        assert text.startswith(written) and info["response"].split("\n") == said
        assert ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"][: len(ids)]


@BUILDS
@pytest.mark.parametrize("reply", REPLIES)
def test_a_plain_text_goes_on_with_the_reply(reply, build):
    tokenizer = make(build, "chatml")
    ids, info = talk(tokenizer, "ab", ["cd", "ef"], [reply, "x"])
    text = tokenizer.decode(ids, skip_special_tokens=True)
    first, second = ("cd", "ef") if build is byte_level else (" cd", " ef")
    assert text == f"ab{first}{reply}{second}"
    assert info["response"] == f"{first}\n{second}"


def test_a_turn_that_was_cut_is_ended_by_the_template():
    tokenizer = make(byte_level, "chatml")
    messages = [{"role": "user", "content": "x"}]
    ids, _ = talk(tokenizer, messages, ["cd", "ef"], ["no", "x"], stopped=False, max_turn_tokens=2)
    wanted = "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\ncd<|im_end|>\n"
    wanted += "<|im_start|>user\nno<|im_end|>\n<|im_start|>assistant\nef"
    assert tokenizer.decode(ids) == wanted


@BUILDS
def test_a_long_reply_is_cut_and_counted(build):
    tokenizer = make(build, "chatml")
    messages = [{"role": "user", "content": "x"}]
    for prompt in ("ab", messages):
        turns = ["cd", "ef"]
        ids, info = talk(tokenizer, prompt, turns, ["q" * 99, "x"], max_reply_tokens=7)
        assert 5 <= tokenizer.decode(ids).count("q") <= 7
        assert info["replies_cut"] == 1 and info["turns"] == 2
        assert tokenizer.decode(ids).endswith("ef<|im_end|>")


def test_a_template_that_writes_another_history_is_named():
    tokenizer = make(byte_level, "chatml", THINKING)
    with pytest.raises(ValueError, match="writes earlier messages of a dialogue in another way"):
        talk(tokenizer, [{"role": "user", "content": "x"}], ["a"], ["b"])


def test_a_template_without_an_end_of_the_assistant_is_named():
    open_ended = TEMPLATES["chatml"].replace("<|im_end|>", "")
    tokenizer = make(byte_level, "chatml", open_ended)
    with pytest.raises(ValueError, match="no token stops it"):
        talk(tokenizer, [{"role": "user", "content": "x"}], ["a"], ["b"])


def test_another_stop_token_than_the_template_writes():
    """What the model may end with, beside the end of its template, does not take its place."""
    tokenizer = make(byte_level, "chatml")
    answers = iter(["no", "x"])
    env = TextGenEnv(
        tokenizer=tokenizer, prompts=[[{"role": "user", "content": "x"}]], stop=["<s>"],
        respond=lambda episode: next(answers), reward="length", max_turns=2,
    )  # fmt: skip
    env.reset(seed=0)
    observation, *_ = env.step(tokenizer.bos_token_id)
    text = tokenizer.decode(observation["input_ids"][: observation["attention_mask"].sum()])
    assert text.endswith(
        "assistant\n<s><|im_end|>\n<|im_start|>user\nno<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_special_token_in_a_reply_is_refused():
    tokenizer = make(byte_level, "chatml")
    replies = Replies(tokenizer, np.arange(len(tokenizer)) == tokenizer.eos_token_id)
    with pytest.raises(ValueError, match=r"contains the special token '<\|im_end\|>'"):
        replies.encode("see <|im_end|>", 0, 9)
