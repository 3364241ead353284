#!/usr/bin/env python3
"""Loads exported training sets as trainers do, and checks their shape.

    trainers.py DIR...        each made by `tidemill export ... --format trl --out DIR`

The JSONL and the Parquet file must load with `datasets` without a script, hold the same rows, as many as the
manifest says, and have the shape of TRL's conversational formats. Where TRL is installed too, its own check of
the format is asked. Ends with 1 at the first thing that is wrong.
"""

import hashlib
import json
import sys
from pathlib import Path

FIELDS = {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content"}
ROLES = {"system", "user", "assistant", "tool"}
MESSAGES = {"train.sft": ["messages"], "train.preferences": ["prompt", "chosen", "rejected"]}


def expect(holds, what):
    if not holds:
        raise SystemExit(f"wrong: {what}")


def check_message(message, where):
    expect(set(message) == FIELDS, f"{where}: the fields {sorted(message)}")
    expect(message["role"] in ROLES, f"{where}: the role {message['role']}")
    for call in message["tool_calls"] or []:
        expect(set(call) == {"id", "type", "function"}, f"{where}: the tool call {call}")
        expect(set(call["function"]) == {"name", "arguments"}, f"{where}: the function {call['function']}")
        arguments = call["function"]["arguments"]
        expect(arguments is None or isinstance(arguments, str), f"{where}: arguments that are no text")


def check_row(row, table, where):
    for column in MESSAGES[table]:
        expect(isinstance(row[column], list), f"{where}: {column} is no list")
        for message in row[column]:
            check_message(message, f"{where}, {column}")
    for column in MESSAGES[table]:
        if column != "prompt":
            last = row[column][-1]["role"] if row[column] else None
            expect(last == "assistant", f"{where}: {column} ends with {last}")
    tools = row["tools"]
    expect(tools is None or json.loads(tools) is not None, f"{where}: tools")


def check_with_trl(data, table):
    try:
        from trl import is_conversational
    except ImportError:
        return "TRL is not installed, its own check was not asked"
    expect(len(data) == 0 or is_conversational(data[0]), f"{table}: TRL does not take it for conversations")
    return "TRL takes it"


def check(folder):
    from datasets import load_dataset

    manifest_path = next(folder.glob("*.manifest.json"))
    manifest = json.loads(manifest_path.read_text())
    table = manifest["table"]
    paths = {suffix: str(folder / f"{table}.{suffix}") for suffix in ("jsonl", "parquet")}
    for file in manifest["files"]:
        digest = hashlib.sha256((folder / file["name"]).read_bytes()).hexdigest()
        expect(digest == file["sha256"], f"the digest of {file['name']}")
    expect(manifest["rows"] > 0, f"{table} has no rows: nothing was tried")
    lines = load_dataset("json", data_files=paths["jsonl"], split="train")
    columns = load_dataset("parquet", data_files=paths["parquet"], split="train")
    expect(len(lines) == len(columns) == manifest["rows"], f"{table}: {len(lines)}, {len(columns)} rows")
    for number, (line, row) in enumerate(zip(lines, columns)):
        check_row(row, table, f"{table}, row {number}")
        same = json.dumps(line, sort_keys=True) == json.dumps(row, sort_keys=True)
        expect(same, f"{table}, row {number}: JSONL and Parquet differ")
    print(f"{table}: {len(lines)} rows load; {check_with_trl(columns, table)}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    for argument in sys.argv[1:]:
        check(Path(argument))
