"""CSV in every dress: delimiters, decimal marks, encodings, packing; the samples are the same."""

from __future__ import annotations

import gzip

import pyarrow as pa
import pytest

from controlkit.errors import DataError
from controlkit.ingest.sources.csv_file import CsvFile

STAMPS = [f"2024-01-01T00:00:0{k}Z" for k in range(4)]


def test_long_and_wide_give_the_same_samples(read, write, long_lines, wide_lines):
    long, wide = read(write(long_lines)), read(write(wide_lines, "wide.csv"))
    for tag, values in (("temperature", [5, 4, 3, 2]), ("door", [0] * 4), ("power", [0, 1, 2, 3])):
        assert long.samples(tag) == wide.samples(tag) == [(t, v, "good") for t, v in zip(STAMPS, values, strict=True)]
    source = long.log.sources[0]
    assert (source.form, source.rows, source.samples, source.ignored) == ("long", 12, 12, 0)
    assert (wide.log.sources[0].form, wide.log.sources[0].rows, wide.log.sources[0].samples) == ("wide", 4, 12)
    assert source.last_ns - source.first_ns == 3 * 10**9
    assert long.log.place(0, int(long.log.stage.read("door")["row"][1])).endswith("log.csv, line 6")


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_delimiters(mark, read, write, long_lines):
    assert read(write([line.replace(",", mark) for line in long_lines])).values("power") == [0, 1, 2, 3]


def test_a_delimiter_that_the_plant_file_names(read, write, long_lines):
    path = write([line.replace(",", "!") for line in long_lines])
    assert read(path, delimiter="!").values("power") == [0, 1, 2, 3]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_decimal_commas_are_found_out(mark, read, write, wide_lines):
    lines = [line.replace(",", mark) for line in wide_lines]
    lines[2] = f"2024-01-01T00:00:01Z{mark}-4,25{mark}0{mark}1,5e-1"
    found = read(write(lines))
    assert found.values("temperature") == [5, -4.25, 3, 2]
    assert found.values("power") == [0, 0.15, 2, 3]


def test_a_decimal_comma_that_the_plant_file_names(read, write, wide_lines):
    wide_lines[2] = '2024-01-01T00:00:01Z,"4,25",0,1'
    assert read(write(wide_lines), decimal=",").values("temperature") == [5, 4.25, 3, 2]
    # Without it, nothing says that a comma inside quotes is one.
    assert read(write(wide_lines, "again.csv")).quarantined()[0][1:] == (
        "temperature", "4,25", "no number in a good sample",
    )  # fmt: skip


def test_grouped_numbers_count_only_where_the_mark_is_named(read, write, wide_lines):
    lines = [line.replace(",", ";") for line in wide_lines]
    lines[1:4] = [
        "2024-01-01T00:00:00Z;1,234.5;0;0",
        "2024-01-01T00:00:01Z;1,234,567;0;1",
        "2024-01-01T00:00:02Z;1,234;0;2",
    ]
    found = read(write(lines))
    assert [(text, place.rsplit(" ", 1)[1]) for place, _, text, _ in found.quarantined()] == [
        ("1,234.5", "2"), ("1,234,567", "3"), ("1,234", "4"),
    ]  # fmt: skip
    named = read(write(lines, "named.csv"), decimal=".")
    assert named.values("temperature") == [1234.5, 1234567, 2]
    assert [text for _, _, text, _ in named.quarantined()] == ["1,234"]  # may be 1.234


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("utf-8", "°C"), ("utf-8-sig", "°C"), ("utf-16", "°C"), ("utf-16-le", "°C"), ("cp1252", "°C"), ("latin-1", "°C")],
)
def test_encodings_are_found_out(encoding, name, read, write, wide_lines):
    wide_lines[0] = f"timestamp,TT-101 [{name}],door,power"
    assert read(write(wide_lines, encoding=encoding)).values("temperature") == [5, 4, 3, 2]


def test_an_encoding_that_the_plant_file_names(read, make_spec, write, wide_lines):
    plant = make_spec({"temperature": {"column": "Температура"}})
    wide_lines[0] = "timestamp,Температура,door,power"
    path = write(wide_lines, encoding="cp866")
    assert read(path, plant=plant, encoding="cp866").values("temperature") == [5, 4, 3, 2]
    with pytest.raises(DataError, match="'cp-nothing' is no known encoding"):
        read(path, encoding="cp-nothing")


@pytest.mark.parametrize("encoding", ["rot13", "nonsense", "base64", "hex", "undefined", "a b", "zlib"])
def test_an_encoding_that_is_none_of_text(encoding, read, write, wide_lines):
    with pytest.raises(DataError, match=f"'{encoding}' is no known encoding"):
        read(write(wide_lines), encoding=encoding)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_two_bytes_a_sign_without_a_mark(encoding, read, write, wide_lines):
    assert all(line.isascii() for line in wide_lines)  # so that it is valid UTF-8, too
    assert read(write(wide_lines, encoding=encoding)).values("temperature") == [5, 4, 3, 2]


def test_no_head_is_kept(spec, write, wide_lines):
    file = CsvFile(write(wide_lines), spec)
    assert file._text.head == b""
    assert sum(len(batch.row) for batch in file.batches()) == 4


def test_packed_files(read, tmp_path, long_lines):
    content = ("\n".join(long_lines) + "\n").encode()
    packed = tmp_path / "log.csv.gz"
    packed.write_bytes(gzip.compress(content[:100]) + gzip.compress(content[100:]))  # as logrotate puts them together
    assert read(packed).values("power") == [0, 1, 2, 3]
    with pa.CompressedOutputStream(str(tmp_path / "log.csv.zst"), "zstd") as stream:
        stream.write(content)
    assert read(tmp_path / "log.csv.zst").values("power") == [0, 1, 2, 3]


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends(end, read, write, long_lines):
    assert read(write(end.join(long_lines) + end)).values("power") == [0, 1, 2, 3]


def test_blank_lines_and_quotes_and_blanks_around_cells(read, write, long_lines):
    lines = ["", *long_lines[:4], "", "  ", *(f'"{x[:20]}" , {x[21:].replace(",", " , ")}' for x in long_lines[4:]), ""]
    lines = [line.replace('" ,', '",') for line in lines]
    found = read(write(lines))
    assert found.values("power") == [0, 1, 2, 3]
    assert found.log.place(0, int(found.log.stage.read("door")["row"][3])).endswith("line 15")


def test_columns_that_the_plant_file_names(read, write, long_lines):
    path = write(["Zeit,Messstelle,Wert,Guete", *long_lines[1:]])
    names = {"timestamp": "Zeit", "tag": "Messstelle", "value": "Wert", "quality": "Guete"}
    assert read(path, columns=names).values("power") == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"line 1: there is no column 'Zeil' \(log.columns.timestamp"):
        read(path, columns={**names, "timestamp": "Zeil"})


def test_blocks_of_any_size_give_the_same(read, write, monkeypatch):
    lines = ["timestamp,tag,value,quality"]
    for k in range(3000):
        second = f"2024-01-01T{k // 3600:02d}:{k // 60 % 60:02d}:{k % 60:02d}Z"
        lines += [f"{second},TT-101,{k % 7}.5,good", f"{second},door,{k % 2},{'bad' if k % 9 == 0 else 'good'}"]
        lines += ["", "cut off"] if k % 500 == 3 else []
        lines.append(f"{second},power,{'Bad' if k % 11 == 0 else k % 5},good")
    path = write(lines)
    whole = read(path)
    monkeypatch.setattr("controlkit.ingest.sources.csv_file.BLOCK", 1 << 12)
    monkeypatch.setattr("controlkit.ingest.sources.csv_file.SMALLEST", 1 << 10)
    pieces = read(path)
    for tag in whole.log.stage.tags:
        assert whole.log.stage.read(tag).tobytes() == pieces.log.stage.read(tag).tobytes()
    assert whole.log.stage.count("power") == 3000
    assert whole.quarantined() == pieces.quarantined()
    assert [(place.rsplit(" ", 1)[1], text) for place, _, text, _ in whole.quarantined()] == [
        (str(3 * k + 5 + 2 * (k // 500)), "cut off") for k in range(3, 3000, 500)
    ]
