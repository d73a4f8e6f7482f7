"""Metrics as pure functions, one subject a file, and `registry`, the list of them by name.

`builtin` says what the package's own metrics need and mean; a metric of features takes two `Side`s and `MetricSettings`
and returns fields of a record.
"""
