# @summary A whole number and one unit of `s`, `m`, `h`, `d`, for example `9h`.
type Picoseg::Duration = Pattern[/\A[0-9]+[smhd]\z/]
