"""The report of a run: one HTML file with curves, audio players and colored differences."""

from audiorl.report.page import AUDIO_MEGABYTES, REPORT_FILE, write_report
from audiorl.report.run_folder import Checkpoint, checkpoint_table, pick_checkpoint, read_run, run_checkpoints

__all__ = [
    "AUDIO_MEGABYTES",
    "REPORT_FILE",
    "Checkpoint",
    "checkpoint_table",
    "pick_checkpoint",
    "read_run",
    "run_checkpoints",
    "write_report",
]
