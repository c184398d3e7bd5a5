"""Plant files that are proposed for unknown logs: they load, the log ingests with them, and known plants are told."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from controlkit.errors import DataError
from controlkit.ingest import ingest
from controlkit.ingest.draft import Draft, draft_plant
from controlkit.ingest.draft.tag_names import hint_of
from controlkit.spec import PlantSpec
from envs.collect import collect

START = np.datetime64("2024-03-01T06:00:00", "ms")
DEAD_TIME = 12  # samples, of the heater


def drafted(paths: list[Path], folder: Path) -> tuple[PlantSpec, Draft]:
    """The proposal as a user gets it: written, loaded, and used on the same log."""
    draft = draft_plant(paths, name="proposed")
    (folder / "proposed.yaml").write_text(draft.yaml, encoding="utf-8")
    spec = PlantSpec.load(folder / "proposed.yaml")
    result = ingest(spec, paths, None)
    assert len(result.dataset.transitions) > 100
    return spec, draft


def roles(spec: PlantSpec) -> dict[str, str]:
    return {tag.column or name: tag.role for name, tag in spec.tags.items()}


def heater(rng: np.random.Generator, samples: int) -> dict[str, np.ndarray]:
    """A heated tank under PI control with names of ISA-5.1, sampled every 5 s: the heat arrives after a dead time."""
    setpoint = np.repeat(rng.choice([50.0, 55.0, 60.0], size=samples // 400 + 1), 400)[:samples]
    ambient = np.full(samples, 15.0)
    for t in range(1, samples):
        ambient[t] = 15 + 0.99 * (ambient[t - 1] - 15) + rng.normal(0, 1.0)
    temperature, output = np.full(samples, 50.0), np.zeros(samples)
    output[0], integral = 50.0, 50.0
    for t in range(samples):
        error = setpoint[t] - temperature[t]
        integral = np.clip(integral + 0.02 * error, 0, 100)
        output[t] = np.clip(integral + 1.5 * error + rng.normal(0, 1.0), 0, 100)
        if t + 1 < samples:
            heat = output[max(0, t - DEAD_TIME + 1)]
            pull = 0.01 * (ambient[t] + 0.8 * heat - temperature[t])
            temperature[t + 1] = temperature[t] + pull + rng.normal(0, 0.02)
    mode = np.ones(samples)
    mode[samples // 2 : samples // 2 + 30] = 0
    return {
        "TIC-101.PV": temperature, "TIC-101.SP": setpoint, "TIC-101.OP": output, "TIC-101.MODE": mode,
        "ZT-101": output + rng.normal(0, 0.1, samples), "TAH-101": np.zeros(samples), "TI-102": ambient,
    }  # fmt: skip


def write_wide(path: Path, tags: dict[str, np.ndarray], period_ms: int, zone: str = "Z") -> Path:
    samples = len(next(iter(tags.values())))
    stamps = np.datetime_as_string(START + np.arange(samples) * np.timedelta64(period_ms, "ms"))
    lines = [f"Timestamp,{','.join(tags)}"]
    columns = [np.char.mod("%.5g", values) for values in tags.values()]
    lines += [f"{stamp}{zone},{','.join(row)}" for stamp, row in zip(stamps, zip(*columns, strict=True), strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def refrigerator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "refrigerator.csv"
    collect("refrigerator", path, episodes=5)
    return path


def test_the_refrigerators_roles_period_and_delay_are_found_by_what_the_tags_do(refrigerator, tmp_path):
    spec, draft = drafted([refrigerator], tmp_path)
    assert roles(spec) == {"temperature": "state", "power": "action", "door": "exogenous"}
    assert spec.period_s == 1
    assert "temperature - after 1 s" in draft.yaml
    low, high = spec.limits("power")
    assert low == 0
    assert 2.5 < high < 4
    assert spec.tags["door"].range == (-0.5, 1.5)
    assert spec.tags["power"].fallback.kind == "hold"


def test_names_that_say_nothing_change_no_role(refrigerator, tmp_path):
    text = refrigerator.read_text()
    for name, hidden in (("temperature", "tag_3"), ("power", "tag_1"), ("door", "tag_2")):
        text = text.replace(f",{name},", f",{hidden},")
    path = tmp_path / "hidden.csv"
    path.write_text(text)
    spec, _ = drafted([path], tmp_path)
    assert roles(spec) == {"tag_3": "state", "tag_1": "action", "tag_2": "exogenous"}


def test_a_heater_with_names_of_isa_is_read_from_its_names_and_its_dead_time_from_the_data(tmp_path):
    path = write_wide(tmp_path / "heater.csv", heater(np.random.default_rng(1), 12_000), 5000)
    spec, draft = drafted([path], tmp_path)
    assert roles(spec) == {
        "TIC-101.PV": "state", "TIC-101.SP": "exogenous", "TIC-101.OP": "action", "TIC-101.MODE": "mode",
        "ZT-101": "feedback", "TAH-101": "ignore", "TI-102": "exogenous",
    }  # fmt: skip
    by_column = {tag.column or name: tag for name, tag in spec.tags.items()}
    assert spec.period_s == 5
    assert by_column["TIC-101.OP"].history == DEAD_TIME - 1 + 3
    assert by_column["TIC-101.OP"].unit == by_column["ZT-101"].unit == "%"
    assert by_column["TIC-101.PV"].unit == "degC"
    assert by_column["TIC-101.MODE"].accept == (1.0,)
    assert by_column["ZT-101"].of == "TIC_101.OP"
    assert spec.objective[0].setpoint == "TIC_101.SP"
    assert f"TIC-101.PV + after {5 * DEAD_TIME} s" in draft.yaml


def test_a_log_sampled_much_faster_than_the_plant_moves_gets_a_slower_period(tmp_path):
    slow = heater(np.random.default_rng(2), 6_000)
    fast = {
        name: np.interp(np.arange(60_000) / 10, np.arange(6_000), values)
        for name, values in slow.items()
        if name in ("TIC-101.PV", "TI-102")
    }
    fast["TIC-101.OP"] = np.repeat(np.repeat(slow["TIC-101.OP"].reshape(-1, 40)[:, 0], 40), 10)
    spec, _ = drafted([write_wide(tmp_path / "fast.csv", fast, 1000)], tmp_path)
    assert 5 <= spec.period_s <= 30


def test_forty_tags_of_which_most_are_noise(tmp_path):
    rng = np.random.default_rng(3)
    tags = {f"X{i:02d}": rng.normal(size=12_000) for i in range(18)}
    tags |= {f"W{i:02d}": np.cumsum(rng.normal(size=12_000)) for i in range(15)}
    real = heater(rng, 12_000)
    tags |= {"QQ1": real["TIC-101.PV"], "QQ2": real["TIC-101.OP"], "QQ3": real["TIC-101.SP"], "QQ4": real["TI-102"]}
    tags |= {"C1": np.full(12_000, 7.0), "C2": np.zeros(12_000), "C3": np.full(12_000, -1.5)}
    order = rng.permutation(list(tags))
    spec, _ = drafted([write_wide(tmp_path / "forty.csv", {name: tags[name] for name in order}, 5000)], tmp_path)
    found = roles(spec)
    assert len(found) == 40
    assert (found["QQ1"], found["QQ2"], found["QQ3"]) == ("state", "action", "exogenous")
    noise = [role for name, role in found.items() if name[0] in "XWC"]
    assert noise.count("ignore") >= 35  # of 36; one relation by chance is allowed


def pi_export(path: Path, rng: np.random.Generator) -> Path:
    """A long export as a historian writes it: stored by exception, stamps and values with their own habits."""
    tags = heater(rng, 20_000)
    rows = []
    for name, deviation in (("TIC-101.PV", 0.2), ("TIC-101.SP", 0.0), ("TIC-101.OP", 2.0), ("TI-102", 0.1)):
        last, since = np.inf, 0
        for t, value in enumerate(tags[name]):
            if abs(value - last) > deviation or t - since >= 120:
                rows.append((t, rf"\\PISRV\{name}", f"{value:.4f}"))
                last, since = value, t
    rows.sort()
    rows[50] = (rows[50][0], rows[50][1], "Bad")
    stamps = np.datetime_as_string(START + np.array([row[0] for row in rows]) * np.timedelta64(5000, "ms"))
    lines = ["tag;timestamp;value;status"]
    lines += [f"{tag};{t}Z;{v};{'Bad' if v == 'Bad' else 'Good'}" for t, (_, tag, v) in zip(stamps, rows, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_an_irregular_export_of_a_historian(tmp_path):
    spec, _ = drafted([pi_export(tmp_path / "pi.csv", np.random.default_rng(4))], tmp_path)
    found = roles(spec)
    assert found == {
        r"\\PISRV\TIC-101.PV": "state", r"\\PISRV\TIC-101.SP": "exogenous", r"\\PISRV\TIC-101.OP": "action",
        r"\\PISRV\TI-102": "exogenous",
    }  # fmt: skip
    assert spec.period_s >= 5
    stored = spec.tags["TIC_101.PV"].compression
    assert stored is not None
    assert 0.15 < stored.deviation < 0.3
    assert 200 < stored.max_interval_s <= 600  # 600 s is the historian's rule; noise speaks up before
    assert spec.tags["TIC_101.SP"].compression is None
    assert spec.max_age_s("TIC_101.SP") >= 600


def test_a_log_that_is_sampled_in_stretches_keeps_extremes_and_all_tags(tmp_path, monkeypatch):
    from controlkit.ingest.draft import sample

    path = write_wide(tmp_path / "long.csv", heater(np.random.default_rng(5), 12_000), 5000)
    whole = sample.sample_of(path)
    monkeypatch.setattr(sample, "KEPT", 20_000)
    part = sample.sample_of(path)
    assert whole.whole
    assert not part.whole
    for name, tag in whole.tags.items():
        assert (part.tags[name].low, part.tags[name].high) == (tag.low, tag.high) == (tag.value.min(), tag.value.max())
        assert part.tags[name].samples == tag.samples == 12_000
        assert 2_000 < len(part.tags[name].time_ns) < 4_000
    stretches = np.flatnonzero(np.diff(part.tags["TI-102"].time_ns) > 5_000_000_000)
    assert len(stretches) == sample.STRETCHES - 1


def test_stamps_without_zone_and_unusual_columns_are_said_in_the_file(tmp_path):
    tags = heater(np.random.default_rng(6), 3_000)
    samples = np.datetime_as_string(START + np.arange(3_000) * np.timedelta64(5000, "ms"), unit="s")
    lines = ["Zeit;Messstelle;Messwert"]
    for t, stamp in enumerate(samples):
        lines += [f"{stamp.replace('T', ' ')};{name};{tags[name][t]:.4f}".replace(".", ",") for name in list(tags)[:3]]
    text = "\n".join(lines).replace("TIC-101,PV", "PV101").replace("TIC-101,SP", "SP101").replace("TIC-101,OP", "OP101")
    (tmp_path / "de.csv").write_text(text + "\n")
    draft = draft_plant([tmp_path / "de.csv"])
    (tmp_path / "plant.yaml").write_text(draft.yaml)
    spec = PlantSpec.load(tmp_path / "plant.yaml")
    columns = spec.log.columns
    assert (columns.timestamp, columns.tag, columns.value) == ("Zeit", "Messstelle", "Messwert")
    assert set(spec.tags) == {"PV101", "SP101", "OP101"}
    assert any("time_zone" in note for note in draft.notes)
    assert "CHECK: the log's time stamps have no zone" in draft.yaml


@pytest.mark.parametrize("kind", ["utf-16", "cp1252", "gz", "parquet", "arrow", "folder"])
def test_every_kind_of_file_gives_the_same_proposal(kind, tmp_path):
    tags = heater(np.random.default_rng(9), 2_000)
    source = write_wide(tmp_path / "log.csv", {"Wärme": tags["TIC-101.PV"], "Ventil": tags["TIC-101.OP"]}, 5000)
    expected = draft_plant([source]).yaml.split("\n", 1)[1]
    text = source.read_text(encoding="utf-8")
    path = tmp_path / f"other.{kind}"
    if kind in ("parquet", "arrow"):
        table = pyarrow.csv.read_csv(source)
        zoned = table["Timestamp"].cast(pyarrow.timestamp("ms", tz="UTC"))
        table = table.set_column(0, "Timestamp", zoned)
        pq.write_table(table, path) if kind == "parquet" else feather.write_feather(table, path)
    elif kind == "folder":
        path.mkdir()
        lines = text.splitlines(keepends=True)
        (path / "a.csv").write_text("".join(lines[:1001]), encoding="utf-8")
        (path / "b.csv").write_text(lines[0] + "".join(lines[1001:]), encoding="utf-8")
    elif kind == "gz":
        path = tmp_path / "other.csv.gz"
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path = tmp_path / "other.csv"
        path.write_text(text, encoding=kind)
    assert draft_plant([path]).yaml.split("\n", 1)[1] == expected


def test_units_of_the_log_are_taken_and_an_unknown_one_leaves_its_tag_out(tmp_path):
    tags = heater(np.random.default_rng(7), 3_000)
    named = {"T1 [°C]": tags["TIC-101.PV"], "S1 [degC]": tags["TIC-101.SP"], "U1 [%]": tags["TIC-101.OP"]}
    named["N1 [furlong]"] = tags["TI-102"]
    path = write_wide(tmp_path / "units.csv", named, 5000)
    draft = draft_plant([path])
    (tmp_path / "plant.yaml").write_text(draft.yaml, encoding="utf-8")
    spec = PlantSpec.load(tmp_path / "plant.yaml")
    assert {name: tag.unit for name, tag in spec.tags.items()} == {"T1": "degC", "S1": "degC", "U1": "%", "N1": "1"}
    assert spec.tags["N1"].role == "ignore"
    assert "furlong" in draft.yaml
    assert len(ingest(spec, [path], None).dataset.transitions) > 1000


def test_a_tag_stored_seldom_may_be_old(tmp_path):
    tags = heater(np.random.default_rng(8), 6_000)
    stamps = np.datetime_as_string(START + np.arange(6_000) * np.timedelta64(5000, "ms"))
    lines = ["timestamp,tag,value"]
    for t, stamp in enumerate(stamps):
        lines += [f"{stamp}Z,{name},{tags[name][t]:.4f}" for name in ("TIC-101.PV", "TIC-101.OP")]
        lines += [f"{stamp}Z,TI-102,{tags['TI-102'][t]:.4f}"] if t % 24 == 0 else []
    (tmp_path / "slow.csv").write_text("\n".join(lines) + "\n")
    draft = draft_plant([tmp_path / "slow.csv"])
    (tmp_path / "plant.yaml").write_text(draft.yaml)
    spec = PlantSpec.load(tmp_path / "plant.yaml")
    if spec.tags["TI_102"].role != "ignore":
        assert spec.max_age_s("TI_102") >= 120
    result = ingest(spec, [tmp_path / "slow.csv"], None)
    assert len(result.dataset.transitions) > 5_500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("timestamp,a,b\n", "empty"),
        ("when,a\nx,1\ny,2\n", "no column holds time stamps"),
        ("timestamp,a,b\nnever,1,2\nsoon,2,3\n", "the time stamp 'never' cannot be read"),
        ("timestamp,a,b\n2024-01-01T00:00:00Z,up,down\n", "no column holds numbers"),
        ("timestamp,a,b\n" + "".join(f"2024-01-01T00:00:{s:02d}Z,{s},5\n" for s in range(60)), "1 tag(s) of the log"),
    ],
)
def test_a_log_that_nothing_can_be_proposed_for_is_refused_in_a_sentence(text, message, tmp_path):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(DataError) as refused:
        draft_plant([tmp_path / "log.csv"])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        (["timestamp,a,b", *(f"2024-01-01T00:00:{s:02d}Z,{s},5,{s},25" for s in range(60))],
         ["line 2: 60 of the first 60 lines", "which has 3", "has 5: '2024-01-01T00:00:00Z,0,5,0,25'", "decimal mark"]),
        (["timestamp,a,b", *(f"2024-01-01T00:00:{s:02d}Z,{s},{s},," for s in range(60))],
         ["line 2: 60 of the first 60 lines", "without a delimiter at the end of the lines"]),
        (["Report of January", "timestamp,a,b", *(f"2024-01-01T00:00:{s:02d}Z,{s},{s}" for s in range(60))],
         ["line 2: 61 of the first 61 lines", "lines above the header"]),
        (["timestamp,a,b", *(f"2024-01-01T00:00:{s:02d}Z,{s},{s}" for s in range(60)), "2024-01-01T00:01:00Z,1"],
         ["line 62: 1 of the first 61 lines", "has 2: '2024-01-01T00:01:00Z,1'"]),
    ],
)  # fmt: skip
def test_lines_that_do_not_fit_the_header_are_named(lines, parts, tmp_path):
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as refused:
        draft_plant([tmp_path / "log.csv"])
    for part in parts:
        assert part in str(refused.value)
    assert "\n" not in str(refused.value)


def write_dated(path: Path, form: str, start: str, hours: int) -> Path:
    """A wide log of so many hours, a row a minute, with dates in a form of numbers."""
    rng = np.random.default_rng(11)
    tags = heater(rng, 60 * hours)
    stamps = np.datetime64(start, "s") + np.arange(60 * hours) * np.timedelta64(60, "s")
    lines = ["timestamp,TIC-101.PV,TIC-101.OP"]
    for t, stamp in enumerate(stamps.tolist()):
        lines.append(f"{stamp.strftime(form)},{tags['TIC-101.PV'][t]:.4f},{tags['TIC-101.OP'][t]:.4f}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("form", "start", "hours", "day_first"),
    [
        ("%d/%m/%Y %H:%M:%S", "2024-03-04", 48, True),  # the 4th and 5th of March, or the 3rd of April and of May
        ("%m/%d/%Y %I:%M %p", "2024-03-04", 48, False),
        ("%d-%m-%Y %H:%M", "2024-03-04", 48, True),
        ("%m/%d/%Y %H:%M:%S", "2024-03-10", 96, None),  # the 13th tells
        ("%d.%m.%Y %H:%M:%S", "2024-03-04", 48, None),
    ],
)
def test_the_order_of_day_and_month_is_proposed_where_no_stamp_tells(form, start, hours, day_first, tmp_path):
    path = write_dated(tmp_path / "log.csv", form, start, hours)
    spec, draft = drafted([path], tmp_path)
    assert spec.log.day_first is day_first
    assert any("log.day_first" in note for note in draft.notes) == (day_first is not None)
    assert spec.period_s >= 60
    assert spec.max_gap_s < 3600


def test_a_day_and_month_that_another_file_tells(tmp_path):
    form = "%m/%d/%Y %H:%M"
    # The first day by itself would rather be read with the day first.
    one = write_dated(tmp_path / "one.csv", form, "2024-03-04", 24)
    other = write_dated(tmp_path / "other.csv", form, "2024-03-20", 24)
    spec, draft = drafted([one, other], tmp_path)
    assert spec.log.day_first is False
    assert "# some files do not tell, the others do" in draft.yaml
    assert "CHECK: no time stamp" not in draft.yaml


def test_a_mode_that_is_always_manual_is_no_quality(tmp_path):
    tags = heater(np.random.default_rng(12), 3_000)
    path = write_wide(tmp_path / "log.csv", {name: tags[name] for name in ("TIC-101.PV", "TIC-101.OP")}, 5000)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([f"{lines[0]},station", *(f"{line},Manual" for line in lines[1:])]) + "\n")
    assert "station" in draft_plant([path]).yaml


@pytest.mark.parametrize(
    ("name", "kind", "loop", "unit"),
    [
        ("FIC-101.PV", "measured", "F101", "m^3/h"), ("FIC101/PID1/MODE.ACTUAL", "mode", "F101", None),
        (r"\\PISRV\UNIT1:TI-204.PV", "measured", "T204", "degC"), ("PV-12", "command", "P12", None),
        ("PIC12.PV", "measured", "P12", "bar"), ("LCV_2", "command", "L2", None), ("ZT-101", "feedback", "Z101", "%"),
        ("LAH-3", "alarm", "L3", None), ("U1_TIC_100_OUT", "command", "T100", None), ("power", None, None, None),
        ("Sinusoid", None, None, None), ("feed_valve", "command", None, None),
    ],
)  # fmt: skip
def test_names_are_read_as_isa_writes_them(name, kind, loop, unit):
    hint = hint_of(name)
    assert (hint.kind, hint.loop, hint.unit) == (kind, loop, unit)
