from __future__ import annotations

import json

import pytest

import textenv.prompts
from textenv.prompts import Prompt, load_prompts

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello!"}]


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content.encode())
    return path


def test_strings_keep_their_order_and_their_spaces():
    assert load_prompts(["b ", "a", ""]) == [Prompt("b "), Prompt("a"), Prompt("")]


def test_a_generator_of_strings_is_read():
    assert load_prompts(letter for letter in "ab") == [Prompt("a"), Prompt("b")]


def test_prompts_pass_through():
    prompt = Prompt("2 + 2 =", {"answer": 4})
    assert load_prompts([prompt])[0] is prompt


def test_other_columns_of_a_row_become_data():
    rows = [{"prompt": "2 + 2 =", "answer": 4, "level": "easy"}, {"prompt": "Hello"}]
    assert load_prompts(rows) == [
        Prompt("2 + 2 =", {"answer": 4, "level": "easy"}),
        Prompt("Hello", {}),
    ]


def test_a_conversation_is_kept_as_messages():
    (prompt,) = load_prompts([{"prompt": MESSAGES, "answer": "Hi."}])
    assert prompt == Prompt("", {"answer": "Hi."}, tuple(MESSAGES))


def test_a_plain_prompt_has_no_messages():
    assert load_prompts(["Hello"])[0].messages is None


def test_a_dataset_is_read_by_rows():
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_list(
        [{"prompt": "one", "label": 1}, {"prompt": "two", "label": 2}]
    )
    assert load_prompts(dataset) == [Prompt("one", {"label": 1}), Prompt("two", {"label": 2})]


def test_a_conversational_dataset_is_read_by_rows():
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_list([{"prompt": MESSAGES}])
    assert load_prompts(dataset) == [Prompt("", {}, tuple(MESSAGES))]


@pytest.mark.parametrize("as_path", [str, lambda path: path], ids=["str", "Path"])
def test_a_text_file_has_one_prompt_per_line(tmp_path, as_path):
    path = write(tmp_path, "prompts.txt", "first\n\n   \n second \r\nthird\x0cpage\u2028line")
    assert [prompt.text for prompt in load_prompts(as_path(path))] == [
        "first",
        " second ",
        "third\x0cpage\u2028line",
    ]


def test_the_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path):
    path = write(tmp_path, "prompts.txt", "\ufefffirst\nsecond\n")
    assert load_prompts(path)[0].text == "first"


def test_a_jsonl_file_has_one_row_per_line(tmp_path):
    rows = [{"prompt": "2 + 2 =", "answer": 4}, {"prompt": MESSAGES}]
    path = write(tmp_path, "prompts.jsonl", "\n\n".join(map(json.dumps, rows)) + "\n")
    assert load_prompts(path) == [
        Prompt("2 + 2 =", {"answer": 4}),
        Prompt("", {}, tuple(MESSAGES)),
    ]


def test_bundled_names_the_file_beside_the_model(tmp_path, monkeypatch):
    assert textenv.prompts.BUNDLED_PROMPTS.parts[-4:] == ("textenv", "lm", "bundled", "prompts.txt")
    path = write(tmp_path, "prompts.txt", "Once\n")
    monkeypatch.setattr(textenv.prompts, "BUNDLED_PROMPTS", path)
    assert load_prompts("bundled") == [Prompt("Once")]


def test_an_empty_list_is_refused():
    with pytest.raises(ValueError, match=r"prompts is empty: give at least one prompt"):
        load_prompts([])


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl"])
def test_a_file_without_prompts_is_refused(tmp_path, name):
    path = write(tmp_path, name, "\n  \n")
    with pytest.raises(ValueError, match=rf"prompts='.*{name}' is empty: give at least one"):
        load_prompts(path)


def test_a_missing_file_is_refused_and_a_list_is_suggested():
    with pytest.raises(
        ValueError, match=r"prompts='Write a haiku\.' is not a file: .* pass a list of strings"
    ):
        load_prompts("Write a haiku.")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is not a file"):
        load_prompts(tmp_path)


def test_a_file_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"is not UTF-8 text .*: save it as UTF-8"):
        load_prompts(path)


def test_a_row_without_prompt_is_refused():
    with pytest.raises(
        ValueError,
        match=r"prompts\[1\] has no column 'prompt', only \['label', 'question'\]: rename",
    ):
        load_prompts([{"prompt": "a"}, {"question": "b", "label": 1}])


def test_a_malformed_line_of_json_is_refused_with_its_number(tmp_path):
    path = write(tmp_path, "prompts.jsonl", '{"prompt": "a"}\n\n{"prompt": "b"\n')
    with pytest.raises(ValueError, match=r"prompts\.jsonl', line 3, is not JSON \(.*\): write one"):
        load_prompts(path)


def test_a_line_of_json_that_is_no_object_is_refused(tmp_path):
    path = write(tmp_path, "prompts.jsonl", '"a"\n')
    with pytest.raises(ValueError, match=r"line 1, is 'a', which is not an object: write one"):
        load_prompts(path)


def test_a_line_of_json_without_prompt_is_refused(tmp_path):
    path = write(tmp_path, "prompts.jsonl", '{"text": "a"}\n')
    with pytest.raises(ValueError, match=r"line 1, has no column 'prompt', only \['text'\]"):
        load_prompts(path)


def test_a_row_of_a_wrong_type_is_refused():
    with pytest.raises(ValueError, match=r"prompts\[1\] is 7, a int: give a string, or a mapping"):
        load_prompts(["a", 7])


def test_a_source_of_a_wrong_type_is_refused():
    with pytest.raises(ValueError, match=r"prompts=7 cannot be read: pass 'bundled', a path"):
        load_prompts(7)


def test_a_mapping_of_splits_or_columns_is_refused():
    with pytest.raises(ValueError, match=r"prompts is a dict, .*: pass one split of a dataset"):
        load_prompts({"train": [{"prompt": "a"}]})


def test_a_data_frame_is_refused():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match=r"prompts is a DataFrame, .* a table's rows as mappings"):
        load_prompts(pandas.DataFrame({"prompt": ["a"]}))


@pytest.mark.parametrize(
    "prompt",
    [None, 3, [], ["Hello!"], [{"role": "user"}], [{"role": "user", "content": [{"image": 1}]}]],
)
def test_a_prompt_that_is_neither_text_nor_conversation_is_refused(prompt):
    with pytest.raises(
        ValueError, match=r"prompts\[0\] has the prompt .*: give a string, or a list of messages"
    ):
        load_prompts([{"prompt": prompt}])
