"""The setting of this machine, chosen by measurement: `zoo tune` and `--precision auto`."""
