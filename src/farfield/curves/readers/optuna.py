"""Optuna studies in SQLite: every trial that reported intermediate values is a run.

Tables `trials`, `trial_intermediate_values(trial_id, step, intermediate_value, intermediate_value_type)` with types FINITE,
INF_POS, INF_NEG, NAN, `trial_params` with values encoded by their distribution, `study_directions` for the goal. A pruned trial
is censored: it was stopped on purpose and says nothing bad about its end beyond what was seen.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from farfield.curves.data import Goal
from farfield.curves.readers.record import PointLog, RunLog, Scalar, as_number, config_of, storable
from farfield.curves.readers.sqlite import Store

METRIC = "value"
_STATUS = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "killed", "RUNNING": "running", "WAITING": "running"}
_TYPES = {"NAN": float("nan"), "INF_POS": float("inf"), "INF_NEG": float("-inf")}
_GOALS: dict[str, Goal] = {"MINIMIZE": "min", "MAXIMIZE": "max"}


def read_optuna(store: Store) -> list[RunLog]:
    """The trials with intermediate values, named `study/trial number`, or `trial number` if there is one study."""
    studies = {key: str(name) for key, name in store.rows("SELECT study_id, study_name FROM studies")}
    goals = {}
    if {"study_id", "direction"} <= store.columns("study_directions"):
        goals = {
            key: _GOALS.get(str(direction)) for key, direction in store.rows("SELECT study_id, direction FROM study_directions")
        }
    points: dict[Any, PointLog] = defaultdict(PointLog)
    for trial, step, value, kind in _intermediate(store):
        number = _TYPES.get(kind, as_number(value))
        at = as_number(step)
        points[trial].add(METRIC, float("nan") if at is None else at, float("nan") if number is None else number)
    params = _params(store)
    attributes = _attributes(store)

    out = []
    number_column = "number" if "number" in store.columns("trials") else "trial_id"
    for trial, number, study, state in store.rows(
        f"SELECT trial_id, {number_column}, study_id, state FROM trials ORDER BY trial_id"
    ):
        if trial not in points:
            continue
        name = f"trial {number}" if len(studies) == 1 else f"{studies.get(study, study)}/trial {number}"
        goal = goals.get(study)
        out.append(
            RunLog(
                name,
                f"{store.path}#{trial}",
                points[trial].series(),
                config={**config_of(attributes.get(trial, {})), **params.get(trial, {})},
                folder=studies.get(study),
                status=_STATUS.get(str(state), "unknown"),
                goals={METRIC: goal} if goal else {},
            )
        )
    return out


def _intermediate(store: Store) -> list[tuple[Any, Any, Any, str]]:
    table = "trial_intermediate_values"
    has = store.columns(table)
    if not {"trial_id", "step", "intermediate_value"} <= has:
        return []
    kind = "intermediate_value_type" if "intermediate_value_type" in has else "'FINITE'"  # the type came with schema 2.6
    rows = store.rows(f"SELECT trial_id, step, intermediate_value, {kind} FROM {table} ORDER BY trial_id, step")
    return [(trial, step, value, str(kind)) for trial, step, value, kind in rows]


def _params(store: Store) -> dict[Any, dict[str, Scalar]]:
    out: dict[Any, dict[str, Scalar]] = defaultdict(dict)
    if {"trial_id", "param_name", "param_value", "distribution_json"} <= store.columns("trial_params"):
        query = "SELECT trial_id, param_name, param_value, distribution_json FROM trial_params ORDER BY trial_id, param_name"
        for trial, name, value, distribution in store.rows(query):
            out[trial][str(name)] = decoded(value, distribution)
    return out


def decoded(value: Any, distribution: Any) -> Scalar:
    """A stored parameter as it was suggested: categories are stored by index, integers as floats."""
    number = as_number(value)
    kind, choices = "", None
    described = _json(distribution)
    if isinstance(described, dict):
        kind = str(described.get("name", ""))
        attributes = described.get("attributes")
        choices = attributes.get("choices") if isinstance(attributes, dict) else None
    if number is None or number != number or abs(number) == float("inf"):
        return None
    if isinstance(choices, list):
        choice = choices[int(number)] if 0 <= number < len(choices) else None
        return choice if isinstance(choice, int | float) or choice is None else storable(str(choice))
    return int(number) if kind.startswith("Int") else number


def _attributes(store: Store) -> dict[Any, dict[str, Any]]:
    """What the user attached to a trial (a seed, say)."""
    out: dict[Any, dict[str, Any]] = defaultdict(dict)
    if {"trial_id", "key", "value_json"} <= store.columns("trial_user_attributes"):
        for trial, key, value in store.rows("SELECT trial_id, key, value_json FROM trial_user_attributes"):
            out[trial][str(key)] = _json(value)
    return out


def _json(text: Any) -> Any:
    if not isinstance(text, str) or len(text) > 100_000:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
