# @summary An instant in RFC 3339 with its offset from UTC, for example `2026-01-01T00:00:00+01:00`.
#
# It is a string: in YAML it has to stand in quotes, or YAML makes a time of it.
type Picoseg::Timestamp = Pattern[/\A\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})\z/]
