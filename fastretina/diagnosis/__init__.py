"""What limits training on a machine: measured, judged, drawn and remembered."""
