"""Figures as JSON with everything that is needed to make them again.

record.py           one figure: made, written, read, checked (record.schema.json is the published schema)
archive.py          all records of a study in one file
frame.py            records as a tidy table for pandas, CSV and parquet
labels.py           how figures are called in tables
"""
