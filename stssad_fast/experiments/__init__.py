"""The paper's tables and figures, as runs that can stop and go on."""
