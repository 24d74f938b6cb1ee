"""A run as a page: `report.html`, one file that opens offline, and the same facts as JSON and as a terminal table."""

from rethink.observe.report.data import report_data
from rethink.observe.report.page import write_report
from rethink.observe.report.terminal import before_after_table

__all__ = ["before_after_table", "report_data", "write_report"]
