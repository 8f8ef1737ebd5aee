"""A table on disk, and models for it: what `farfield gap` fits where no Python is written.

The pipeline is the same for every built-in model and is shown with the result: numbers get the median where missing and are scaled;
words are one column a category, categories not seen in training none; dates count years. Columns of free text, and words that are
nearly all different, are left out by name. Everything in it is fitted on training rows alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from farfield import factories
from farfield.errors import FormatError, InputError, require, unknown_name
from farfield.gap.scores import SCORES, Score

MOST_CATEGORIES = 50
MODELS = ("forest", "boosting", "ridge", "linear", "neighbours", "constant")


@dataclass(frozen=True)
class Table:
    """What is measured: samples by column, the target, and the columns that are left out, with the reason of each."""

    X: pl.DataFrame
    y: np.ndarray[Any, Any]
    task: str
    left_out: dict[str, str]
    n_dropped: int


def read_table(path: str) -> pl.DataFrame:
    """A CSV or Parquet file as a frame; dates become years with a fraction. InputError or FormatError where it cannot be read."""
    file = Path(path)
    if not file.is_file():
        raise InputError(f"no file {path}")
    try:
        if file.suffix.casefold() in (".parquet", ".pq"):
            frame = pl.read_parquet(file)
        else:
            separator = "\t" if file.suffix.casefold() == ".tsv" else ","
            nothing = ["", "NA", "NaN", "nan", "null", "?"]
            frame = pl.read_csv(file, infer_schema_length=None, try_parse_dates=True, null_values=nothing, separator=separator)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise FormatError(f"{path} cannot be read as a table: {str(error).splitlines()[0]}") from error
    if frame.height == 0:
        raise InputError(f"{path} has no rows")
    dates = [n for n, t in frame.schema.items() if t.is_temporal() and t != pl.Duration and t != pl.Time]
    return frame.with_columns(
        pl.col(n).dt.year().cast(pl.Float64) + (pl.col(n).dt.ordinal_day().cast(pl.Float64) - 1.0) / 365.25 for n in dates
    )


def prepare(frame: pl.DataFrame, target: str) -> Table:
    """Target and samples of a frame: rows without a target are dropped and counted, columns no model can use are named."""
    if target not in frame.columns:
        raise unknown_name("column", target, frame.columns)
    some = frame.filter(pl.col(target).is_not_null())
    if some[target].dtype.is_float():
        some = some.filter(pl.col(target).is_finite())
    if some.height < 10:
        raise InputError(f"{some.height} rows have a {target}; at least 10 are needed")
    column = some[target]
    task = "regression" if column.dtype.is_numeric() else "classification"
    y = column.cast(pl.Float64).to_numpy() if task == "regression" else column.cast(pl.String).to_numpy().astype(str)
    if np.unique(y).size < 2:
        raise InputError(f"{target} is {y[0]} in every row; there is nothing to predict")
    X = some.drop(target).with_columns(pl.col(pl.Boolean).cast(pl.Float64))
    left_out = {}
    for name, dtype in X.schema.items():
        distinct = X[name].n_unique()
        if X[name].null_count() == X.height:
            left_out[name] = "empty"
        elif not dtype.is_numeric() and dtype != pl.String and dtype != pl.Categorical:
            left_out[name] = f"of type {dtype}"
        elif not dtype.is_numeric() and distinct > min(MOST_CATEGORIES, max(2, X.height // 2)):
            left_out[name] = f"text with {distinct} different values"
    if len(left_out) == X.width:
        raise InputError(f"no column but {target} can be used: {', '.join(f'{k} is {v}' for k, v in left_out.items())}")
    return Table(X, y, task, left_out, frame.height - some.height)


def check_score(score: Score, table: Table, target: str, models: Iterable[str]) -> None:
    """Refuse a score that cannot be had of the target, or not by the models that are built in: InputError that names another."""
    if score.numeric and table.task == "classification":
        raise InputError(
            f"{target} holds words, such as {str(table.y[0])!r}, and {score.label} needs numbers; use accuracy, balanced_accuracy,"
            " log_loss, brier or auc"
        )
    own = [m for m in models if m in MODELS]
    if table.task == "regression" and score.name in SCORES and not score.numeric and own:
        raise InputError(
            f"{target} holds numbers, which {own[0]} predicts as such, and {score.label} needs classes; use mae, mse, rmse, median"
            " or r2, or write the classes as words"
        )


def matching(new: pl.DataFrame, table: Table, target: str) -> tuple[pl.DataFrame, list[str]]:
    """New rows with the columns and types of the samples, and the columns that are not used (the target is never read).

    InputError where a column is missing or holds something else, naming it.
    """
    missing = [c for c in table.X.columns if c not in new.columns]
    extra = [c for c in new.columns if c not in table.X.columns]
    if missing:
        other = [c for c in extra if c != target]
        said = f"; it has instead: {', '.join(other)}" if other else ""
        raise InputError(f"the new rows lack {len(missing)} of the {table.X.width} columns: {', '.join(missing)}{said}")
    columns = []
    for name, dtype in table.X.schema.items():
        values = new[name].cast(pl.Float64) if new[name].dtype == pl.Boolean else new[name]
        if name not in table.left_out and values.null_count() < values.len() and values.dtype.is_numeric() != dtype.is_numeric():
            kind = ["text", "numbers"]
            raise InputError(
                f"column {name} holds {kind[values.dtype.is_numeric()]} in the new rows, such as {values.drop_nulls()[0]!r}, and"
                f" {kind[dtype.is_numeric()]} in those seen"
            )
        columns.append(values.cast(dtype if dtype in (pl.String, pl.Categorical) else pl.Float64, strict=False).alias(name))
    return pl.DataFrame(columns), extra


def built_in(name: str, table: Table, seed: int) -> Any:
    """A scikit-learn pipeline around the model of that name; MissingExtraError without scikit-learn."""
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    require("sklearn", f"--model {name}")
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline, make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = [c for c, t in table.X.schema.items() if t.is_numeric() and c not in table.left_out]
    words = [c for c, t in table.X.schema.items() if not t.is_numeric() and c not in table.left_out]
    number_steps = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
    word_steps = make_pipeline(_Filled(), OneHotEncoder(handle_unknown="ignore", sparse_output=False))
    columns = ColumnTransformer([("numbers", number_steps, numbers), ("words", word_steps, words)])
    return Pipeline([("prepare", columns), ("model", _model(name, table.task == "classification", seed))])


def describe(table: Table) -> str:
    """The default pipeline in a line."""
    numbers = [c for c, t in table.X.schema.items() if t.is_numeric() and c not in table.left_out]
    words = [c for c in table.X.columns if c not in numbers and c not in table.left_out]
    said = f"numbers, median where missing, scaled: {', '.join(numbers) or 'none'}"
    said += f"; words, one column a category: {', '.join(words) or 'none'}"
    if table.left_out:
        said += f"; left out: {', '.join(f'{k} ({v})' for k, v in table.left_out.items())}"
    return said


def from_file(text: str) -> Any:
    """The estimator that ``path.py:name`` is, or makes when called without arguments; InputError where there is none."""
    found = factories.named(text, "--model")
    model = found if hasattr(found, "predict") and not isinstance(found, type) else factories.made(found, text, "--model")
    if not hasattr(model, "predict"):
        raise InputError(f"--model {text} made a {type(model).__name__}, which has no predict")
    return model


def _model(name: str, classify: bool, seed: int) -> Any:
    if name == "forest":
        from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

        return (RandomForestClassifier if classify else RandomForestRegressor)(100, random_state=seed)
    if name == "boosting":
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        return (HistGradientBoostingClassifier if classify else HistGradientBoostingRegressor)(random_state=seed)
    if name == "neighbours":
        from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

        return (KNeighborsClassifier if classify else KNeighborsRegressor)()
    if name == "constant":
        from sklearn.dummy import DummyClassifier, DummyRegressor

        return DummyClassifier(strategy="prior") if classify else DummyRegressor()
    from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

    if classify:
        return LogisticRegression(max_iter=2000, C=1.0 if name == "ridge" else 1e6)
    return Ridge() if name == "ridge" else LinearRegression()


class _Filled:
    """Words where none is: a category of its own."""

    def fit(self, X: Any, y: Any = None) -> _Filled:
        return self

    def transform(self, X: Any) -> Any:
        return np.column_stack([X[c].fill_null("(missing)").cast(pl.String).to_numpy() for c in X.columns]).astype(object)
