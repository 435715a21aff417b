from __future__ import annotations

import json
import sys

import pytest

import textenv.prompts.load
from textenv.prompts.load import Prompt, load_prompts

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
    assert textenv.prompts.load.BUNDLED_PROMPTS.parts[-4:] == (
        "textenv",
        "lm",
        "bundled",
        "prompts.txt",
    )
    path = write(tmp_path, "prompts.txt", "Once\n")
    monkeypatch.setattr(textenv.prompts.load, "BUNDLED_PROMPTS", path)
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


@pytest.mark.parametrize(
    "prompt",
    [None, 3, [], ["Hello!"], [{"role": "user"}], [{"role": "user", "content": [{"image": 1}]}]],
)
def test_a_prompt_that_is_neither_text_nor_conversation_is_refused(prompt):
    with pytest.raises(
        ValueError, match=r"prompts\[0\] has the prompt .*: give a string, or a list of messages"
    ):
        load_prompts([{"prompt": prompt}])


# --- files of other kinds -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prompts", "prompts.TXT"])
def test_a_text_file_needs_no_ending(tmp_path, name):
    assert load_prompts(write(tmp_path, name, "a\nb\n")) == [Prompt("a"), Prompt("b")]


def test_a_json_file_has_one_row_per_line(tmp_path):
    path = write(tmp_path, "prompts.json", '{"prompt": "a", "answer": 4}\n{"prompt": "b"}\n')
    assert load_prompts(path) == [Prompt("a", {"answer": 4}), Prompt("b")]


def test_a_csv_file_has_one_row_per_line(tmp_path):
    content = '\ufeffprompt,answer\r\n"2, or ""3""?",4\r\n\r\n"a\nb", c\r\n'
    path = write(tmp_path, "prompts.csv", content)
    assert load_prompts(path) == [
        Prompt('2, or "3"?', {"answer": "4"}),
        Prompt("a\nb", {"answer": " c"}),
    ]


def test_a_csv_file_of_messages_has_json_in_its_cells(tmp_path):
    cell = json.dumps(MESSAGES).replace('"', '""')
    path = write(tmp_path, "prompts.csv", f'messages,level\n"{cell}",easy\n')
    assert load_prompts(path) == [Prompt("", {"level": "easy"}, tuple(MESSAGES))]


def test_a_csv_file_with_both_columns_has_texts(tmp_path):
    path = write(tmp_path, "prompts.csv", "messages,prompt\nnone,a\n")
    assert load_prompts(path) == [Prompt("a", {"messages": "none"})]


def test_a_parquet_file_has_rows(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    # Folders with such names become columns where a whole data set is read.
    (tmp_path / "level=easy").mkdir()
    path = tmp_path / "level=easy" / "prompts.parquet"
    rows = [{"prompt": "a", "answer": 4}, {"prompt": "b", "answer": 5}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert load_prompts(path) == [Prompt("a", {"answer": 4}), Prompt("b", {"answer": 5})]
    parquet.write_table(pyarrow.Table.from_pylist([{"messages": MESSAGES}]), path)
    assert load_prompts(str(path)) == [Prompt("", {}, tuple(MESSAGES))]


def test_a_file_of_pandas_and_one_of_datasets_are_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_list([{"prompt": MESSAGES, "answer": 4}])
    expected = [Prompt("", {"answer": 4}, tuple(MESSAGES))]
    dataset.to_parquet(tmp_path / "by_datasets.parquet")
    assert load_prompts(tmp_path / "by_datasets.parquet") == expected
    dataset.to_pandas().to_parquet(tmp_path / "by_pandas.parquet")
    assert load_prompts(tmp_path / "by_pandas.parquet") == expected


def test_another_ending_is_refused_with_those_that_can_be_read(tmp_path):
    path = write(tmp_path, "prompts.yaml", "a\n")
    with pytest.raises(
        ValueError,
        match=r"^prompts='.*prompts\.yaml' ends in '\.yaml', which cannot be read: use \.txt, "
        r"\.jsonl, \.json, \.csv, \.parquet, or no ending for one prompt per line\.$",
    ):
        load_prompts(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "text,answer\na,4\n",
            r"line 2, has no column 'prompt', only \['answer', 'text'\]: rename",
        ),
        ('prompt,n\n"a\nb",4\nc,5,6\n', r"line 4, has 3 cells, but the first line names 2 columns"),
        ('prompt,n\na,4\n"b"c,5\n', r"line 3, is not CSV \(.*\): put a cell that contains commas"),
        ('prompt,n\na,4\n"b,5\n', r"line 3, is not CSV \(.*\): put a cell that contains commas"),
        (
            "messages\nHi\n",
            r"line 2, has the messages 'Hi', which are not JSON \(.*\): write a lis",
        ),
        ('messages\n"[]"\n', r"line 2, has the messages \[\]: give a list of messages, each with"),
    ],
)
def test_a_wrong_row_of_csv_is_refused_with_its_line(tmp_path, content, message):
    path = write(tmp_path, "prompts.csv", content)
    with pytest.raises(ValueError, match=rf"^prompts='.*prompts\.csv', {message}"):
        load_prompts(path)


@pytest.mark.parametrize("content", ["", "\n", "prompt,answer\n"])
def test_a_csv_file_without_rows_is_refused(tmp_path, content):
    path = write(tmp_path, "prompts.csv", content)
    with pytest.raises(ValueError, match=r"prompts='.*prompts\.csv' is empty: give at least one"):
        load_prompts(path)


def test_a_wrong_row_of_parquet_is_refused_with_its_number(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "prompts.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{"prompt": "a"}, {"prompt": None}]), path)
    with pytest.raises(ValueError, match=r"prompts\.parquet', row 2, has the prompt None: give a"):
        load_prompts(path)
    parquet.write_table(pyarrow.Table.from_pylist([{"text": "a"}]), path)
    with pytest.raises(ValueError, match=r"prompts\.parquet', row 1, has no column 'prompt', only"):
        load_prompts(path)


def test_a_damaged_parquet_file_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    path = write(tmp_path, "prompts.parquet", "prompt\na\n")
    with pytest.raises(
        ValueError, match=r"^prompts='.*prompts\.parquet' is not Parquet \(.*\): write it again\.$"
    ):
        load_prompts(path)


def test_without_pyarrow_a_parquet_file_is_refused_with_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    path = write(tmp_path, "prompts.parquet", "")
    with pytest.raises(
        ModuleNotFoundError,
        match=r"^prompts='.*prompts\.parquet' needs the package pyarrow: install it with `pip ",
    ):
        load_prompts(path)
