"""From records to tables, figures and one page.

collect.py    folders and archives → records
aggregate.py  records of one question → a figure with its spread and interval; when an order may be claimed
layouts.py    which rows and columns the table of a study has (layouts/*.yaml)
model.py      tables as data, whatever they are written as
studies.py    records of a study → its table, its orders and the published table beside it
single.py     records outside of studies → a table per metric, network, protocol and reference
figures.py    curves, bars and seam profiles
tables.py     records as one table, for the terminal
markup.py     tables as markdown, LaTeX and CSV
videos.py     samples for the page, by class and variant
page.py       one HTML file that needs no other (page.html)
write.py      the folder that holds all of it
numbers.py    pages of words whose figures are looked up in records
"""
