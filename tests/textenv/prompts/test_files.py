"""The one reader of files and tables, for prompts and preferences: what it takes and refuses."""

from __future__ import annotations

import csv
import gzip
import json
import random

import pandas as pd
import pytest

import textenv.prompts.files
from agents.preferences.pairs import Preference, load_preferences
from textenv import TextGenEnv
from textenv.prompts.load import Prompt, load_prompts

HELLO = [{"role": "user", "content": 'Hi, "you"'}]
ROWS = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b", "n": i} for i in range(3)]
PROMPTS = [Prompt(row["prompt"], {k: v for k, v in row.items() if k != "prompt"}) for row in ROWS]
PAIRS = [Preference(row["prompt"], "a", "b", {"n": row["n"]}) for row in ROWS]


@pytest.fixture(params=["prompts", "preferences"])
def refuses(request, tmp_path):
    """``refuses(ending, content, sentence)``: such a file of either kind, in few words."""
    load = {"prompts": load_prompts, "preferences": load_preferences}[request.param]

    def check(ending, content, sentence):
        path = tmp_path / f"rows{ending}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError, match=sentence) as error:
            load(path)
        message = str(error.value)
        assert message.startswith(f"{request.param}={str(path)!r}")
        assert "\n" not in message and len(message.replace(str(tmp_path), "")) < 500

    return check


# --- what is read -------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("ending", "write"),
    [
        (".jsonl", lambda rows: "\n".join(map(json.dumps, rows))),
        (".json", json.dumps),
        (".json", lambda rows: json.dumps(rows, indent=2)),
        (".jsonl", lambda rows: "\n\n" + json.dumps(rows)),
    ],
)
def test_json_is_lines_or_an_array_for_prompts_and_for_preferences(ending, write, packed, tmp_path):
    path = tmp_path / (f"rows{ending}.gz" if packed else f"rows{ending}")
    path.write_bytes(gzip.compress(write(ROWS).encode()) if packed else write(ROWS).encode())
    assert load_prompts(path) == PROMPTS
    assert load_preferences(path) == PAIRS


def test_an_array_may_hold_texts_and_conversations_and_one_object_several_lines(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(["a", HELLO]))
    assert load_prompts(path) == [Prompt("a"), Prompt("", {}, tuple(HELLO))]
    path.write_text(json.dumps(ROWS[0], indent=1))
    assert load_prompts(path) == PROMPTS[:1]


def test_tables_of_pandas_and_pyarrow_and_their_files_are_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    frame = pd.DataFrame(ROWS)
    frame.to_parquet(tmp_path / "rows.parquet")
    frame.to_csv(tmp_path / "rows.csv.gz", index=False)
    for source in (frame, pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet"):
        assert load_prompts(source) == PROMPTS
        assert load_preferences(source) == PAIRS
    assert [prompt.text for prompt in load_prompts(tmp_path / "rows.csv.gz")] == ["p0", "p1", "p2"]
    assert len(load_preferences(tmp_path / "rows.csv.gz")) == 3


def test_the_cells_of_a_frame_are_plain_values():
    """Of a file of Parquet, messages are arrays; a cell without a value is None."""
    pytest.importorskip("pyarrow")
    messages = pd.Series([HELLO, None, HELLO])
    frame = pd.DataFrame({"messages": messages, "prompt": [None, "a", None], "n": [1, None, 3]})
    assert load_prompts(frame) == [
        Prompt("", {"n": 1.0}, tuple(HELLO)),
        Prompt("a", {"messages": None, "n": None}),
        Prompt("", {"n": 3.0}, tuple(HELLO)),
    ]
    assert type(load_prompts(pd.DataFrame({"prompt": ["a"], "n": [1]}))[0].data["n"]) is int


def test_a_frame_of_arrays_as_parquet_gives_it(tmp_path):
    pytest.importorskip("pyarrow")
    pd.DataFrame({"prompt": [HELLO], "words": [["a", "b"]]}).to_parquet(tmp_path / "a.parquet")
    frame = pd.read_parquet(tmp_path / "a.parquet")
    assert type(frame["prompt"][0]).__name__ == "ndarray"
    assert load_prompts(frame) == [Prompt("", {"words": ["a", "b"]}, tuple(HELLO))]
    assert load_prompts(list(frame["prompt"])) == [Prompt("", {}, tuple(HELLO))]


def test_a_table_of_polars_is_read():
    class Table:  # what is used of one
        columns = ("prompt", "n")

        def to_dicts(self):
            return [{"prompt": "a", "n": 1}]

    assert load_prompts(Table()) == [Prompt("a", {"n": 1})]


def test_an_environment_takes_a_frame(tokenizer):
    env = TextGenEnv(
        tokenizer=tokenizer, prompts=pd.DataFrame({"prompt": ["ab"], "answer": ["c"]}),
        reward=lambda episodes: [float(e.data["answer"] == "c") for e in episodes],
        max_new_tokens=1,
    )  # fmt: skip
    assert env.reset(seed=0)[1]["prompt"] == "ab"
    assert env.step(50)[1] == 1
    assert env.task.as_data()[0]["prompts"] == [{"prompt": "ab", "answer": "c"}]


def test_a_cell_of_csv_may_be_long_and_stand_after_a_space(tmp_path):
    path, limit = tmp_path / "rows.csv", csv.field_size_limit()
    path.write_text(f"prompt,answer\n{'x' * 200_000},1\n")
    assert len(load_prompts(path)[0].text) == 200_000
    assert csv.field_size_limit() == limit  # of everybody in this process
    path.write_text(
        '"prompt", "a, b", c\n"2, or ""3""?" , " d\ne", f\n x, "" , " ""g"""\n"5"" pipe","",5" x\n'
    )
    assert load_prompts(path) == [
        Prompt('2, or "3"?', {"a, b": " d\ne", "c": " f"}),
        Prompt(" x", {"a, b": "", "c": ' "g"'}),
        Prompt('5" pipe', {"a, b": "", "c": '5" x'}),
    ]


@pytest.mark.parametrize("separator", [",", ", "])
def test_what_a_writer_of_csv_writes_is_read_as_it_was(separator, tmp_path):
    """Cells of spaces, quotes, commas and line ends, and also with a space before each."""
    draw = random.Random(0)
    for _ in range(100):
        rows = [
            ["".join(draw.choices(' ",\n\rab', k=draw.randrange(7))) for _ in "pq"] for _ in "abc"
        ]
        with open(tmp_path / "rows.csv", "w", newline="") as file:
            for row in [["prompt", "q"], *rows]:
                quoted = ['"{}"'.format(cell.replace('"', '""')) for cell in row]
                file.write(separator.join(quoted) + draw.choice(["\n", "\r\n"]))
        found = [[prompt.text, prompt.data["q"]] for prompt in load_prompts(tmp_path / "rows.csv")]
        assert found == rows


# --- messages in cells --------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["prompt", "messages"])
@pytest.mark.parametrize("written", [json.dumps(HELLO), str(HELLO), f"\n{json.dumps(HELLO)} "])
def test_a_cell_holds_messages_as_json_or_as_pandas_writes_them(column, written, tmp_path):
    expected = [Prompt("", {"n": "1"}, tuple(HELLO))]
    assert load_prompts([{column: written, "n": "1"}]) == expected
    pd.DataFrame({column: [written], "n": ["1"]}).to_csv(tmp_path / "rows.csv", index=False)
    assert load_prompts(tmp_path / "rows.csv") == expected
    assert load_prompts(pd.read_csv(tmp_path / "rows.csv", dtype=str)) == expected


def test_an_empty_cell_is_no_prompt_beside_messages(tmp_path):
    table = pd.DataFrame({"prompt": ["", "a"], "messages": [json.dumps(HELLO), ""], "tools": ""})
    table.to_csv(tmp_path / "rows.csv", index=False)
    assert load_prompts(tmp_path / "rows.csv") == [
        Prompt("", {"tools": ""}, tuple(HELLO)),
        Prompt("a", {"messages": "", "tools": ""}),
    ]


TEXTS = [
    "[1, 2]",
    "{}",
    "[{",
    '{"role": 3}',
    "[user] content: a",
    "[]",
    '{"role": 1, "content": 2} is',
]


@pytest.mark.parametrize("text", TEXTS)
def test_other_texts_stay_texts(text):
    assert load_prompts([{"prompt": text}]) == [Prompt(text)]


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        (
            '[{"role": "user", "content": "Hi"',
            "has the prompt .*, which is not JSON .*: write",
        ),
        ('{"role": "user", "content": "Hi"}', "has the prompt .*: give a string, or a list of mes"),
        ('[{"role": "user", "content": 3}]', "has the prompt .*: give a string, or a list of mess"),
        (
            "[{'role': 'a', 'content': 'b'}\n {'role': 'a', 'content': 'b'}]",
            "has the .* is not JSON",
        ),
    ],
)
def test_a_cell_that_is_like_messages_and_holds_none_is_refused(cell, sentence):
    with pytest.raises(ValueError, match=rf"^prompts\[0\] .*{sentence}"):
        load_prompts([{"prompt": cell}])


# --- what is refused ----------------------------------------------------------------------------


def test_an_array_that_is_damaged_is_named_by_its_line_and_a_wrong_item_by_its_number(refuses):
    refuses(
        ".json", json.dumps(ROWS, indent=1)[:-9], r"line \d+, is not JSON \(.*column \d+\): write"
    )
    refuses(".json", json.dumps(ROWS)[:-9], "line 1, is not JSON")
    refuses(".json", json.dumps([*ROWS, 3]), r"item 4, is (3, )?a int: give a")
    refuses(".json", json.dumps({"train": ROWS}), r"line 1, has no column '\w+', only \['train'\]")
    refuses(
        ".json", json.dumps({"train": ROWS}, indent=1), r"line 1, has no column '\w+', only \['tr"
    )
    refuses(".jsonl", "[1]\n[2]\n", r"line 1, is \[1\], which is not an object: write one object")
    refuses(".json", "[]", "is empty: give at least one p")


def test_no_message_is_longer_than_a_few_lines(refuses):
    long = "x" * 1_500_000
    refuses(".jsonl", json.dumps([long])[1:], "line 1, is not JSON")
    refuses(".jsonl", json.dumps(long), "line 1, is 'x*[.]*x*', which is not an object")
    refuses(".jsonl", json.dumps({long: 1}), "line 1, has no column")
    refuses(".jsonl", json.dumps(dict.fromkeys(map(str, range(99_999)))), "line 1, has no column")
    refuses(".csv", f"a,b\n{long}\n", "line 2, has 1 cells")
    rows = {name: [{"role": long}] for name in ("prompt", "chosen", "rejected")}
    refuses(".jsonl", json.dumps(rows), "line 1, has the (prompt|chosen)")


def test_a_text_of_a_million_letters_is_no_prompt(refuses, tmp_path):
    """Such a line of 50 MB takes a tokenizer minutes and gigabytes."""
    texts = dict.fromkeys(("prompt", "chosen", "rejected"), "x" * 1_000_001)
    refuses(
        ".jsonl", json.dumps(texts), "line 1, has a (prompt|chosen) of 1,000,001 letters, more th"
    )
    (tmp_path / "book.txt").write_text("x" * 1_000_001)
    with pytest.raises(ValueError, match="line 1, has a prompt of 1,000,001 letters, more than"):
        load_prompts(tmp_path / "book.txt")


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        (".csv", "prompt,chosen,rejected,prompt\na,b,c,d\n"),
        (".jsonl", '{"prompt": "a", "chosen": "b", "rejected": "c", "prompt": "d"}'),
        (".json", '[{"prompt": "a", "x": {"prompt": "b", "prompt": "d"}}]'),
    ],
)
def test_two_columns_of_one_name_are_refused(refuses, ending, content):
    refuses(ending, content, "line 1, names the column 'prompt' twice, of which one would be lost")


def test_two_columns_of_one_name_in_a_table_are_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    frame = pd.DataFrame([["a", "b"]], columns=["prompt", "prompt"])
    with pytest.raises(ValueError, match=r"^prompts names the column 'prompt' twice"):
        load_prompts(frame)
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["prompt", "prompt"])
    parquet.write_table(table, tmp_path / "a.parquet")
    for source in (table, tmp_path / "a.parquet"):
        with pytest.raises(ValueError, match=r"^prompts.* names the column 'prompt' twice"):
            load_prompts(source)


def test_cells_that_something_else_separates_are_refused(refuses):
    for separator in ";\t":
        names = separator.join(("prompt", "chosen", "rejected"))
        refuses(
            ".csv", f"{names}\n{names}\n", "line 1, names the one column 'prompt.*: separate cel"
        )


@pytest.mark.parametrize("name", ["rows", "rows.txt", "rows.txt.gz"])
def test_rows_of_json_are_no_texts(name, tmp_path):
    content = b'{"prompt": "a"}\n'
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(
        ValueError, match=r"line 1, is a row of JSON, .*: let its name end in '.jsonl"
    ):
        load_prompts(tmp_path / name)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le", "latin-1"])
@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv"])
def test_another_encoding_is_refused(refuses, ending, encoding):
    refuses(
        ending, "prompt\ncafé\n".encode(encoding), r"is not UTF-8 text \(line \d.*\): save it as"
    )


def test_json_that_is_too_deep_or_too_large_is_refused(refuses):
    for text in ("[" * 200_000, '{"prompt": ' + "[" * 200_000, '{"a": ' * 100_000):
        refuses(".jsonl", text, "line 1, has too many brackets within each other: remove them")
    number = "1" * 5000
    refuses(
        ".jsonl", f'{{"prompt": "a", "n": {number}}}', "line 1, has a number with too many digits"
    )
    refuses(
        ".json", f'[{{"prompt": "a", "n": {number}}}]', "line 1, has a number with too many dig"
    )


def test_half_a_character_is_refused(refuses):
    whole = r'{"prompt": "\ud83d\ude00", "chosen": "b", "rejected": "c"}'
    refuses(
        ".jsonl", whole + "\n" + whole.replace(r"\ude00", ""), r"line 2, has \\ud83d, one half of"
    )
    refuses(
        ".json", rf"[{whole.replace('d83d', 'DE00')}]", r"line 1, has \\ude00, one half of a pair"
    )
    refuses(".jsonl", r'{"prompt": "a", "answer": ["\uD83D"]}', r"line 1, has \\ud83d, one half")


def test_half_a_character_in_a_list_is_refused():
    for prompt in ("a\ud83d", [{"role": "user", "content": "a\ud83d"}], Prompt("a\ud83d")):
        with pytest.raises(ValueError, match=r"^prompts\[1\] has the prompt 'a.*' with \\ud83d"):
            load_prompts(["a", prompt])
    with pytest.raises(ValueError, match=r"^preferences\[0\] has the rejected '.*' with \\ud83d"):
        load_preferences([{"prompt": "a", "chosen": "b", "rejected": "\ud83d"}])


def test_what_is_not_packed_or_not_whole_is_refused(refuses):
    packed = gzip.compress(b'{"prompt": "a"}' * 99)
    for content in (b"prompt\n", packed[:-12], packed[:-30] + b"\0" * 30, b""):
        if content:
            refuses(".jsonl.gz", content, "is not a whole file of gzip .*: write it again, or")
    refuses(".jsonl", packed, "is not UTF-8 text")
    refuses(".parquet", b"PAR1", r"is not Parquet \(")


def test_a_small_file_that_fills_the_memory_is_refused(refuses, monkeypatch):
    monkeypatch.setattr(textenv.prompts.files, "MAX_BYTES", 1000)
    refuses(".txt.gz", gzip.compress(b"a" * 1001), "has more than 1,000 bytes, which would fill")
    refuses(".csv", "a" * 1001, "has more than 1,000 bytes, which would fill the memory: choose")


def test_a_table_or_list_that_is_none_is_refused_by_the_name_of_its_argument():
    for source in ({"train": ROWS}, {"a"}, 5):
        for name, load in (("prompts", load_prompts), ("preferences", load_preferences)):
            with pytest.raises(ValueError, match=f"^{name}(=| is a )"):
                load(source)
