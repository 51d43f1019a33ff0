"""The papers' tables and figures, as runs of many jobs that can stop and go on."""
