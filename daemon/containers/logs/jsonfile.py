"""Docker's `json-file` format: one JSON object a line, `{"log", "stream", "attrs", "time"}`."""

from __future__ import annotations

import json
from typing import Any

from daemon.containers.logs.entry import Entry


class JsonFormat:
    def split(self, data: bytes) -> tuple[list[bytes], bytes]:
        records = data.split(b"\n")
        rest = records.pop()
        return records, rest

    def last(self, data: bytes, *, whole: bool) -> tuple[list[bytes], bytes]:
        records, rest = self.split(data)
        return (records if whole else records[1:]), rest

    def parse(self, record: bytes) -> Entry | None:
        try:
            raw: dict[str, Any] = json.loads(record)
            return Entry(
                raw["stream"],
                raw["time"],
                raw["log"].encode("utf-8", "surrogatepass"),
                raw.get("attrs") or {},
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
