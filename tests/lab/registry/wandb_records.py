"""Prints the records of a run file of W&B as JSON, one a line, by W&B's own reader; runs where its library is."""

from __future__ import annotations

import json
import sys
from typing import Any

from google.protobuf.json_format import MessageToDict
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[import-not-found]
from wandb.sdk.internal.datastore import DataStore  # type: ignore[import-not-found]


def plain(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Keys and values of an update; the parts of a nested key stand with points between them."""
    return {".".join(item.get("nested_key") or [item["key"]]): json.loads(item["value_json"]) for item in items}


store = DataStore()
store.open_for_scan(sys.argv[1])
while (raw := store.scan_data()) is not None:
    record = Record()
    record.ParseFromString(raw)
    found = MessageToDict(record, preserving_proto_field_name=True)
    for holder in (found.get("summary", {}), found.get("run", {}).get("config", {})):
        holder["update"] = plain(holder.get("update", []))
    sys.stdout.write(f"{json.dumps(found)}\n")
