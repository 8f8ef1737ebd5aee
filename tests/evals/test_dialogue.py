"""Games: rules against wrong replies, marks against a plain loop, scores by hand, and scripted players of rising skill."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from farfield.errors import InputError
from farfield.evals.dialogue import Episode, GameMaster, RuleBroken, clemscore
from farfield.evals.games import PrivateShared, Reference, Taboo, Wordle, cohen_kappa, feedback, names
from farfield.evals.scripted import ScriptedPlayer
from farfield.evals.spatial import Drawing, Navigation, f1, fewest_moves, random_rooms, read_grid, step
from farfield.evals.words import LEXICON, WORDS


def slow_marks(guess: str, target: str) -> str:
    """Right places first; then each letter is elsewhere if the target has one that no earlier letter of the guess took."""
    out = []
    for i, letter in enumerate(guess):
        if target[i] == letter:
            out.append("g")
            continue
        spare = sum(t == letter and g != letter for g, t in zip(guess, target, strict=True))
        earlier = sum(guess[j] == letter and target[j] != letter for j in range(i))
        out.append("y" if earlier < spare else ".")
    return "".join(out)


def test_wordle_marks_against_a_count_of_every_letter():
    for guess, target in itertools.product(("abbba", "babab", "aaaab", "ccabc", "bbbbb"), repeat=2):
        assert feedback(guess, target) == slow_marks(guess, target)
    assert feedback("speed", "abide") == "..y.y"


@pytest.mark.parametrize(
    ("clue", "word", "used"),
    [
        ("it barks", "bark", True),
        ("a doglike one", "dog", True),
        ("anim", "animal", True),
        ("an ani", "animal", False),
        ("cat", "dog", False),
    ],
)
def test_taboo_sees_inflections_and_stems(clue, word, used):
    assert names(clue, word) is used


def test_kappa_by_hand():
    assert cohen_kappa([True, True, False, False], [True, False, False, False]) == pytest.approx((0.75 - 0.5) / 0.5)
    assert cohen_kappa([True, True], [True, True]) == 0.0
    assert cohen_kappa([True, False] * 3, [True, False] * 3) == 1.0


def test_clemscore_by_hand():
    def episode(game, quality):
        return Episode(game, 0, quality is not None, float("nan") if quality is None else quality, "", ())

    found = clemscore([episode("a", 100), episode("a", 50), episode("a", None), episode("a", None), episode("b", 30)])
    assert found.played == pytest.approx((50 + 100) / 2)
    assert found.quality == pytest.approx((75 + 30) / 2)
    assert found.score == pytest.approx(75 * 52.5 / 100)
    none = clemscore([episode("a", None)])
    assert (none.score, none.played) == (0.0, 0.0)
    assert np.isnan(none.quality)
    only = clemscore([episode("a", None), episode("b", 80)])
    assert only.score == pytest.approx(50 * 80 / 100)
    with pytest.raises(InputError, match="no episode"):
        clemscore([])


def once(game, *replies):
    """One episode with replies given in order."""
    said = iter(replies)
    return GameMaster([game], episodes=1).play(game.name, lambda messages: next(said))[0]


def test_rules_that_are_broken_end_the_episode():
    assert once(Taboo(), "It is an animal").reason.startswith("the reply is not one line")
    assert once(Taboo(), "CLUE: a\nCLUE: b").reason.startswith("the reply is not one line")
    first = GameMaster([Taboo()], episodes=1).play("taboo", lambda m: "CLUE: thing")[0].turns[0][1]
    target = first.split("TARGET: ")[1].split("\n")[0]
    assert once(Taboo(), f"CLUE: {target}s").reason == f"the clue uses '{target}'"
    assert once(Taboo(), f"CLUE: {LEXICON[target][0]}").reason == f"the clue uses '{LEXICON[target][0]}'"
    assert once(Taboo(), "CLUE: thing", "GUESS: a dog").reason.startswith("not one word")
    won = once(Taboo(), "CLUE: thing", "GUESS: xylophone", "CLUE: other", f"GUESS: {target.upper()}")
    assert (won.played, won.quality) == (True, 50.0)
    lost = once(Taboo(), *["CLUE: thing", "GUESS: xylophone"] * 3)
    assert (lost.played, lost.quality, len(lost.turns)) == (True, 0.0, 6)
    assert "four" not in once(Wordle(), "GUESS: four").reason[:3]
    assert once(Wordle(), "GUESS: four").reason == "'four' has 4 letters, not five"
    assert once(Wordle(), *["GUESS: about"] * 6).turns[1][1].startswith("FEEDBACK: about ")
    assert once(Reference(), "EXPRESSION: all", "ANSWER: fourth").reason.startswith("the answer is 'fourth'")
    assert once(PrivateShared(), "ANSWER: x", "ANSWER: maybe").reason.startswith("the answer aside")
    assert once(Wordle(), "GUESS: " + "x" * 5000).reason.startswith("a reply of 5007")


def test_players_see_their_own_prompts_only():
    histories = {"a": [], "b": []}

    def watching(name, player):
        def play(messages):
            histories[name].append(messages)
            return player(messages)

        return play

    one, two = (watching(name, ScriptedPlayer(0.6, random_state=i)) for i, name in enumerate("ab"))
    GameMaster([Taboo()], episodes=5).play("taboo", one, two)
    assert all(m["content"].startswith(("Describe", "CLUE", "WRONG", "Sure")) for h in histories["a"] for m in h)
    assert not any("TARGET" in m["content"] for h in histories["b"] for m in h)
    assert all([m["role"] for m in h] == ["user", "assistant"] * (len(h) // 2) + ["user"] for h in histories["b"])


def test_a_perfect_reader_wins_and_every_player_meets_the_same_instances():
    master = GameMaster(episodes=15, random_state=4)
    perfect = ScriptedPlayer(1.0, discipline=1.0)
    for game in ("reference", "private-shared"):
        assert [e.quality for e in master.play(game, perfect)] == [100.0] * 15
    for e in master.play("wordle", perfect):
        assert e.played
    first = [e.turns[0][1] for e in master.play("taboo", perfect)]
    assert first == [e.turns[0][1] for e in master.play("taboo", ScriptedPlayer(0.1))]
    assert len(set(first)) > 5
    again = GameMaster(episodes=15, random_state=4).play("wordle", ScriptedPlayer(0.5, random_state=1))
    said = master.play("wordle", ScriptedPlayer(0.5, random_state=1))
    assert [e.transcript() for e in again] == [e.transcript() for e in said]


def test_scores_rise_with_skill_and_what_is_played_with_discipline():
    master = GameMaster(episodes=25)
    weak, middle, strong = (master.benchmark(ScriptedPlayer(s, random_state=0)) for s in (0.05, 0.5, 1.0))
    for game in master.games:
        assert weak.games[game][2] < strong.games[game][2]
    assert weak.score < middle.score < strong.score
    unruly = master.benchmark(ScriptedPlayer(1.0, discipline=0.9, random_state=0))
    assert unruly.played < strong.played - 10
    assert unruly.to_frame().height == 4
    assert "wordle: 25 episodes" in unruly.summary()
    assert unruly.to_dict()["clemscore"] == unruly.score


def test_f1_and_grids_by_hand():
    target = read_grid("X - -\n- X -\n- - X", 3)
    assert f1(read_grid("X X -\n- - -\n- - X", 3), target) == pytest.approx(2 * (2 / 3) * (2 / 3) / (4 / 3))
    assert f1(np.zeros((3, 3), dtype=bool), target) == 0.0
    for wrong in ("X - -\n- X -", "X - -\n- X -\n- -", "X - o\n- X -\n- - X", "XXX\nXXX\nXXX"):
        with pytest.raises(RuleBroken, match="not 3 lines of 3 cells"):
            read_grid(wrong, 3)


def test_the_fewest_moves_against_every_order_of_the_rooms():
    for seed in range(6):
        rooms = random_rooms(np.random.default_rng(seed), 6)
        cells = list(rooms)
        apart = np.full((6, 6), 99)
        for i, cell in enumerate(cells):
            apart[i, i] = 0
            for direction in rooms[cell]:
                apart[i, cells.index(step(cell, direction))] = 1
        for k in range(6):
            apart = np.minimum(apart, apart[:, k, None] + apart[None, k])
        assert apart.max() < 99  # connected
        for wanted in (range(1, 6), (2, 5), ()):
            least = min(sum(apart[a, b] for a, b in itertools.pairwise((0, *order))) for order in itertools.permutations(wanted))
            assert fewest_moves(rooms, cells[0], frozenset(cells[i] for i in (0, *wanted))) == least


def test_games_of_space_rules_quality_and_rising_skill():
    assert once(Drawing(), "draw it").reason.startswith("the reply is not one line that begins with INSTRUCTION")
    assert once(Drawing(), "INSTRUCTION: all", "X X\nX X").reason.startswith("the reply is not 5 lines of 5 cells")
    assert (once(Drawing(), "DONE").played, once(Drawing(), "DONE").quality) == (True, 0.0)
    grid = once(Drawing(), "DONE").turns[0][1].split("DRAWING:\n")[1]
    assert once(Drawing(), "INSTRUCTION: this", grid, "DONE").quality == 100.0
    assert once(Navigation(), "DONE").quality == 0.0
    assert once(Navigation(), "GO: up").reason.startswith("there is no door 'up'")
    with pytest.raises(InputError, match="rooms is 13; allowed: 2 to 12"):
        Navigation(rooms=13)
    doors = once(Navigation(), "DONE").turns[0][1].split("DOORS: ")[1].split(", ")
    assert once(Navigation(), f"GO: {doors[0]}", "DONE").quality == pytest.approx(100 * 2 * (1 / 7) / (1 / 7 + 1))
    master = GameMaster([Drawing(), Navigation()], episodes=30)
    scores = [master.benchmark(ScriptedPlayer(s, discipline=1.0, random_state=0)) for s in (0.05, 0.5, 1.0)]
    for game in master.games:
        assert scores[0].games[game][2] < scores[1].games[game][2] < scores[2].games[game][2]
    assert scores[2].games["drawing"][2] == 100.0
    assert all(len({room for _, prompt, _ in e.turns for room in re.findall(r"ROOM: (\w+)", prompt)}) == 8
               for e in master.play("navigation", ScriptedPlayer(1.0, discipline=1.0)))  # fmt: skip


def test_transcripts_tell_what_was_said():
    text = GameMaster(episodes=1).play("taboo", ScriptedPlayer(1.0, discipline=1.0))[0].transcript()
    assert "to A: Describe" in text
    assert "\nB: GUESS: " in text


def test_refusals():
    with pytest.raises(InputError, match="nearest"):
        GameMaster().play("chess", ScriptedPlayer(1.0))
    with pytest.raises(InputError, match="allowed: text"):
        GameMaster().play("wordle", lambda messages: None)
    with pytest.raises(InputError, match="each name once"):
        GameMaster([Wordle(), Wordle(3)])
    with pytest.raises(InputError, match="skill is 2"):
        ScriptedPlayer(2)
    with pytest.raises(InputError, match="knows taboo"):
        ScriptedPlayer(1.0)([{"role": "user", "content": "Hello"}])


def test_the_words_are_whole():
    assert all(len(w) == 5 and w.isalpha() and w.islower() for w in WORDS)
    assert len(set(WORDS)) == len(WORDS) > 400
    assert all(len(a) >= 6 and len(set(a)) == len(a) for a in LEXICON.values())
    assert not any(names(" ".join(a), word) for word, a in LEXICON.items())


def test_the_guide_runs(capsys):
    text = (Path(__file__).parents[2] / "docs" / "dialogue-games.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 2
    space: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/dialogue-games.md", "exec"), space)
    assert "Clemscore(" in capsys.readouterr().out
