"""Broken files: what is wrong is set aside with its line and its reason, or stops the reading with one clear line."""

from __future__ import annotations

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from controlkit.errors import DataError


def refused(read, *sources, parts=(), **rules):
    with pytest.raises(DataError) as caught:
        read(*sources, **rules)
    message = str(caught.value)
    assert "\n" not in message
    assert len(caught.value.cure) > 8
    for part in parts:
        assert part in message, (part, message)
    return caught.value


def set_aside(found):
    """(line, tag, text, reason) of what is in quarantine."""
    return [(int(place.rsplit(" ", 1)[1]), tag, text, reason) for place, tag, text, reason in found.quarantined()]


# Lines ---------------------------------------------------------------------------------------------------------------


def test_mixed_delimiters(read, write, long_lines):
    long_lines[5] = long_lines[5].replace(",", ";")
    found = read(write(long_lines))
    assert set_aside(found) == [(6, "", long_lines[5], "1 cell where the header has 4")]
    assert len(found.values("door")) == 3
    lines = [long_lines[0], *(line.replace(",", ";") for line in long_lines[1:])]
    refused(read, write(lines, "b.csv"), parts=["b.csv", "split by ','", "the line after it by ';'", "one delimiter"])


def test_a_header_twice(read, write, long_lines, wide_lines):
    found = read(write([*long_lines[:7], long_lines[0], *long_lines[7:]]))
    assert set_aside(found) == [(8, "", "timestamp", "the header again")]
    assert found.values("power") == [0, 1, 2, 3]
    wide = read(write([*wide_lines[:3], wide_lines[0], *wide_lines[3:]], "wide.csv"))
    assert {entry[2:] for entry in set_aside(wide)} == {("timestamp", "the header again")}
    assert wide.values("power") == [0, 1, 2, 3]


def test_no_line_with_as_many_cells_as_the_header(read, write, long_lines, wide_lines):
    commas = [wide_lines[0], *(f"2024-01-01T00:00:0{k}Z,5,{k},0,0,1,5" for k in range(4))]
    parts = ["commas.csv, line 2", "the header has 4 cells", "with 7", "log.decimal", "log.delimiter"]
    refused(read, write(commas, "commas.csv"), parts=parts)
    trailing = [long_lines[0], *(f"{line}," for line in long_lines[1:])]
    refused(read, write(trailing, "trailing.csv"), parts=["the header has 4 cells", "with 5", "end of the lines"])
    cut = [long_lines[0], *(line.rpartition(",")[0] for line in long_lines[1:])]
    refused(read, write(cut, "cut.csv"), parts=["the header has 4 cells", "with 3", "cut off"])


@pytest.mark.parametrize("hint", ["sep=,", '"sep=,"', "SEP=;"])
def test_a_hint_for_spreadsheets(hint, read, write, long_lines):
    refused(read, write([hint, *long_lines]), parts=["log.csv, line 1", f"'{hint}'", "Remove that line"])


def test_a_title_above_the_header(read, write, long_lines):
    path = write(["Export of plant 7", "", "made by hand", *long_lines])
    refused(read, path, parts=["'Export of plant 7' is no header", "line 4 looks like it", "Remove the lines above"])


def test_a_byte_order_mark(read, write, long_lines):
    assert read(write(long_lines, encoding="utf-8-sig")).values("power") == [0, 1, 2, 3]


def test_lines_with_too_many_or_too_few_cells(read, write, long_lines, wide_lines):
    long_lines[3] += ",and,more"
    long_lines[7] = "2024-01-01T00:00:02Z"
    found = read(write(long_lines))
    assert [(line, reason) for line, *_, reason in set_aside(found)] == [
        (4, "6 cells where the header has 4"), (8, "1 cell where the header has 4"),
    ]  # fmt: skip
    wide_lines[2] += ",9"
    wide = read(write(wide_lines, "wide.csv"))
    assert [(line, tag) for line, tag, *_ in set_aside(wide)] == [(3, "door"), (3, "power"), (3, "temperature")]
    assert wide.values("temperature") == [5, 3, 2]


@pytest.mark.parametrize("cell", ['"4', '"4"x"', '4"'])
def test_a_quotation_mark_out_of_place_costs_its_line_only(cell, read, write, long_lines):
    long_lines[4] = f"2024-01-01T00:00:01Z,TT-101,{cell},good"
    found = read(write(long_lines))
    assert [entry[0] for entry in set_aside(found)] == [5]
    assert found.values("temperature") == [5, 3, 2]
    assert found.values("power") == [0, 1, 2, 3]


def test_bytes_that_are_no_text(read, write, long_lines):
    path = write(long_lines)
    lines = path.read_bytes().splitlines(keepends=True)
    lines = lines * 20_000  # beyond what the encoding is found out from
    lines[len(lines) - 2] = b"2024-01-01T00:00:03Z,door,0,g\xfct\n"
    path.write_bytes(b"".join(lines))
    found = read(path)
    line, tag, text, reason = set_aside(found)[-1]
    assert (line, tag, text) == (len(lines) - 1, "", "2024-01-01T00:00:03Z,door,0,g�t")
    assert reason == "bytes that are not in the file's encoding"


def test_a_line_end_inside_a_line(read, write, long_lines):
    long_lines[4] = "2024-01-01T00:00:01Z,TT-101,4\r5,good"
    found = read(write(long_lines))
    assert [entry[0] for entry in set_aside(found)] == [5]
    assert found.values("temperature") == [5, 3, 2]


# Cells ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word", ["Bad", "No Data", "#N/A", "I/O Timeout", "Comm Fail", "Pt Created", "Shutdown", "NaN", "null", " bad "]
)
def test_words_that_stand_for_no_value(word, read, write, wide_lines):
    wide_lines[2] = f"2024-01-01T00:00:01Z,{word},0,1"
    found = read(write(wide_lines))
    assert found.samples("temperature")[1] == ("2024-01-01T00:00:01Z", None, "bad")
    assert not found.quarantined()


def test_an_empty_cell_is_no_value_and_no_error(read, write, wide_lines):
    wide_lines[2] = "2024-01-01T00:00:01Z,, ,1"
    found = read(write(wide_lines))
    assert found.samples("temperature")[1][1:] == found.samples("door")[1][1:] == (None, "empty")


@pytest.mark.parametrize("text", ["1,234.5", "4.5 degC", "1_000", "0x10", "open", "--5", "1.2.3"])
def test_text_where_a_number_should_be(text, read, write, long_lines):
    long_lines[4] = f'2024-01-01T00:00:01Z,TT-101,"{text}",good'
    found = read(write(long_lines))
    assert set_aside(found) == [(5, "temperature", text, "no number in a good sample")]
    long_lines[4] = f'2024-01-01T00:00:01Z,TT-101,"{text}",bad'
    found = read(write(long_lines, "marked.csv"))
    assert not found.quarantined()
    assert found.samples("temperature")[1] == ("2024-01-01T00:00:01Z", None, "bad")


def test_decimal_commas_in_a_file_with_points(read, write, wide_lines):
    lines = [line.replace(",", ";") for line in wide_lines]
    lines[1], lines[2] = "2024-01-01T00:00:00Z;4.5;0;0", "2024-01-01T00:00:01Z;4,5;0;1"
    found = read(write(lines))
    assert set_aside(found) == [(3, "temperature", "4,5", "no number in a good sample")]


def test_stamps_that_cannot_be_read(read, write, long_lines, wide_lines):
    long_lines[4:6] = ["2024-02-30T00:00:01Z,TT-101,4,good", ",door,0,good"]
    found = read(write(long_lines))
    reason = "time stamp cannot be read"
    assert set_aside(found) == [(5, "temperature", "2024-02-30T00:00:01Z", reason), (6, "door", "", reason)]
    wide_lines[3] = "yesterday,3,0,2"
    wide = read(write(wide_lines, "wide.csv"))
    assert [entry[:3] for entry in set_aside(wide)] == [
        (4, tag, "yesterday") for tag in ("door", "power", "temperature")
    ]
    bad = [wide_lines[0], *(line.replace("2024", "in 2024") for line in wide_lines[1:])]
    refused(read, write(bad, "bad.csv"), parts=["line 2: the time stamp 'in 2024", "ISO 8601"])


def test_stamps_with_a_zone_and_without_one_in_one_file(read, write, long_lines):
    long_lines[6] = long_lines[6].replace("Z,", ",")
    problem = refused(read, write(long_lines), parts=["have a time zone and others have not", "line 7", "line 2"])
    assert "or none" in problem.cure


def test_a_record_without_a_tag(read, write, long_lines):
    long_lines[6] = "2024-01-01T00:00:01Z, ,1,good"
    assert set_aside(read(write(long_lines))) == [(7, "", " ", "no tag name")]


def test_an_unknown_tag_stops_the_reading(read, write, long_lines, wide_lines):
    long_lines[4:6] = ["2024-01-01T00:00:01Z,dor,1,good", "2024-01-01T00:00:01Z,TT-999,1,good"]
    refused(read, write(long_lines), parts=["line 5: tag 'dor'", "nor are 1 more: 'TT-999'", "Did you mean 'door'?"])
    wide_lines[0] = "timestamp,TT-101,dor,power"
    refused(read, write(wide_lines, "wide.csv"), parts=["line 1: tag 'dor'", "role 'ignore'"])


def test_lines_that_cannot_be_read_come_before_the_tag_that_they_hide(read, write, long_lines):
    lines = [f"{line}," if "power" in line else line for line in long_lines]
    refused(read, write(lines), parts=["4 of 12 rows (33.3 %)", "'5 cells where the header has 4'", "line 4"])


def test_a_missing_tag_stops_the_reading(read, write, long_lines):
    lines = [line for line in long_lines if ",power," not in line]
    refused(read, write(lines), parts=["tag 'power' of the plant file is not in the log", "door"])


def test_ignored_tags_are_counted_and_nothing_else(read, make_spec, write, long_lines, wide_lines):
    plant = make_spec({"note": {"role": "ignore", "unit": "1", "range": [0, 1]}})
    long_lines[4:4] = ["2024-01-01T00:00:01Z,note,hello,good", "whenever,note,1,good"]
    found = read(write(long_lines), plant=plant)
    assert (found.log.sources[0].samples, found.log.sources[0].ignored) == (14, 2)
    assert not found.quarantined()
    wide = read(
        write([f"{line},{x}" for line, x in zip(wide_lines, ["note", *"abcd"], strict=True)], "w.csv"), plant=plant
    )
    assert (wide.log.sources[0].samples, wide.log.sources[0].ignored) == (16, 4)


# Units and quality ---------------------------------------------------------------------------------------------------


def test_a_unit_is_converted_only_where_the_plant_file_says_so(read, make_spec, write, wide_lines):
    wide_lines[0] = "timestamp,TT-101 [°F],door,power"
    path = write(wide_lines)
    refused(read, path, parts=["'°F'", "'degC' (unit)", "log_unit: degF"])
    found = read(path, plant=make_spec({"temperature": {"log_unit": "degF"}}))
    assert found.values("temperature") == pytest.approx([(f - 32) / 1.8 for f in (5, 4, 3, 2)], abs=1e-12)
    refused(read, path, plant=make_spec({"temperature": {"log_unit": "K"}}), parts=["'K' (log_unit)"])


def test_a_unit_column(read, make_spec, write, long_lines):
    units = {"TT-101": "degF", "door": "1", "power": "kW"}
    lines = [f"{long_lines[0]},unit", *(f"{line},{units[line.split(',')[1]]}" for line in long_lines[1:])]
    path = write(lines)
    refused(read, path, parts=["line 2", "'degF'", "log_unit: degF"])
    plant = make_spec({"temperature": {"log_unit": "degF"}})
    assert read(path, plant=plant).values("temperature")[0] == pytest.approx(-15)
    lines[9] = lines[9].replace("kW", "MW")
    refused(read, write(lines), plant=plant, parts=["line 10: tag 'power' is in 'MW'", "log_unit: MW"])
    lines[9] = lines[9].replace("MW", "bar")
    problem = refused(read, write(lines), plant=plant, parts=["'bar'"])
    assert "log_unit" not in problem.cure


@pytest.mark.parametrize(
    ("codes", "worth"),
    [
        (["Good", "Bad", "Uncertain", "Substituted"], ["good", "bad", "uncertain", "substituted"]),
        (["192", "0", "64", "216"], ["good", "bad", "uncertain", "substituted"]),
        (["0", "2147483648", "0x40000000", "9830400"], ["good", "bad", "uncertain", "substituted"]),
        (["ok", "Guut", "", "0"], ["good", "bad", "bad", "bad"]),
    ],
)
def test_quality_codes(codes, worth, read, write, long_lines):
    for k, code in enumerate(codes):
        long_lines[3 * k + 2] = f"2024-01-01T00:00:0{k}Z,door,{k},{code}"
    plain = [line.replace("good", codes[0]) for line in long_lines]
    found = read(write(plain))
    assert [code for *_, code in found.samples("door")] == worth
    assert found.log.sources[0].unknown_codes == (("guut",) if "Guut" in codes else ())


def test_words_that_nobody_knows_are_named(read, write, long_lines):
    found = read(write([line.replace("good", "Fine") for line in long_lines]))
    assert {code for *_, code in found.samples("door")} == {"bad"}
    assert any("'fine'" in warning and "count as bad" in warning for warning in found.log.sources[0].warnings)


def test_a_zero_is_told_by_another_source(read, write, long_lines):
    zeros = write([line.replace("good", "0") for line in long_lines], "zeros.csv")
    refused(read, zeros, parts=["zeros.csv", "the quality code 0"])
    for code, worth in (("192", "bad"), ("2147483648", "good")):
        later = [line.replace("good", code).replace("2024-01-01", "2024-01-02") for line in long_lines]
        assert read(zeros, write(later, f"{code}.csv")).samples("door")[0][2] == worth


def test_a_zero_is_told_by_a_code_far_down(read, write):
    rows = [f"2024-01-01T{k // 3600:02d}:{k // 60 % 60:02d}:{k % 60:02d}Z" for k in range(20_000)]
    lines = ["timestamp,TT-101,door,power,quality", *(f"{stamp},1,0,1,0" for stamp in rows)]
    refused(read, write(lines), parts=["the quality code 0", "preset"])
    good = read(write([*lines, "2024-01-01T23:00:00Z,1,0,1,2147483648"], "ua.csv"))
    assert [good.samples("door")[k][2] for k in (0, -1)] == ["good", "bad"]
    bad = read(write([*lines, "2024-01-01T23:00:00Z,1,0,1,192"], "da.csv"))
    assert [bad.samples("door")[k][2] for k in (0, -1)] == ["bad", "good"]


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "\n", "timestamp,tag,value\n", "timestamp,TT-101,door,power\r\n\r\n"])
def test_an_empty_file(text, read, write, tmp_path):
    refused(read, write(text), parts=["log.csv: the log is empty", "Export it again"])
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(text.encode()))
    refused(read, tmp_path / "log.csv.gz", parts=["the log is empty"])


def test_a_truncated_gzip(read, write, long_lines, tmp_path):
    packed = gzip.compress("\n".join(long_lines).encode())
    path = tmp_path / "log.csv.gz"
    path.write_bytes(packed[: len(packed) // 2])
    refused(read, path, parts=["log.csv.gz: is cut off in the middle", "whole"])
    path.write_bytes(b"no gzip at all")
    refused(read, path, parts=["is no gzip file"])


def test_a_truncated_zstd(read, long_lines, tmp_path):
    path = tmp_path / "log.csv.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as stream:
        stream.write("\n".join(long_lines).encode())
    path.write_bytes(path.read_bytes()[:-8])
    refused(read, path, parts=["log.csv.zst: is cut off in the middle"])


def test_missing_files_and_other_kinds(read, tmp_path):
    refused(read, tmp_path / "none.csv", parts=["none.csv: no such file"])
    refused(read, tmp_path / "none*.csv", parts=["no file fits the pattern"])
    (tmp_path / "empty").mkdir()
    refused(read, tmp_path / "empty", parts=["is a folder without a log in it"])
    (tmp_path / "log.xlsx").write_text("x")
    refused(read, tmp_path / "log.xlsx", parts=["neither CSV nor Parquet nor Arrow"])
    (tmp_path / "log.csv").write_bytes(bytes(range(256)) * 8)
    refused(read, tmp_path / "log.csv", parts=["log.csv: "])
    refused(read, parts=["no log was named"])


def test_the_same_file_twice(read, write, long_lines):
    refused(read, write(long_lines), write(long_lines, "copy.csv"), parts=["given twice", "log.csv and", "copy.csv"])


def test_a_damaged_parquet_file(read, tmp_path):
    path = tmp_path / "log.parquet"
    path.write_bytes(b"PAR1 and then nothing of the kind")
    refused(read, path, parts=["log.parquet: cannot be read"])
    empty = pa.table({"timestamp": pa.array([], pa.timestamp("us")), "TT-101": pa.array([], pa.float64())})
    pq.write_table(empty, path)
    refused(read, path, parts=["the log is empty"])


def test_a_parquet_log_whose_columns_change_half_way(read, tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()

    def part(name, start, **columns):
        stamps = pa.array([(1_704_067_200 + start + k) * 10**9 for k in range(3)], pa.timestamp("ns", "UTC"))
        pq.write_table(pa.table({"timestamp": stamps, **columns}), folder / name)

    part("a.parquet", 0, **{"TT-101": [1.0, 2, 3], "door": [0, 0, 1], "power": [1, 2, 3]})
    part("b.parquet", 3, **{"TT-101": [1.0, 2, 3], "Door": [0, 0, 1], "power": [1, 2, 3]})
    refused(read, folder, parts=["b.parquet: has other columns than", "a.parquet", "'door'", "renamed"])
    # Another type is no other meaning: numbers as text, and whole ones.
    part("b.parquet", 3, **{"TT-101": ["4", "5.5", "#N/A"], "door": [True, False, True], "power": [1.0, 2, 3]})
    found = read(folder)
    assert found.values("temperature") == [1, 2, 3, 4, 5.5, None]
    assert found.values("door") == [0, 0, 1, 1, 0, 1]


def test_a_parquet_column_that_holds_no_numbers(read, tmp_path):
    stamps = pa.array([1_704_067_200 * 10**9], pa.timestamp("ns", "UTC"))
    pq.write_table(pa.table({"timestamp": stamps, "TT-101": stamps, "door": [0], "power": [1]}), tmp_path / "l.parquet")
    refused(read, tmp_path / "l.parquet", parts=["column 'TT-101' holds timestamp", "not numbers"])
