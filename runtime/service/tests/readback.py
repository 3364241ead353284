#!/usr/bin/env python3
"""Reads a store's publications with the tools that others use: PyIceberg, DuckDB, Spark.

    readback.py STORE [--epochs N,N,... | --newest | --spread N] [--out DIR] [--engines pyiceberg,duckdb,spark]
    readback.py STORE --check --tidemill PATH       ... and holds `tidemill show` to the same rows
    readback.py ... --recompute                     ... and every table of each epoch to what follows from the records

Every root of the store may name a publication; each of them is read, table by table, from its
`metadata_location` alone. With `--out` the rows are written as JSON lines, one file a table at
DIR/ENGINE/EPOCH/TABLE.jsonl, as `tidemill show --format json` prints them. With `--check` the rows of all
engines must be the same, and as many as the root says; without `--tidemill`, only the engines' own.

It needs: pip install pyiceberg==0.12.0 pyarrow duckdb==1.4.4 duckdb-ext-iceberg==1.4.4.20260205 \
    duckdb-ext-avro==1.4.4.20260205
(DuckDB's extensions come as packages, because DuckDB itself would fetch them from a site of its own.)
The engine `spark` needs pyspark==3.5.9, a JDK, and with --spark-jar the archive iceberg-spark-runtime-3.5_2.12.

It ends with 0 if all is well, with 1 if rows differ (at most 20 are told), with 2 if it cannot be run.
"""

import argparse
import base64
import json
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

TOLD_MAX = 20


def publications(store):
    """{epoch: {table: {metadata_location, snapshot_id, rows}}} as the newest root that names each says."""
    found = {}
    for root in sorted((store / "catalog").glob("[0-9]" * 20 + ".json")):
        published = json.loads(root.read_bytes())["published"]
        # Of the oldest roots the publication is there, but the root of its own epoch may be gone.
        if published and (store / "catalog" / f"{published['epoch']:020}.json").exists():
            found[published["epoch"]] = published["tables"]
    return found


def shortest_floats(column):
    """Lists of the doubles with the fewest digits that are the same 32-bit floats."""
    import pyarrow as pa

    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    floats = column.flatten().cast(pa.float32()).cast(pa.string()).cast(pa.float64()).to_pylist()
    lengths, start, lists = column.value_lengths().to_pylist(), 0, []
    for length in lengths:
        lists.append(None if length is None else floats[start:start + length])
        start += length or 0
    return lists


def values(column):
    """The values of an Arrow column as they stand in JSON."""
    import pyarrow.types as types

    kind = column.type
    if types.is_list(kind) or types.is_large_list(kind):
        return shortest_floats(column)
    convert = lambda value: value
    if types.is_binary(kind) or types.is_large_binary(kind):
        convert = lambda value: base64.b64encode(value).decode()
    if types.is_timestamp(kind):
        convert = lambda value: value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return [None if value is None else convert(value) for value in column.to_pylist()]


def utc(table):
    """The table with its timestamps in UTC, microseconds."""
    import pyarrow as pa

    for place, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            column = table.column(place).cast(pa.timestamp("us", "UTC"))
            table = table.set_column(place, field.name, column)
    return table


def rows_of(table):
    """The rows of an Arrow table as dictionaries that can be written as JSON."""
    columns = [values(table.column(place)) for place in range(table.num_columns)]
    return [dict(zip(table.schema.names, row)) for row in zip(*columns)]


def alike(one, other):
    """Whether two Arrow types hold the same values in forms that can be cast without loss."""
    import pyarrow.types as types

    def form(kind):
        if types.is_list(kind) or types.is_large_list(kind):
            return [form(kind.value_type)]
        if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
            return "string"
        if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
            return "binary"
        return str(kind)

    return form(one) == form(other)


def equal(one, other):
    """Whether two Arrow tables hold the same rows in any order; where that cannot be told so, no."""
    import pyarrow as pa

    if sorted(one.schema.names) != sorted(other.schema.names) or one.num_rows != other.num_rows:
        return False
    other = other.select(one.schema.names)
    if not all(alike(a.type, b.type) for a, b in zip(one.schema, other.schema)):
        return False
    try:
        other = other.cast(one.schema)
        keys = [(field.name, "ascending") for field in one.schema if not pa.types.is_nested(field.type)]
        return one.sort_by(keys).equals(other.sort_by(keys))
    except (pa.ArrowException, ValueError):
        return False


def read_pyiceberg(entry):
    from pyiceberg.table import StaticTable

    table = StaticTable.from_metadata(entry["metadata_location"])
    snapshot = table.current_snapshot()
    if snapshot is None or snapshot.snapshot_id != entry["snapshot_id"]:
        there = snapshot and snapshot.snapshot_id
        raise ValueError(f"the root names snapshot {entry['snapshot_id']}, the metadata {there}")
    return utc(table.scan().to_arrow())


class DuckDb:
    """A connection with the Iceberg extension, loaded once."""

    def __init__(self):
        import duckdb

        self.connection = duckdb.connect()
        folder = Path(sysconfig.get_paths()["purelib"]) / "duckdb_ext" / "extensions" / f"v{duckdb.__version__}"
        for name in ("avro", "iceberg"):
            extension = next(folder.glob(f"*/{name}.duckdb_extension"), None)
            if extension is None:
                raise SystemExit(f"no extension {name} under {folder}: pip install duckdb-ext-{name}")
            self.connection.execute(f"LOAD '{extension}'")
        self.connection.execute("SET TimeZone = 'UTC'")

    def read(self, entry):
        location = entry["metadata_location"].replace("'", "''")
        result = self.connection.execute(f"SELECT * FROM iceberg_scan('{location}')")
        return utc(result.fetch_arrow_table())


class Spark:
    """A session in this process, which reads tables by their metadata's address and needs no catalog."""

    def __init__(self, jar):
        from pyspark.sql import SparkSession

        if not jar:
            raise SystemExit("the engine spark needs --spark-jar")
        settings = {
            "spark.jars": str(jar),
            "spark.master": "local[2]",
            "spark.driver.memory": "4g",
            "spark.driver.host": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.shuffle.partitions": "2",
        }
        builder = SparkSession.builder
        for name, value in settings.items():
            builder = builder.config(name, value)
        self.session = builder.getOrCreate()
        self.session.sparkContext.setLogLevel("ERROR")

    def read(self, entry):
        import pyarrow as pa

        frame = self.session.read.format("iceberg").load(entry["metadata_location"])
        batches = frame._collect_as_arrow()
        if not batches:
            return pa.table({name: pa.array([], pa.null()) for name in frame.columns})
        return utc(pa.Table.from_batches(batches))


def read_show(command, store, table, epoch):
    """The rows that `tidemill show` prints."""
    arguments = [command, "show", table, "--store", str(store), "--at", str(epoch), "--format", "json"]
    done = subprocess.run(arguments, capture_output=True, check=False)
    if done.returncode:
        raise ValueError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
    return [json.loads(line) for line in done.stdout.split(b"\n") if line]


def recompute(command, store, epoch):
    """Nothing, or what `tidemill verify --recompute` finds wrong."""
    arguments = [command, "verify", "--store", str(store), "--at", str(epoch), "--recompute"]
    done = subprocess.run(arguments, capture_output=True, check=False)
    said = (done.stdout + done.stderr).decode(errors="replace")
    return [f"{' '.join(arguments)} ended with {done.returncode}: {said}"] if done.returncode else []


ENCODER = json.JSONEncoder(sort_keys=True)


def canonical(row):
    """Equal text for equal rows: null columns aside, numbers by value."""

    def plain(value):
        if isinstance(value, bool) or not isinstance(value, (int, float, list)):
            return value
        if isinstance(value, list):
            return [float(item) for item in value]
        return int(value) if float(value).is_integer() and abs(value) < 2**53 else value

    return ENCODER.encode({name: plain(value) for name, value in row.items() if value is not None})


def differences(what, want, got):
    """Lines that say which rows are in one and not in the other."""
    want, got = Counter(map(canonical, want)), Counter(map(canonical, got))
    lines = [f"{what}: missing {row[:600]}" for row in (want - got).elements()]
    return lines + [f"{what}: extra {row[:600]}" for row in (got - want).elements()]


class Readback:
    """One pass over publications."""

    def __init__(self, options):
        self.options = options
        self.wrong = []
        self.read = 0
        engines = {
            "pyiceberg": lambda: read_pyiceberg,
            "duckdb": lambda: DuckDb().read,
            "spark": lambda: Spark(options.spark_jar).read,
        }
        self.engines = {name: engines[name]() for name in options.engines.split(",")}

    def table(self, epoch, name, entry):
        found = {}
        for engine, read in self.engines.items():
            what = f"epoch {epoch} {name} by {engine}"
            try:
                found[engine] = read(entry)
            except Exception as error:  # whatever a reader throws is a finding
                self.wrong.append(f"{what}: {type(error).__name__}: {error}")
                continue
            self.read += 1
            if found[engine].num_rows != entry["rows"]:
                self.wrong.append(f"{what}: {found[engine].num_rows} rows, the root says {entry['rows']}")
            self.write(engine, epoch, name, found[engine])
        if self.options.check and found:
            self.check(epoch, name, found)

    def write(self, engine, epoch, name, table):
        if self.options.out:
            rows = rows_of(table)
            path = self.options.out / engine / str(epoch) / f"{name}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            path.write_text("".join(lines), encoding="utf-8")

    def check(self, epoch, name, found):
        (first, want), *others = found.items()
        rows = None
        for engine, got in others:
            if not equal(want, got):
                rows = rows or rows_of(want)
                self.wrong += differences(f"epoch {epoch} {name}, {engine} beside {first}", rows, rows_of(got))
        if self.options.tidemill:
            try:
                got = read_show(self.options.tidemill, self.options.store, name, epoch)
            except ValueError as error:
                self.wrong.append(str(error))
                return
            rows = rows or rows_of(want)
            self.wrong += differences(f"epoch {epoch} {name}, show beside {first}", rows, got)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--epochs", type=lambda text: [int(number) for number in text.split(",")])
    parser.add_argument("--newest", action="store_true", help="only the newest publication")
    parser.add_argument("--spread", type=int, help="so many publications between the oldest and the newest")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--spark-jar", type=Path, help="Iceberg's archive for the engine spark")
    parser.add_argument("--engines", default="pyiceberg,duckdb")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--tidemill", help="the binary, for --check")
    parser.add_argument("--recompute", action="store_true", help="recompute each epoch with that binary, too")
    options = parser.parse_args()
    if options.recompute and not options.tidemill:
        parser.error("--recompute takes --tidemill PATH")
    return options


def main():
    options = arguments()
    found = publications(options.store)
    if not found:
        raise SystemExit(f"{options.store} has no publication")
    epochs = options.epochs or sorted(found)
    if missing := [epoch for epoch in epochs if epoch not in found]:
        raise SystemExit(f"no root names a publication of {missing}; there are {sorted(found)}")
    readback = Readback(options)
    epochs = epochs[-1:] if options.newest else epochs
    if options.spread and len(epochs) > options.spread:
        steps = max(options.spread - 1, 1)
        epochs = [epochs[place * (len(epochs) - 1) // steps] for place in range(options.spread)]
    for epoch in epochs:
        for name, entry in sorted(found[epoch].items()):
            readback.table(epoch, name, entry)
        if options.recompute:
            readback.wrong += recompute(options.tidemill, options.store, epoch)
    for line in readback.wrong[:TOLD_MAX]:
        print(line, file=sys.stderr)
    if readback.wrong:
        print(f"{len(readback.wrong)} differences", file=sys.stderr)
        sys.exit(1)
    print(f"{len(epochs)} publications, {readback.read} tables read, all equal" if options.check
          else f"{readback.read} tables read")


if __name__ == "__main__":
    try:
        main()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            sys.exit(2)
        raise
