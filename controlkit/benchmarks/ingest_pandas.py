"""The ingest as it is written with pandas when nobody thinks of memory: the yardstick, with the same result.

Quality, duplicates, ranges, frozen sensors, alignment, commands weighted by time, modes, gaps and episodes follow the
rules of `controlkit.ingest`, for the plant of `controlkit.benchmarks.ingest_log`. No line numbers, no quarantine, no
report.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from controlkit.layout import Layout
from controlkit.spec import PlantSpec

NS = 1_000_000_000


def read(path: Path) -> pd.DataFrame:
    """The whole log: `t` in nanoseconds, tag, value, quality."""
    if path.suffix == ".csv":
        log = pd.read_csv(path)
        log["timestamp"] = pd.to_datetime(log["timestamp"], utc=True, format="ISO8601")
    else:
        log = pd.read_parquet(path)
    log["t"] = log.pop("timestamp").dt.as_unit("ns").astype("int64")
    return log


def usable(spec: PlantSpec, log: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Tag -> its usable samples (`t`, `value`), in order of time; of commands and modes all, NaN if unknown."""
    found = {}
    for name, rows in log.groupby("tag"):
        tag = spec.tags[str(name)]
        samples = rows.sort_values("t", kind="stable")
        held = tag.role in ("action", "mode")
        if held:
            samples["value"] = samples["value"].where(samples["quality"] == "good")
        else:
            samples = samples[samples["quality"] == "good"]
        samples = samples.drop_duplicates("t")[["t", "value"]]
        inside = samples["value"].between(*(spec.limits(str(name)) if tag.role == "action" else tag.range))
        if held:
            samples["value"] = samples["value"].where(inside)
        else:
            samples = samples[inside]
        if tag.frozen is not None:
            run = (samples["value"] != samples["value"].shift()).cumsum()
            since = samples["t"] - samples.groupby(run)["t"].transform("first")
            samples = samples[since <= tag.frozen.after_s * NS]
        found[str(name)] = samples.reset_index(drop=True)
    return found


def dataset(spec: PlantSpec, samples: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The rows of the data set: every tag with `.age` and `.ok`, every action with `.changed`, reward and episode."""
    period = round(spec.period_s * NS)
    grid = _grid(spec, samples, period)
    columns = [grid, *(_signal(spec, name, samples[name], grid) for name in spec.frame_tags)]
    columns += [_command(name, samples[name], grid, period) for name in spec.action_tags]
    rows = pd.concat(columns, axis=1)
    in_mode, mode_kept = _modes(spec, samples, grid, period)

    alive = in_mode & rows[[f"{name}.ok" for name in spec.frame_tags]].all(axis=1)
    follows = rows["stretch"].shift(-1) == rows["stretch"]
    known = rows[list(spec.action_tags)].notna().all(axis=1)
    static = list(spec.names("static"))
    same = (rows[static].shift(-1) == rows[static]).all(axis=1)
    joined = alive & alive.shift(-1, fill_value=False) & follows & mode_kept & known & same
    starts = alive & ~joined.shift(fill_value=False)
    rows = pd.concat([rows, starts.cumsum().rename("episode"), (~joined).rename("last")], axis=1)[alive]
    needed = max(spec.episodes.min_steps + 1, Layout.from_spec(spec).depth + 2)
    rows = rows[rows.groupby("episode")["t"].transform("size") >= needed].copy()
    rows["episode"] = rows["episode"].rank(method="dense").astype("int64") - 1
    term = spec.objective[0]
    assert term.kind == "track"
    rows["reward"] = -(rows[term.tag].shift(-1) - float(term.setpoint)).abs()
    rows.loc[rows["last"], ["reward", *spec.action_tags]] = np.nan
    return rows.drop(columns=["stretch", "last"]).reset_index(drop=True)


def _grid(spec: PlantSpec, samples: dict[str, pd.DataFrame], period: int) -> pd.DataFrame:
    times = pd.concat([samples[name]["t"] for name in spec.frame_tags]).sort_values(ignore_index=True)
    stretch = (times.diff() > spec.max_gap_s * NS).cumsum()
    ends = times.groupby(stretch).agg(["first", "last"])
    parts = []
    for number, (first, last) in enumerate(ends.itertuples(index=False)):
        times_of = np.arange(-(-first // period) * period, last + 1, period)
        parts.append(pd.DataFrame({"t": times_of, "stretch": number}))
    return pd.concat(parts, ignore_index=True)


def _signal(spec: PlantSpec, name: str, samples: pd.DataFrame, grid: pd.DataFrame) -> pd.DataFrame:
    tag, max_age = spec.tags[name], spec.max_age_s(name)
    samples = samples.rename(columns={"t": "at"})
    samples["between"] = samples["at"].diff() / NS
    samples["rise"] = samples["value"].diff()
    found = pd.merge_asof(grid[["t"]], samples, left_on="t", right_on="at")
    age = (found["t"] - found["at"]) / NS
    value = found["value"]
    if tag.interpolation == "linear":
        near = (found["between"] <= max_age) & (age <= max_age)
        value = value.where(~near, value + found["rise"] / found["between"] * age)
    columns = {name: value.astype("float32"), f"{name}.age": age.fillna(np.inf), f"{name}.ok": age <= max_age}
    return pd.DataFrame(columns)


def _command(name: str, samples: pd.DataFrame, grid: pd.DataFrame, period: int) -> pd.DataFrame:
    edges = np.union1d(grid["t"], grid["t"] + period)
    pieces = pd.concat([samples.fillna({"value": np.inf}), pd.DataFrame({"t": edges})]).sort_values(
        "t", kind="stable", ignore_index=True
    )
    pieces["value"] = pieces["value"].ffill()
    lasts = -pieces["t"].diff(-1)
    pieces["weighted"] = pieces["value"] * lasts
    # A command stamped on the grid stands before the edge of the same stamp, and lasts for no time there.
    pieces = pieces[lasts != 0]
    of = pieces.groupby(pieces["t"] // period * period)
    found = of.agg(low=("value", "min"), high=("value", "max"), weighted=("weighted", "sum")).reindex(grid["t"])
    changed = found["low"] != found["high"]
    value = found["low"].where(~changed, found["weighted"] / period)
    # A period that starts before the first command, or in which it is unknown, is unknown.
    unknown = found["low"].isna() | (found["high"] == np.inf) | (found.index < samples["t"].iloc[0])
    value, changed = value.mask(unknown), changed & ~unknown
    return pd.DataFrame({name: value.astype("float32").to_numpy(), f"{name}.changed": changed.to_numpy()})


def _modes(
    spec: PlantSpec, samples: dict[str, pd.DataFrame], grid: pd.DataFrame, period: int
) -> tuple[pd.Series, pd.Series]:
    now = after = pd.Series(True, index=grid.index)
    for name in spec.names("mode"):
        accept = list(spec.tags[name].accept)
        now = now & pd.merge_asof(grid[["t"]], samples[name], on="t")["value"].isin(accept)
        refused = samples[name].loc[~samples[name]["value"].isin(accept), "t"]
        after = after & ~grid["t"].isin((-(-refused // period) - 1) * period)
    return now, after
