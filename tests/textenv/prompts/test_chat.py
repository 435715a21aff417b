"""Conversations as prompts: what a chat template makes of them, and what it cannot."""

from __future__ import annotations

import copy
import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import textenv.prompts.load
from agents.preferences.pairs import load_preferences, render
from textenv import TextGenEnv, TextGenVectorEnv
from textenv.prompts import chat
from textenv.prompts.load import Prompt, encode_prompts, load_prompts

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('no system, please') }}{% endif %}"
    "{{ '<stop>' + message['role'][0] + ':' + message['content'] + '<end>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<stop>a:' }}{% endif %}"
)
HELLO = [{"role": "user", "content": "Hi"}]
STARTED = [*HELLO, {"role": "assistant", "content": "Yo, "}]
SYSTEM = [{"role": "system", "content": "Be brief."}, *HELLO]


@pytest.fixture
def chat_tokenizer(tokenizer):
    """One token a byte, 0 "<end>" and 1 "<stop>", with a template that refuses the system."""
    with_template = copy.deepcopy(tokenizer)
    with_template.chat_template = TEMPLATE
    return with_template


@pytest.fixture
def make_chat(chat_tokenizer):
    """The single environment, or with ``num_envs`` the vector environment, of that tokenizer."""

    def make(num_envs: int | None = None, **changes):
        arguments = {
            "tokenizer": chat_tokenizer,
            "prompts": [HELLO],
            "reward": lambda episodes: [0.0] * len(episodes),
            "max_new_tokens": 2,
            **changes,
        }
        if num_envs is None:
            return TextGenEnv(**arguments)
        return TextGenVectorEnv(num_envs, **arguments)

    return make


# --- rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_list", [list, tuple])
def test_a_list_of_messages_is_a_prompt(as_list):
    assert load_prompts([as_list(HELLO), "text"]) == [
        Prompt("", {}, tuple(HELLO)),
        Prompt("text"),
    ]


def test_a_column_of_messages_is_a_prompt():
    assert load_prompts([{"messages": STARTED, "answer": 4}]) == [
        Prompt("", {"answer": 4}, tuple(STARTED))
    ]


def test_beside_a_prompt_the_messages_are_another_column():
    assert load_prompts([{"prompt": "Hi", "messages": HELLO}]) == [
        Prompt("Hi", {"messages": HELLO})
    ]


def test_a_column_that_a_row_does_not_use_is_none():
    rows = [{"prompt": None, "messages": HELLO}, {"prompt": "text", "messages": None}]
    assert load_prompts(rows) == [
        Prompt("", {}, tuple(HELLO)),
        Prompt("text", {"messages": None}),
    ]


def test_the_parts_of_a_content_are_joined():
    parts = [{"type": "text", "text": "2 + 2"}, {"type": "text", "text": " = ?"}]
    (prompt,) = load_prompts([[{"role": "user", "content": parts}]])
    assert prompt.messages == ({"role": "user", "content": "2 + 2 = ?"},)


def test_other_parts_are_refused():
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image", "url": "cat.png"}]
    with pytest.raises(
        ValueError,
        match=r"^prompts\[1\] has a message with a part of the type 'image': remove it, for only "
        r"parts \{'type': 'text', 'text': \.\.\.\} can be read\.$",
    ):
        load_prompts(["text", [{"role": "user", "content": parts}]])


@pytest.mark.parametrize(
    "messages",
    [
        5,
        [],
        ["Hi"],
        [{"role": "user"}],
        [{"content": "Hi"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": []}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [*HELLO, "Hi"],
    ],
)
def test_what_are_no_messages_is_refused(messages):
    with pytest.raises(
        ValueError,
        match=r"^prompts\[0\] has the messages .*: give a list of messages, each with the strings "
        r"'role' and 'content'\.$",
    ):
        load_prompts([{"messages": messages}])


def test_messages_that_are_not_in_a_list_of_prompts_are_refused():
    with pytest.raises(
        ValueError,
        match=r"^prompts\[0\] has no column 'prompt', only \['content', 'role'\]: this is one "
        r"message, so put the list of messages into a list of prompts\.$",
    ):
        load_prompts(HELLO)


# --- rendering ----------------------------------------------------------------------------------


def test_the_template_ends_with_the_header_of_the_answer(chat_tokenizer):
    (prompt,) = encode_prompts(load_prompts([HELLO]), chat_tokenizer)
    assert prompt.text == "<stop>u:Hi<end><stop>a:"
    letters = [chat_tokenizer.convert_tokens_to_ids(letter) for letter in "u:Hia"]
    user, colon, h, i, assistant = letters
    assert prompt.ids.tolist() == [1, user, colon, h, i, 0, 1, assistant, colon]


def test_a_last_message_of_the_assistant_is_left_open(chat_tokenizer):
    (prompt,) = encode_prompts(load_prompts([STARTED]), chat_tokenizer)
    assert prompt.text == "<stop>u:Hi<end><stop>a:Yo, "


def test_an_earlier_message_of_the_assistant_is_closed(chat_tokenizer):
    (prompt,) = encode_prompts(load_prompts([[*STARTED, *HELLO]]), chat_tokenizer)
    assert prompt.text == "<stop>u:Hi<end><stop>a:Yo, <end><stop>u:Hi<end><stop>a:"


def test_chat_makes_a_text_the_message_of_a_user(chat_tokenizer):
    prompts = load_prompts(["Hi", STARTED, {"prompt": "Hi", "answer": 4}])
    texts = [prompt.text for prompt in encode_prompts(prompts, chat_tokenizer, chat=True)]
    assert texts == [
        "<stop>u:Hi<end><stop>a:",
        "<stop>u:Hi<end><stop>a:Yo, ",
        "<stop>u:Hi<end><stop>a:",
    ]
    assert encode_prompts(prompts, chat_tokenizer)[0].text == "Hi"


def test_chat_refuses_what_a_template_has_made(chat_tokenizer):
    text = chat_tokenizer.apply_chat_template(HELLO, tokenize=False)
    with pytest.raises(
        ValueError,
        match=r"^prompts\[1\] begins with '<stop>', as what a chat template has made: pass chat=F",
    ):
        encode_prompts(load_prompts(["Hi", text]), chat_tokenizer, chat=True)
    assert encode_prompts(load_prompts([text]), chat_tokenizer)[0].text == text


def test_the_messages_are_in_the_data(chat_tokenizer):
    prompts = load_prompts([{"messages": HELLO, "answer": 4}, {"prompt": "Hi", "answer": 5}])
    assert [prompt.data for prompt in encode_prompts(prompts, chat_tokenizer)] == [
        {"answer": 4, "prompt": HELLO},
        {"answer": 5},
    ]
    assert encode_prompts(prompts, chat_tokenizer, chat=True)[1].data == {
        "answer": 5,
        "prompt": HELLO,
    }


def test_the_beginning_of_the_sequence_is_not_doubled():
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "user", "Hi", "assistant"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", unk_token="<unk>"
    )
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ ' ' + m['role'] + ' ' + m['content'] }}"
        "{% endfor %}{% if add_generation_prompt %} assistant{% endif %}"
    )
    plain, conversation = encode_prompts(load_prompts(["Hi", HELLO]), tokenizer)
    assert plain.ids.tolist() == [1, 3]
    assert conversation.ids.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_batches_give_what_one_by_one_gives(batch, chat_tokenizer, monkeypatch):
    rows = ["ab", HELLO, "cab ab", STARTED, {"prompt": "b", "answer": 4}, STARTED, HELLO, "ab"]
    prompts = load_prompts(rows)
    prompts.insert(2, encode_prompts([Prompt("encoded")], chat_tokenizer)[0])
    alone = [encode_prompts([prompt], chat_tokenizer)[0] for prompt in prompts]
    monkeypatch.setattr(textenv.prompts.load, "BATCH", batch)
    together = encode_prompts(prompts, chat_tokenizer)
    assert together[2] is prompts[2]
    assert [(p.text, p.ids.tolist(), p.data) for p in together] == [
        (p.text, p.ids.tolist(), p.data) for p in alone
    ]
    assert together[0].ids.tolist() == [258]
    assert {p.ids.dtype.name for p in together} == {"int64"}


def test_a_wrong_prompt_is_named_by_its_number_in_any_batch(chat_tokenizer, monkeypatch):
    monkeypatch.setattr(textenv.prompts.load, "BATCH", 2)
    with pytest.raises(ValueError, match=r"^prompts\[3\] is '', which has no token"):
        encode_prompts(load_prompts(["a", HELLO, HELLO, ""]), chat_tokenizer)


def test_a_conversation_that_the_template_refuses_is_named(chat_tokenizer, monkeypatch):
    monkeypatch.setattr(textenv.prompts.load, "BATCH", 2)
    chat_tokenizer.name_or_path = "owner/model"
    with pytest.raises(
        ValueError,
        match=r"^prompts\[3\], with messages of the roles system, user, does not fit the chat "
        r"template of the tokenizer 'owner/model' \(TemplateError: no system, please\): change "
        r"its messages, or the template\.$",
    ):
        encode_prompts(load_prompts([HELLO, STARTED, HELLO, SYSTEM]), chat_tokenizer)


def test_a_tokenizer_without_a_template_is_named(chat_tokenizer):
    chat_tokenizer.chat_template, chat_tokenizer.name_or_path = None, "owner/base"
    with pytest.raises(
        ValueError,
        match=r"^The tokenizer 'owner/base' has no chat template, which prompts\[1\], a "
        r"conversation, needs: take the tokenizer of a chat model, set tokenizer\.chat_template, "
        r"or give plain texts\.$",
    ):
        encode_prompts(load_prompts(["a", HELLO]), chat_tokenizer)
    with pytest.raises(ValueError, match=r"prompts\[0\], a text that chat=True .* chat=False\.$"):
        encode_prompts(load_prompts(["a", HELLO]), chat_tokenizer, chat=True)


# --- what else a template gets ------------------------------------------------------------------

TOOLS = [
    {"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": {}}}}},
    {"type": "function", "function": {"name": "now", "parameters": {"properties": {}}}},
]
WITH_OPTIONS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if enable_thinking is defined %}<think {{ enable_thinking }}>{% endif %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}"
    "{% if m.tool_calls is defined %}{{ m.tool_calls | tojson }}{% endif %}{% endfor %}"
)


def rendered(row, tokenizer, **options):
    tokenizer.chat_template = WITH_OPTIONS
    source = row if hasattr(row, "column_names") else [row]
    return [prompt.text for prompt in encode_prompts(load_prompts(source), tokenizer, **options)]


@pytest.mark.parametrize("write", [lambda value: value, json.dumps])
def test_tools_and_arguments_are_passed_to_the_template(write, chat_tokenizer):
    """As transformers itself does it, and TRL with these columns; the reward gets them, too."""
    options = {"enable_thinking": False}
    row = {"prompt": HELLO, "tools": write(TOOLS), "chat_template_kwargs": write(options)}
    (found,) = rendered(row, chat_tokenizer)
    assert found == chat_tokenizer.apply_chat_template(
        HELLO, tools=TOOLS, **options, add_generation_prompt=True, tokenize=False
    )
    assert "now" in found and "<think False>" in found
    assert load_prompts([row])[0].data["tools"] == write(TOOLS)
    assert rendered({**row, "prompt": "Hi"}, chat_tokenizer, chat=True) == [found]
    assert rendered({**row, "prompt": "Hi"}, chat_tokenizer) == ["Hi"]


def test_preferences_pass_them_as_well(chat_tokenizer):
    chat_tokenizer.chat_template = WITH_OPTIONS
    answers = {"chosen": [STARTED[1]], "rejected": [{"role": "assistant", "content": "No"}]}
    (pair,) = load_preferences([{"prompt": HELLO, "tools": TOOLS, **answers}])
    both = STARTED[1], answers["rejected"][0]
    for text, answer in zip(render(pair, chat_tokenizer), both, strict=True):
        assert text == chat_tokenizer.apply_chat_template(
            [*HELLO, answer], tools=TOOLS, tokenize=False
        )


def test_what_a_data_set_fills_in_is_left_out(chat_tokenizer):
    """It gives each object of a column the keys of all others."""
    datasets = pytest.importorskip("datasets")
    call = {"type": "function", "function": {"name": "now", "arguments": "x"}}
    messages = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}, *HELLO]
    rows = datasets.Dataset.from_list([{"prompt": messages, "tools": TOOLS}])
    assert rows[0]["prompt"][0]["tool_calls"] is None
    (found,) = rendered(rows, chat_tokenizer)
    tools, text = found.split("user:Hi", 1)
    assert text == f"assistant:{json.dumps([call])}user:Hi"
    assert "null" not in tools and tools.count('"a"') == 1


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"tools": "hammer"}, "has the tools 'hammer', which are not JSON .*: write a list such"),
        (
            {"tools": {"add": 1}},
            r"has the tools \{'add': 1\}: write a list such as .*, or rename",
        ),
        ({"tools": 3}, "has the tools 3: write a list"),
        ({"chat_template_kwargs": [1]}, r"has the chat_template_kwargs \[1\]: write an object"),
        ({"chat_template_kwargs": "{"}, "has the chat_template_kwargs '{', which are not JSON"),
        ({"chat_template_kwargs": {"tokenize": True}}, "with messages .* keyword argument 'tokeni"),
    ],
)
def test_what_no_template_can_get_is_refused(columns, sentence, chat_tokenizer):
    with pytest.raises(ValueError, match=rf"^prompts\[0\],? {sentence}"):
        rendered({"prompt": HELLO, **columns}, chat_tokenizer)


# --- environments -------------------------------------------------------------------------------


def test_an_environment_begins_with_the_rendered_conversation(make_chat):
    env = make_chat(prompts=["Hi"], chat=True)
    observation, info = env.reset(seed=0)
    assert info["prompt"] == "<stop>u:Hi<end><stop>a:"
    assert observation["input_ids"][:2].tolist() == [1, env.prompts[0].ids[1]]
    assert observation["attention_mask"].sum() == 9
    envs = make_chat(2, prompts=["Hi"], chat=True)
    assert envs.reset(seed=0)[1]["prompt"].tolist() == [info["prompt"]] * 2


def test_an_episode_has_the_messages_and_the_response_alone(make_chat):
    seen = []

    def reward(episodes):
        seen.extend(episodes)
        return [0.0]

    env = make_chat(reward=reward, prompts=[STARTED])
    env.reset(seed=0)
    env.step(258)  # "ab"
    env.step(0)
    (episode,) = seen
    assert episode.data["prompt"] == STARTED
    assert episode.prompt == "<stop>u:Hi<end><stop>a:Yo, "
    assert (episode.response, episode.finish_reason) == ("ab", "stop")


def test_chat_is_saved_with_the_task_and_siblings_have_it(make_chat):
    env = make_chat(2, prompts=["Hi"], chat=True)
    assert env.task.as_data()[0]["chat"] is True
    sibling = env.sibling(1, prompts=["Yo"])
    assert [prompt.text for prompt in sibling.prompts] == ["<stop>u:Yo<end><stop>a:"]
    assert make_chat(prompts=["Hi"]).task.as_data()[0]["chat"] is False


@pytest.mark.parametrize("chat", ["yes", 1, None])
def test_chat_is_true_or_false(make_chat, chat):
    for num_envs in (2, None):
        with pytest.raises(ValueError, match=rf"^chat={chat!r} must be True or False\.$"):
            make_chat(num_envs, chat=chat)


def test_the_bundled_tokenizer_has_no_template():
    with pytest.raises(ValueError, match=r"The tokenizer '.*bundled' has no chat template, which"):
        TextGenEnv(prompts=["Hi"], reward="length", chat=True)


def test_a_template_that_loops_for_ever_is_named(tokenizer, monkeypatch):
    """Here it loops for some seconds, so that its thread does not stay for long."""
    monkeypatch.setattr(chat, "PATIENCE", 0.02)
    loops = "{% for i in range(2000) %}{% for j in range(500) %}{{ i * j }}{% endfor %}{% endfor %}"
    monkeypatch.setattr(tokenizer, "chat_template", loops)
    with pytest.raises(ValueError, match=r"has not rendered prompts\[0\] in 0.02 s: it may loop"):
        chat.render_conversation([{"role": "user", "content": "Hi"}], tokenizer, "prompts[0]")
