"""Text as pictures: one size for all texts, the colours of the terminal."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from textenv.rendering.ansi import GREENS, REDS, rgb
from textenv.rendering.pictures import BLACK, CELL, COLUMNS, MARGIN, WHITE, Page, Piece, _lines

GREEN = (0, 255, 0)


def texts(pieces):
    return ["".join(cell.text for cell in line) for line in _lines(pieces)]


def cell_of(picture, line, column):
    """The pixels of one letter."""
    top, left = MARGIN + line * CELL[1], MARGIN + column * CELL[0]
    return picture[top : top + CELL[1], left : left + CELL[0]]


def has(pixels, colour):
    return bool((pixels == colour).all(-1).any())


def test_every_picture_of_an_environment_has_one_size(driving, make_envs):
    envs = make_envs(3, render_mode="rgb_array", max_new_tokens=9, **driving)
    envs.reset(seed=0)
    shapes = set()
    for token in (50, 51, 32, 33, 0):
        pictures = envs.render()
        assert isinstance(pictures, tuple) and len(pictures) == 3
        shapes |= {(picture.shape, picture.dtype) for picture in pictures}
        envs.step(np.array([50, token, 60]))
    [(shape, dtype)] = shapes
    assert dtype == np.uint8 and shape[0] % 16 == shape[1] % 16 == 0 and shape[2] == 3


def test_a_picture_shows_what_ansi_shows(make_env, ids, write):
    env = make_env(render_mode="rgb_array", max_new_tokens=2)
    write(env, ids("h"))
    begun = env.render()
    assert has(cell_of(begun, 0, 5), BLACK) and not has(begun, GREEN)  # "Say: h"
    assert not has(cell_of(begun, 0, 0), BLACK)  # the prompt is grey
    assert (cell_of(begun, 0, 6) == WHITE).all()
    env.step(ids("i")[0])
    ended = env.render()
    assert has(cell_of(ended, 0, 6), GREEN) and not has(cell_of(ended, 0, 5), GREEN)
    assert (ended[:, : MARGIN + 6 * CELL[0]] == begun[:, : MARGIN + 6 * CELL[0]]).all()
    env.reset(options={"prompt_index": 1})
    assert not has(env.render(), GREEN)


def test_the_colours_are_those_of_the_terminal():
    assert [rgb(colour) for colour in (16, 196, 46, 231, 110)] == [
        (0, 0, 0), (255, 0, 0), (0, 255, 0), (255, 255, 255), (135, 175, 215),
    ]  # fmt: skip
    assert {rgb(colour)[0] for colour in REDS} == {255} == {rgb(colour)[1] for colour in GREENS}


def test_lines_break_at_spaces():
    words = "abcdefg " * 20
    assert texts([Piece(words)]) == [*["abcdefg " * 8] * 2, "abcdefg " * 4]
    assert texts([Piece("a" * COLUMNS), Piece("b c")]) == ["a" * COLUMNS, "b c"]
    assert texts([Piece("a" * (COLUMNS - 1) + " word")]) == ["a" * (COLUMNS - 1) + " ", "word"]
    assert texts([Piece("one\n\ntwo\tend")]) == ["one", "", "two end"]
    assert texts([Piece("x" * 200)]) == ["x" * 64] * 3 + ["x" * 8]


def test_accents_share_the_cell_of_their_letter_and_wide_letters_have_two():
    [line] = _lines([Piece("e\u0301日x")])
    assert [(cell.text, cell.width) for cell in line] == [("e\u0301", 1), ("日", 2), ("x", 1)]
    assert [len(text) for text in texts([Piece("日" * 33)])] == [32, 1]


def test_a_line_break_shows_its_colour():
    page = Page(["a"], 4)
    picture = page.draw([Piece("a"), Piece("\n", ground=GREEN), Piece("b")])
    assert (cell_of(picture, 0, 1)[2:-2] == GREEN).all()
    assert not has(cell_of(picture, 0, 2), GREEN) and has(cell_of(picture, 1, 0), BLACK)


def test_a_long_text_shows_its_end():
    page = Page(["a"], 4)
    lines = [f"{number}\n" for number in range(50)]
    picture = page.draw([Piece("".join(lines) + "end")])
    assert picture.shape == (page.size[1], page.size[0], 3)
    assert (picture == page.draw([Piece("".join(lines[-page.num_lines + 1 :]) + "end")])).all()


def test_a_page_has_room_for_prompt_and_response():
    assert Page(["a"], 8).num_lines == 4  # the fewest
    assert Page(["line\n" * 10 + "end", "a"], 100).num_lines == 22  # 11 + 10 and one to be even
    assert Page(["a\n" * 1000], 8).num_lines == 30  # the most


def test_gymnasium_collects_pictures(tokenizer):
    env = gym.make("TextGen-v0", render_mode="rgb_array_list", max_new_tokens=3)
    env.reset(seed=0)
    for _ in range(3):
        env.step(50)
    frames = env.render()
    assert len(frames) == 4 and len({frame.shape for frame in frames}) == 1


@pytest.mark.parametrize("mode", ["human", "video", 3, ["ansi"]])
def test_an_unknown_mode_is_refused(mode, refuses):
    refuses(r"render_mode=.* is unknown: use 'ansi', 'rgb_array' or None", render_mode=mode)
