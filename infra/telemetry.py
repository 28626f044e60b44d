"""Logs: one JSON object per line on standard error, through the standard library's logging.

A field is given with `extra`: `log.info("batch committed", extra={"commands": 17})`.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

# What every record carries by itself; whatever else it has was given with `extra`. `color_message` is uvicorn's: the same
# message again, for terminals.
OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """`at`, `level`, `process`, `pid`, `logger`, `message`, the extra fields, and `exception` where there is one."""

    def __init__(self, process_name: str) -> None:
        super().__init__()
        self._process_name = process_name

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "process": self._process_name,
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in OWN_FIELDS and name not in line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line, default=str, ensure_ascii=False)


def configure_logging(process_name: str, level: str = "INFO") -> None:
    """Send the logs of this process to standard error, in place of whatever was configured before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process_name))
    logging.basicConfig(level=level, handlers=[handler], force=True)
