"""Self-play of dialogue games under a program that keeps the rules (Bhavsar et al. 2024, arXiv 2406.14051).

A *game* is a generator: it yields (player, prompt), is sent that player's reply, returns a quality from 0 to 100, and raises
`RuleBroken` where a reply breaks a rule or cannot be read. A *player* is any callable from a chat history to a reply, so a language
model's ``generate`` is one. The `GameMaster` relays messages, keeps each player's own history (players never see each other's
prompts) and ends in an `Episode`: played, with its quality, or aborted, with the reason. Games and scores are after clembench
(Chalamalasetti et al. 2023, arXiv 2305.13455).

    clemscore = (% played, mean over games) x (mean quality of the played episodes, mean over games) / 100

Deviations: replies that break a rule abort at once (clembench asks some games' players again); games are small and in English.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from farfield import checks, seeds
from farfield.errors import InputError, unknown_name
from farfield.seeds import Seed

if TYPE_CHECKING:
    import polars as pl

# {"role": "user" | "assistant", "content": text}, as chat interfaces have them
Message = Mapping[str, str]
Player = Callable[[Sequence[Message]], str]
# yields (player 0 or 1, prompt), receives the reply, returns the quality
Course = Generator[tuple[int, str], str, float]
_LONGEST = 4000  # characters of a reply


class RuleBroken(Exception):
    """A reply broke a rule of the game; the text says which."""


class Game(Protocol):
    """A game: its name, how many players it has, and its course with an instance drawn from `rng`."""

    @property
    def name(self) -> str: ...

    @property
    def players(self) -> int: ...

    def course(self, rng: np.random.Generator) -> Course:
        """The messages of one episode; see `Course`."""
        ...


@dataclass(frozen=True)
class Episode:
    """One game played once.

    Attributes
    ----------
    game : its name; instance : which draw of it
    played : whether it came to its end by the rules
    quality : 0 to 100; NaN where it was aborted
    reason : why it was aborted, else empty
    turns : (player, prompt, reply), in order
    """

    game: str
    instance: int
    played: bool
    quality: float
    reason: str
    turns: tuple[tuple[int, str, str], ...]

    def __repr__(self) -> str:
        end = f"quality {self.quality:.3g}" if self.played else f"aborted: {self.reason}"
        return f"Episode({self.game} {self.instance}, {len(self.turns)} turns, {end})"

    def transcript(self) -> str:
        """What was said, a line a message."""
        said = (f"  to {'AB'[p]}: {prompt}\n{'AB'[p]}: {reply}" for p, prompt, reply in self.turns)
        return "\n".join([*said, repr(self)])


@dataclass(frozen=True)
class Clemscore:
    """The score of a player or pair over games.

    Attributes
    ----------
    score : played x quality / 100, in 0 to 100; 0 where nothing was played
    played : % of episodes played to the end, mean over games
    quality : mean quality of played episodes, mean over the games with any; NaN where there is none
    games : name -> (episodes, % played, quality)
    """

    score: float
    played: float
    quality: float
    games: Mapping[str, tuple[int, float, float]]

    def __repr__(self) -> str:
        return f"Clemscore({self.score:.1f} = {self.played:.1f} % played x quality {self.quality:.1f}, {len(self.games)} games)"

    def summary(self) -> str:
        """The score, then one line a game."""
        rows = (f"{name}: {n} episodes, {p:.1f} % played, quality {q:.1f}" for name, (n, p, q) in self.games.items())
        return "\n".join([repr(self), *rows])

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        games = {k: dict(zip(("episodes", "played", "quality"), v, strict=True)) for k, v in self.games.items()}
        return {"clemscore": self.score, "played": self.played, "quality": self.quality, "games": games}

    def to_frame(self) -> pl.DataFrame:
        """One row a game."""
        import polars as pl

        rows = [(name, *values) for name, values in self.games.items()]
        return pl.DataFrame(rows, schema=["game", "episodes", "played", "quality"], orient="row")


def clemscore(episodes: Sequence[Episode]) -> Clemscore:
    """The clemscore of `episodes`, of one player or pair: % played times mean quality over 100, both averaged over games.

    An aborted episode counts in % played only; a game of which none was played counts with 0 % and has no quality. Raises
    InputError without an episode. Source: as the module.
    """
    if not episodes:
        raise InputError("no episode to score; play at least one")
    games: dict[str, tuple[int, float, float]] = {}
    for name in dict.fromkeys(e.game for e in episodes):
        own = [e for e in episodes if e.game == name]
        quality = [e.quality for e in own if e.played]
        games[name] = (len(own), 100 * len(quality) / len(own), float(np.mean(quality)) if quality else float("nan"))
    played = float(np.mean([p for _, p, _ in games.values()]))
    known = [q for _, _, q in games.values() if not np.isnan(q)]
    quality_ = float(np.mean(known)) if known else float("nan")
    return Clemscore(played * quality_ / 100 if known else 0.0, played, quality_, games)


class GameMaster:
    """Plays games and keeps their rules.

    Parameters
    ----------
    games : the games it knows; None for taboo, wordle, reference and private-shared
    episodes : of each game
    random_state : seed of the instances: episode i of a game is the same for every player

    Raises InputError for two games of one name.
    """

    def __init__(self, games: Sequence[Game] | None = None, *, episodes: int = 20, random_state: Seed = 0) -> None:
        if games is None:
            from farfield.evals.games import PrivateShared, Reference, Taboo, Wordle

            games = [Taboo(), Wordle(), Reference(), PrivateShared()]
        self.games = {game.name: game for game in games}
        if len(self.games) != len(games):
            raise InputError(f"games are called {[g.name for g in games]}; allowed: each name once")
        self.episodes = checks.count("episodes", episodes)
        self._root = seeds.root(random_state)

    def play(self, game: str, player_a: Player, player_b: Player | None = None) -> tuple[Episode, ...]:
        """Every episode of one game; `player_b` is None for self-play. Raises InputError for an unknown game."""
        if game not in self.games:
            raise unknown_name("game", game, self.games)
        place = list(self.games).index(game)
        pair = (player_a, player_a if player_b is None else player_b)
        return tuple(_episode(self.games[game], i, pair, seeds.child(self._root, place, i)) for i in range(self.episodes))

    def benchmark(self, player_a: Player, player_b: Player | None = None) -> Clemscore:
        """All games, scored."""
        return clemscore([episode for game in self.games for episode in self.play(game, player_a, player_b)])


def _episode(game: Game, instance: int, players: tuple[Player, Player], rng: np.random.Generator) -> Episode:
    course = game.course(rng)
    histories: tuple[list[Message], list[Message]] = ([], [])
    turns: list[tuple[int, str, str]] = []
    try:
        who, prompt = next(course)
        while True:
            history = histories[who]
            history.append({"role": "user", "content": prompt})
            reply = players[who](tuple(history))
            if not isinstance(reply, str):
                raise InputError(f"player {'AB'[who]} replied with a {type(reply).__name__}; allowed: text")
            history.append({"role": "assistant", "content": reply})
            turns.append((who, prompt, reply))
            if len(reply) > _LONGEST:
                raise RuleBroken(f"a reply of {len(reply)} characters; allowed: {_LONGEST}")
            who, prompt = course.send(reply)
    except StopIteration as end:
        return Episode(game.name, instance, True, float(end.value), "", tuple(turns))
    except RuleBroken as broken:
        return Episode(game.name, instance, False, float("nan"), str(broken), tuple(turns))
