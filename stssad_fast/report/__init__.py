"""One self-contained HTML page about a tuning: what was found, how, and how good it is."""

from stssad_fast.report.case import ReportCase
from stssad_fast.report.page import render_case, write_combined, write_report

__all__ = ["ReportCase", "render_case", "write_combined", "write_report"]
